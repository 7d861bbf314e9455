//! The next state while it is made: what differs from the present one, and what is stored for it. Changes that come
//! together make one draft; it is planned, stored in one commit, and then shown.

use std::collections::{BTreeMap, BTreeSet};

use secateur_common::{DeviceId, FleetSpec, ModelName};
use secateur_plan::{Assignment, RungRequest, assign, faults};

use crate::CoordinatorError;
use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::lines::Lines;
use crate::state::{Assigned, PlanRecord, State, Undo};
use crate::store::Change;
use crate::store::records::{self, Counters};

/// A draft over the present state.
pub(crate) struct Draft<'s> {
    now: &'s State,
    next: Next,
    due: BTreeSet<DeviceId>,
    all_due: bool,
    requests: Vec<RungRequest>,
}

/// What differs.
#[derive(Default)]
pub(crate) struct Next {
    devices: BTreeMap<DeviceId, Box<DeviceRecord>>,
    assigned: BTreeMap<DeviceId, Box<Assigned>>,
    /// None where a model goes.
    models: BTreeMap<ModelName, Option<ModelRecord>>,
    fleet: Option<FleetSpec>,
    plan: Option<(PlanRecord, Undo)>,
    counters: Option<Counters>,
    /// Changes of the store alone.
    stored: Vec<Change>,
}

/// Plans that can be told, at most; and how many assignments they may have changed, altogether.
const PLANS: usize = 1000;
const UNDONE: u64 = 200_000;

impl<'s> Draft<'s> {
    pub(crate) fn new(now: &'s State) -> Self {
        Self { now, next: Next::default(), due: BTreeSet::new(), all_due: false, requests: Vec::new() }
    }

    pub(crate) fn device(&self, id: DeviceId) -> Option<&DeviceRecord> {
        self.next.devices.get(&id).or_else(|| self.now.devices.get(&id)).map(|device| &**device)
    }

    /// A device's record, to be changed.
    ///
    /// # Errors
    /// Where there is no such device.
    pub(crate) fn device_mut(&mut self, id: DeviceId) -> Result<&mut DeviceRecord, CoordinatorError> {
        change(&mut self.next.devices, &self.now.devices, id)
            .ok_or_else(|| CoordinatorError::NotFound(format!("device {id}")))
    }

    /// How many devices there are.
    pub(crate) fn devices(&self) -> usize {
        let new = self.next.devices.keys().filter(|id| !self.now.devices.contains_key(id)).count();
        self.now.devices.len() + new
    }

    /// Adds a device that is not known yet.
    pub(crate) fn add_device(&mut self, device: DeviceRecord) {
        self.next.devices.insert(device.view.id, Box::new(device));
    }

    /// Writes a line into a device's history.
    pub(crate) fn note(&mut self, id: DeviceId, line: String) {
        if let Some(assigned) = change(&mut self.next.assigned, &self.now.assigned, id) {
            assigned.note(line);
        }
    }

    /// This device is planned again before the draft is stored.
    pub(crate) fn due(&mut self, id: DeviceId) {
        self.due.insert(id);
    }

    /// All devices are.
    pub(crate) fn all_due(&mut self) {
        self.all_due = true;
    }

    pub(crate) fn fleet(&self) -> &FleetSpec {
        self.next.fleet.as_ref().unwrap_or(&self.now.fleet)
    }

    pub(crate) fn set_fleet(&mut self, fleet: FleetSpec) {
        self.next.fleet = Some(fleet);
        self.all_due = true;
    }

    pub(crate) fn model(&self, name: &ModelName) -> Option<&ModelRecord> {
        match self.next.models.get(name) {
            Some(changed) => changed.as_ref(),
            None => self.now.models.get(name),
        }
    }

    pub(crate) fn set_model(&mut self, model: ModelRecord) {
        self.next.models.insert(model.ladder.model.clone(), Some(model));
        self.all_due = true;
    }

    /// Drops a model that no group names.
    pub(crate) fn remove_model(&mut self, name: &ModelName) {
        self.next.models.insert(name.clone(), None);
    }

    /// Changes of the store that are no part of the state.
    pub(crate) fn store(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.next.stored.extend(changes);
    }

    /// Plans what is due: each device by itself.
    pub(crate) fn plan(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        if std::mem::take(&mut self.all_due) {
            due.extend(self.now.devices.keys().chain(self.next.devices.keys()));
        }
        let (mut before, mut moved, mut counters) = (Vec::new(), 0, self.now.counters);
        for id in due {
            let Some(assignment) = self.replanned(id) else { continue };
            let old = self.now.assignment(id);
            let moves = moves(old, &assignment);
            before.push((id, old.cloned()));
            moved += usize::from(moves);
            counters.reprunes += u64::from(moves && assignment.reason.is_reprune());
            let line = format!("generation {}: {}", assignment.generation, assignment.reason);
            match change(&mut self.next.assigned, &self.now.assigned, id) {
                Some(assigned) => assigned.assignment = assignment,
                None => {
                    let first = Assigned { device: id, assignment, history: Vec::new() };
                    self.next.assigned.insert(id, Box::new(first));
                }
            }
            if moves {
                self.note(id, line);
            }
        }
        if before.is_empty() {
            return;
        }
        let cause = match moved {
            0 => "reasons or limits changed, nobody moves".to_owned(),
            n => format!("{n} device(s) move"),
        };
        let parent = self.now.plan().id;
        let plan = PlanRecord { id: parent + 1, parent, cause, changed: before.len() as u64 };
        self.next.counters = (counters != self.now.counters).then_some(counters);
        self.next.plan = Some((plan, Undo { plan: parent + 1, before }));
    }

    /// A device's new assignment, where it differs from the one it has.
    fn replanned(&mut self, id: DeviceId) -> Option<Assignment> {
        let device = self.device(id)?;
        let parent = self.now.parent(device);
        let ladder = |model: &ModelName| self.model(model).map(|model| &model.ladder);
        let (assignment, request) = assign(self.fleet(), &device.view, ladder, parent.as_ref());
        for fault in faults(&assignment, parent.as_ref(), ladder) {
            tracing::error!(%id, fault, "the plan has a defect");
        }
        if let Some(request) = request.filter(|request| !self.requests.contains(request)) {
            self.requests.push(request);
        }
        (self.now.assignment(id) != Some(&assignment)).then_some(assignment)
    }

    /// What was drafted, and the rungs that the plan asks for.
    pub(crate) fn finish(self) -> (Next, Vec<RungRequest>) {
        (self.next, self.requests)
    }
}

impl Next {
    /// What is stored for it: one batch.
    pub(crate) fn changes(&mut self, now: &State, lines: &Lines) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.stored);
        for device in self.devices.values_mut() {
            device.sent = lines.sent(device.view.id);
            changes.push(records::put(&**device));
        }
        changes.extend(self.assigned.values().map(|assigned| records::put(&**assigned)));
        changes.extend(self.models.iter().map(|(name, model)| match model {
            Some(model) => records::put(model),
            None => records::delete_model(name),
        }));
        changes.extend(self.fleet.iter().map(records::put));
        changes.extend(self.counters.iter().map(records::put));
        if let Some((plan, undo)) = &self.plan {
            changes.extend([records::put(plan), records::put(undo)]);
            let surplus = surplus(now, plan);
            changes.extend(now.plans.iter().take(surplus).flat_map(|old| records::delete_plan(old.id)));
        }
        changes
    }

    /// Shows it: to be called when it is stored. Tells the devices whose assignments changed.
    pub(crate) fn show(self, state: &mut State) -> Vec<DeviceId> {
        let told = self.assigned.keys().copied().collect();
        state.devices.extend(self.devices);
        state.assigned.extend(self.assigned);
        for (name, model) in self.models {
            match model {
                Some(model) => drop(state.models.insert(name, model)),
                None => drop(state.models.remove(&name)),
            }
        }
        if let Some(fleet) = self.fleet {
            state.fleet = fleet;
        }
        if let Some(counters) = self.counters {
            state.counters = counters;
        }
        if let Some((plan, _)) = self.plan {
            let surplus = surplus(state, &plan);
            state.plans.drain(..surplus);
            tracing::info!(plan = plan.id, cause = plan.cause, "planned");
            state.plans.push_back(plan);
        }
        told
    }
}

/// How many of the oldest plans give way to the newest.
fn surplus(now: &State, newest: &PlanRecord) -> usize {
    let mut undone: u64 = newest.changed + now.plans.iter().map(|plan| plan.changed).sum::<u64>();
    let mut kept = now.plans.len() + 1;
    let goes = |plan: &&PlanRecord| {
        let goes = kept > PLANS || undone > UNDONE;
        (kept, undone) = (kept - 1, undone - plan.changed);
        goes
    };
    now.plans.iter().take_while(goes).count()
}

/// Whether an assignment gives a device another variant, or tells it of another outcome.
pub(crate) fn moves(before: Option<&Assignment>, next: &Assignment) -> bool {
    !before.is_some_and(|before| before.variant == next.variant && before.feasible == next.feasible)
}

/// A value to be changed: in `next`, copied there from `now` at its first change.
fn change<'n, T: Clone>(
    next: &'n mut BTreeMap<DeviceId, Box<T>>,
    now: &BTreeMap<DeviceId, Box<T>>,
    id: DeviceId,
) -> Option<&'n mut T> {
    use std::collections::btree_map::Entry;
    match next.entry(id) {
        Entry::Occupied(changed) => Some(changed.into_mut()),
        Entry::Vacant(vacant) => now.get(&id).map(|now| &mut **vacant.insert(now.clone())),
    }
}
