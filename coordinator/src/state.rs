//! What is known: a mirror in memory of what the store holds. It is changed in one place, [`crate::draft`], and stored
//! before it is seen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use secateur_common::{DeviceId, FleetSpec, Generation, Metric, ModelName, Name, VariantId};
use secateur_plan::rollout::Rollout;
use secateur_plan::{Assignment, Classes, Ladder, Plan, Reason};
use serde::{Deserialize, Serialize};

use crate::alike::Alike;
use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::journal::{Journal, Reports};
use crate::store::records::{self, Counters};
use crate::store::{Store, StoreError, migrate};

/// What is known, as stored.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) models: BTreeMap<ModelName, ModelRecord>,
    pub(crate) devices: BTreeMap<DeviceId, Box<DeviceRecord>>,
    /// What devices of one class measured, taken of `devices`.
    pub(crate) classes: Classes,
    /// What each device should run: together, the newest plan.
    pub(crate) assigned: BTreeMap<DeviceId, Assigned>,
    /// Of what devices reported, what is not in their stored records.
    pub(crate) journal: Journal,
    pub(crate) fleet: FleetSpec,
    /// The newest plan last, with those before it that can still be told.
    pub(crate) plans: VecDeque<PlanRecord>,
    pub(crate) counters: Counters,
    /// By the group that stages its changes.
    pub(crate) rollouts: BTreeMap<Name, Rollout>,
}

/// What one device should run. Devices that are alike share it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) device: DeviceId,
    #[serde(with = "shared")]
    pub(crate) assignment: Arc<Assignment>,
    /// The device's last moves and failures, newest first.
    #[serde(with = "shared")]
    pub(crate) history: Arc<Vec<String>>,
}

/// Serde for what is shared in memory and stored with each.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, s: S) -> Result<S::Ok, S::Error> {
        T::serialize(value, s)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(d).map(Arc::new)
    }
}

/// What of devices' assignments was alike lately.
#[derive(Debug, Default)]
pub(crate) struct Likenesses {
    assignments: Alike<Arc<Assignment>>,
    histories: Alike<Arc<Vec<String>>>,
}

impl Likenesses {
    /// As `assigned`, sharing with those that are alike.
    pub(crate) fn share(&mut self, assigned: Assigned) -> Assigned {
        let Assigned { device, assignment, history } = assigned;
        let (assignment, history) = (self.assignments.one(assignment), self.histories.one(history));
        Assigned { device, assignment, history }
    }
}

/// A plan's head: its assignments are each device's own, and what it changed is in [`Undo`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PlanRecord {
    pub(crate) id: u64,
    pub(crate) parent: u64,
    pub(crate) cause: String,
    /// Assignments that it changed.
    pub(crate) changed: u64,
}

/// What leads from a plan back to its parent: the assignments that it replaced; none where a device had none.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Undo {
    pub(crate) plan: u64,
    pub(crate) before: Vec<(DeviceId, Option<Assignment>)>,
}

/// Lines of history kept a device.
const HISTORY: usize = 20;

impl Assigned {
    /// Writes a line into the history.
    pub(crate) fn note(&mut self, mut line: String) {
        line.truncate(line.floor_char_boundary(secateur_common::caps::TEXT_BYTES));
        line.shrink_to_fit();
        let older = self.history.iter().take(HISTORY - 1).cloned();
        self.history = Arc::new(std::iter::once(line).chain(older).collect());
    }
}

/// The most that who is assigned this may receive in a day.
pub(crate) fn cap(assignment: &Assignment) -> Option<u64> {
    Some(assignment.budget.get(Metric::DownloadBytesPerDay)? as u64)
}

impl State {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        migrate(store)?;
        let models: Vec<ModelRecord> = records::all(store)?;
        let rollouts: Vec<Rollout> = records::all(store)?;
        let mut state = Self {
            models: models.into_iter().map(|model| (model.ladder.model.clone(), model)).collect(),
            fleet: records::all(store)?.pop().unwrap_or_default(),
            plans: records::all(store)?.into(),
            counters: records::all(store)?.pop().unwrap_or_default(),
            rollouts: rollouts.into_iter().map(|rollout| (rollout.group.clone(), rollout)).collect(),
            ..Self::default()
        };
        records::each(store, |device: DeviceRecord| {
            state.devices.insert(device.view.id, Box::new(device));
        })?;
        let mut alike = Likenesses::default();
        records::each(store, |assigned: Assigned| {
            state.assigned.insert(assigned.device, alike.share(assigned));
        })?;
        records::each(store, |reports: Reports| state.hear(reports))?;
        state.classes = state.devices.values().map(|device| &device.view).collect();
        Ok(state)
    }

    /// Takes in reports that were stored after their devices' records.
    fn hear(&mut self, reports: Reports) {
        self.journal.add(&reports);
        for told in reports.told {
            let device = self.devices.get_mut(&told.device);
            if let Some(device) = device
                && device.report(told.heard)
            {
                device.sent = told.sent;
            }
        }
    }

    /// Shows a device as it is now.
    pub(crate) fn show_device(&mut self, device: Box<DeviceRecord>) {
        if let Some(before) = self.devices.get(&device.view.id)
            && before.view.labels != device.view.labels
        {
            self.classes.forget(&before.view);
        }
        self.classes.learn(&device.view);
        self.devices.insert(device.view.id, device);
    }

    /// The assignment of a device in the newest plan.
    pub(crate) fn assignment(&self, id: DeviceId) -> Option<&Assignment> {
        self.assigned.get(&id).map(|assigned| &*assigned.assignment)
    }

    /// The most that a device may receive in a day.
    pub(crate) fn cap(&self, id: DeviceId) -> Option<u64> {
        self.assignment(id).and_then(cap)
    }

    /// The newest plan's head; of id 0 where there is none yet.
    pub(crate) fn plan(&self) -> PlanRecord {
        self.plans.back().cloned().unwrap_or_default()
    }

    /// The newest plan, whole.
    pub(crate) fn whole_plan(&self) -> Plan {
        let PlanRecord { id, parent, .. } = self.plan();
        let each = self.assigned.iter().map(|(id, assigned)| (*id, (*assigned.assignment).clone()));
        Plan { id, parent, assignments: each.collect() }
    }

    pub(crate) fn ladder(&self, model: &ModelName) -> Option<&Ladder> {
        self.models.get(model).map(|model| &model.ladder)
    }

    /// What the devices of a group are assigned.
    pub(crate) fn members(&self, group: &Name) -> impl Iterator<Item = &Assigned> {
        let member = |assigned: &&Assigned| assigned.assignment.group.as_ref() == Some(group);
        self.assigned.values().filter(member)
    }

    /// A device that goes back to a variant of `model` if its rollout is halted.
    pub(crate) fn goes_back_to(&self, model: &ModelName) -> Option<DeviceId> {
        let back = |assigned: &Assigned| {
            let before = assigned.assignment.trial.as_ref().and_then(|trial| trial.before.as_ref());
            before.is_some_and(|(before, _)| before == model)
        };
        self.assigned.values().find(|assigned| back(assigned)).map(|assigned| assigned.device)
    }

    /// The model that has `variant` as a rung.
    pub(crate) fn model_of(&self, variant: VariantId) -> Option<&ModelName> {
        self.models.iter().find(|(_, model)| model.ladder.find(variant).is_some()).map(|(name, _)| name)
    }

    /// What an update for `device` can start from: of what it holds, the variants that are known here.
    pub(crate) fn bases(&self, device: &DeviceRecord) -> Vec<VariantId> {
        device.held.iter().copied().filter(|held| self.model_of(*held).is_some()).collect()
    }

    /// What a plan for `device` goes on from: its assignment. A device that has accepted a newer generation than that is
    /// ahead of the store, which was restored from a backup: it is held at what it has.
    pub(crate) fn parent(&self, device: &DeviceRecord) -> Option<Arc<Assignment>> {
        let known = self.assigned.get(&device.view.id).map(|assigned| &assigned.assignment);
        let newest = known.map_or(Generation(0), |known| known.generation);
        if device.accepted <= newest {
            return known.cloned();
        }
        let variant = device.active.map(|(variant, _)| variant);
        Some(Arc::new(Assignment {
            group: known.and_then(|known| known.group.clone()),
            model: variant.and_then(|variant| self.model_of(variant)).cloned(),
            variant,
            generation: device.accepted,
            budget: known.map(|known| known.budget.clone()).unwrap_or_default(),
            feasible: false,
            reason: Reason::Restored,
            trial: None,
        }))
    }
}
