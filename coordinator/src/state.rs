//! What is known: a mirror in memory of what the store holds. It is changed in one place, [`crate::draft`], and stored
//! before it is seen.

use std::collections::{BTreeMap, VecDeque};

use secateur_common::{DeviceId, FleetSpec, Generation, ModelName, VariantId};
use secateur_plan::{Assignment, Ladder, Plan, Reason};
use serde::{Deserialize, Serialize};

use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::store::records::{self, Counters};
use crate::store::{Store, StoreError, migrate};

/// What is known, as stored.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) models: BTreeMap<ModelName, ModelRecord>,
    pub(crate) devices: BTreeMap<DeviceId, Box<DeviceRecord>>,
    /// What each device should run: together, the newest plan.
    pub(crate) assigned: BTreeMap<DeviceId, Box<Assigned>>,
    pub(crate) fleet: FleetSpec,
    /// The newest plan last, with those before it that can still be told.
    pub(crate) plans: VecDeque<PlanRecord>,
    pub(crate) counters: Counters,
}

/// What one device should run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) device: DeviceId,
    pub(crate) assignment: Assignment,
    /// The device's last moves and failures, newest first.
    pub(crate) history: Vec<String>,
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
        self.history.insert(0, line);
        self.history.truncate(HISTORY);
    }
}

impl State {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        migrate(store)?;
        let models: Vec<ModelRecord> = records::all(store)?;
        let devices: Vec<DeviceRecord> = records::all(store)?;
        let assigned: Vec<Assigned> = records::all(store)?;
        Ok(Self {
            models: models.into_iter().map(|model| (model.ladder.model.clone(), model)).collect(),
            devices: devices.into_iter().map(|device| (device.view.id, Box::new(device))).collect(),
            assigned: assigned.into_iter().map(|assigned| (assigned.device, Box::new(assigned))).collect(),
            fleet: records::all(store)?.pop().unwrap_or_default(),
            plans: records::all(store)?.into(),
            counters: records::all(store)?.pop().unwrap_or_default(),
        })
    }

    /// The assignment of a device in the newest plan.
    pub(crate) fn assignment(&self, id: DeviceId) -> Option<&Assignment> {
        self.assigned.get(&id).map(|assigned| &assigned.assignment)
    }

    /// The newest plan's head; of id 0 where there is none yet.
    pub(crate) fn plan(&self) -> PlanRecord {
        self.plans.back().cloned().unwrap_or_default()
    }

    /// The newest plan, whole.
    pub(crate) fn whole_plan(&self) -> Plan {
        let PlanRecord { id, parent, .. } = self.plan();
        let each = self.assigned.iter().map(|(id, assigned)| (*id, assigned.assignment.clone()));
        Plan { id, parent, assignments: each.collect() }
    }

    pub(crate) fn ladder(&self, model: &ModelName) -> Option<&Ladder> {
        self.models.get(model).map(|model| &model.ladder)
    }

    /// What a plan for `device` goes on from: its assignment, unless the device has gone further.
    pub(crate) fn parent(&self, device: &DeviceRecord) -> Option<Assignment> {
        let (active, accepted) = (device.active.map(|(variant, _)| variant), device.accepted);
        let Some(mut assignment) = self.assignment(device.view.id).cloned() else {
            return (active.is_some() || accepted > Generation(0)).then(|| self.adopted(active, accepted));
        };
        // A device that has accepted a newer generation than this coordinator remembers would refuse an older one.
        if accepted > assignment.generation {
            assignment.generation = if active == assignment.variant { accepted } else { accepted.next() };
        }
        Some(assignment)
    }

    /// What a device brought along that this coordinator had no plan for.
    fn adopted(&self, variant: Option<VariantId>, generation: Generation) -> Assignment {
        let holds = |model: &ModelRecord| variant.is_some_and(|variant| model.ladder.find(variant).is_some());
        let model = self.models.iter().find(|(_, model)| holds(model)).map(|(name, _)| name.clone());
        Assignment {
            group: None,
            model,
            variant,
            generation,
            budget: secateur_common::Budget::default(),
            feasible: false,
            reason: Reason::NoGroup,
        }
    }
}
