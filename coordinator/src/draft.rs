//! The next state while it is made: what differs from the present one, and what is stored for it. Changes that come
//! together make one draft; it is planned, stored in one commit, and then shown.

use std::collections::{BTreeMap, BTreeSet};

use secateur_common::{DeviceId, FleetSpec, ModelName, Name, VariantId};
use secateur_plan::rollout::Rollout;
use secateur_plan::{Assignment, DeviceView, Reason, RungRequest, assign, faults, pruning_is_to_blame};

use crate::CoordinatorError;
use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::lines::Lines;
use crate::staging::{self, Staged};
use crate::state::{Assigned, PlanRecord, State, Undo};
use crate::store::Change;
use crate::store::records::{self, Counters};

/// A draft over the present state.
pub(crate) struct Draft<'s> {
    now: &'s State,
    lines: &'s Lines,
    unix_s: u64,
    next: Next,
    due: BTreeSet<DeviceId>,
    all_due: bool,
    /// Groups whose rollouts move on.
    looked_at: BTreeSet<Name>,
    /// Devices that are ahead of the store may move again.
    held_released: bool,
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
    /// None where a group stages nothing any more.
    rollouts: BTreeMap<Name, Option<Rollout>>,
    /// Changes of the store alone.
    stored: Vec<Change>,
}

/// Plans that can be told, at most; and how many assignments they may have changed, altogether.
const PLANS: usize = 1000;
const UNDONE: u64 = 200_000;

impl<'s> Draft<'s> {
    /// Over `now`, `unix_s` seconds after the Unix epoch.
    pub(crate) fn new(now: &'s State, lines: &'s Lines, unix_s: u64) -> Self {
        Self {
            now,
            lines,
            unix_s,
            next: Next::default(),
            due: BTreeSet::new(),
            all_due: false,
            looked_at: BTreeSet::new(),
            held_released: false,
            requests: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> &State {
        self.now
    }

    pub(crate) fn unix_s(&self) -> u64 {
        self.unix_s
    }

    pub(crate) fn is_connected(&self, id: DeviceId) -> bool {
        self.lines.is_open(id)
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

    /// What an operator declares; his word also lets devices move that are ahead of the store.
    pub(crate) fn set_fleet(&mut self, fleet: FleetSpec) {
        let stages =
            |group: &Name| fleet.groups.iter().any(|g| g.name == *group && fleet.rollout_of(g).is_some());
        let gone = self.now.rollouts.keys().filter(|group| !stages(group)).map(|group| (group.clone(), None));
        self.next.rollouts.extend(gone);
        self.next.fleet = Some(fleet);
        (self.all_due, self.held_released) = (true, true);
    }

    pub(crate) fn rollout(&self, group: &Name) -> Option<&Rollout> {
        match self.next.rollouts.get(group) {
            Some(changed) => changed.as_ref(),
            None => self.now.rollouts.get(group),
        }
    }

    pub(crate) fn set_rollout(&mut self, rollout: Rollout) {
        self.next.rollouts.insert(rollout.group.clone(), Some(rollout));
    }

    /// The rollout of `group` moves on before the draft is stored: all of the group's devices are planned.
    pub(crate) fn look_at(&mut self, group: Name) {
        self.due.extend(self.now.members(&group).map(|assigned| assigned.device));
        self.looked_at.insert(group);
    }

    pub(crate) fn looks_at(&self, group: &Name) -> bool {
        self.looked_at.contains(group)
    }

    /// Lets devices move that are ahead of the store; how many.
    pub(crate) fn release_held(&mut self) -> u64 {
        let held = self.now.assigned.values().filter(|held| held.assignment.reason == Reason::Restored);
        let held: Vec<DeviceId> = held.map(|held| held.device).collect();
        self.due.extend(&held);
        self.held_released = true;
        held.len() as u64
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
            self.looked_at
                .extend(self.fleet().groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>());
        }
        let wanted = due.into_iter().filter_map(|id| Some((id, self.wanted(id)?))).collect();
        let Staged { assigned, rollouts } = staging::staged(self, wanted);
        rollouts.into_iter().for_each(|rollout| self.set_rollout(rollout));
        self.assign(assigned);
    }

    /// Drafts a plan of those assignments that differ from the present ones.
    fn assign(&mut self, assigned: Vec<(DeviceId, Assignment)>) {
        let (mut before, mut moved, mut counters) = (Vec::new(), 0, self.now.counters);
        for (id, assignment) in assigned {
            let old = self.now.assignment(id);
            if old == Some(&assignment) {
                continue;
            }
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
        let (parent, id) = (self.now.plan().id, self.next_plan());
        let plan = PlanRecord { id, parent, cause, changed: before.len() as u64 };
        self.next.counters = (counters != self.now.counters).then_some(counters);
        self.next.plan = Some((plan, Undo { plan: id, before }));
    }

    /// The number of the plan that the draft may hold.
    pub(crate) fn next_plan(&self) -> u64 {
        self.now.plan().id + 1
    }

    /// What a device's plan goes on from.
    pub(crate) fn parent(&self, id: DeviceId) -> Option<Assignment> {
        let mut parent = self.now.parent(self.device(id)?)?;
        if parent.reason == Reason::Restored && self.held_released {
            parent.reason = Reason::Kept;
        }
        Some(parent)
    }

    /// What the planner wants for a device.
    fn wanted(&mut self, id: DeviceId) -> Option<Assignment> {
        let (device, parent) = (self.device(id)?, self.parent(id));
        let ladder = |model: &ModelName| self.model(model).map(|model| &model.ladder);
        let plan = |device: &DeviceView| assign(self.fleet(), device, ladder, parent.as_ref());
        let (mut assignment, mut request) = plan(&device.view);
        if assignment.reason.is_drift()
            && let Some(variant) = assignment.variant
            && self.pruning_is_to_blame(&assignment, variant)
        {
            (assignment, request) = plan(&device.view.blaming(variant));
        }
        for fault in faults(&assignment, parent.as_ref(), ladder) {
            tracing::error!(%id, fault, "the plan has a defect");
        }
        if let Some(request) = request.filter(|request| !self.requests.contains(request)) {
            self.requests.push(request);
        }
        Some(assignment)
    }

    /// The assignments that it changes.
    pub(crate) fn assigned(self) -> BTreeMap<DeviceId, Assignment> {
        let changed = self.next.assigned.into_iter();
        changed.map(|(id, assigned)| (id, assigned.assignment)).collect()
    }

    /// Whether devices of the group that run less pruned variants do not drift with the one of `assignment`.
    fn pruning_is_to_blame(&self, assignment: &Assignment, variant: VariantId) -> bool {
        let model = assignment.model.as_ref().and_then(|model| self.model(model));
        let (Some(model), Some(group)) = (model, &assignment.group) else { return false };
        let others = self
            .now
            .members(group)
            .filter_map(|other| Some((&self.device(other.device)?.view, other.assignment.variant?)));
        pruning_is_to_blame(&model.ladder, variant, others)
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
        changes.extend(self.rollouts.iter().map(|(group, rollout)| match rollout {
            Some(rollout) => records::put(rollout),
            None => records::delete_rollout(group),
        }));
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
        for (group, rollout) in self.rollouts {
            match rollout {
                Some(rollout) => drop(state.rollouts.insert(group, rollout)),
                None => drop(state.rollouts.remove(&group)),
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
