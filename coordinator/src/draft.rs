//! The next state while it is made: what differs from the present one, and what is stored for it. Changes that come
//! together make one draft; it is planned, stored in one commit, and then shown.

mod next;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secateur_common::{DeviceId, FleetSpec, Heard, ModelName, Name, Report, VariantId};
use secateur_plan::rollout::Rollout;
use secateur_plan::{Assignment, DeviceView, Reason, RungRequest, assign, faults, pruning_is_to_blame};

pub(crate) use self::next::Next;
use crate::CoordinatorError;
use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::journal::Told;
use crate::lines::Lines;
use crate::staging::{self, Staged};
use crate::state::{Assigned, Likenesses, PlanRecord, State, Undo};
use crate::store::Change;

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
        self.next.rewritten.insert(id);
        self.reporting(id)
    }

    /// The same, where only what it reported changes.
    fn reporting(&mut self, id: DeviceId) -> Result<&mut DeviceRecord, CoordinatorError> {
        let device = change(&mut self.next.devices, &self.now.devices, id);
        device.map(|device| &mut **device).ok_or_else(|| CoordinatorError::NotFound(format!("device {id}")))
    }

    /// Takes in what a device reported, the oldest first, and plans it again.
    ///
    /// # Errors
    /// Where there is no such device.
    pub(crate) fn report(&mut self, id: DeviceId, reports: Vec<Report>) -> Result<(), CoordinatorError> {
        let (at_unix_s, sent) = (self.unix_s, self.lines.sent(id));
        self.reporting(id)?.sent = sent;
        for report in reports {
            let heard = Heard { at_unix_s, report };
            if self.reporting(id)?.report(heard.clone()) {
                self.next.reports.told.push(Told { device: id, sent, heard });
            }
        }
        self.due(id);
        Ok(())
    }

    /// How many devices there are.
    pub(crate) fn devices(&self) -> usize {
        let new = self.next.devices.keys().filter(|id| !self.now.devices.contains_key(id)).count();
        self.now.devices.len() + new
    }

    /// Adds a device that is not known yet.
    pub(crate) fn add_device(&mut self, device: DeviceRecord) {
        self.next.rewritten.insert(device.view.id);
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
        let mut alike = Likenesses::default();
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
            let assigned = self.next.assigned.remove(&id).or_else(|| self.now.assigned.get(&id).cloned());
            let history = assigned.map(|assigned| assigned.history).unwrap_or_default();
            let mut assigned = Assigned { device: id, assignment: Arc::new(assignment), history };
            if moves {
                assigned.note(line);
            }
            self.next.assigned.insert(id, alike.share(assigned));
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
    pub(crate) fn parent(&self, id: DeviceId) -> Option<Arc<Assignment>> {
        let mut parent = self.now.parent(self.device(id)?)?;
        if parent.reason == Reason::Restored && self.held_released {
            Arc::make_mut(&mut parent).reason = Reason::Kept;
        }
        Some(parent)
    }

    /// What the planner wants for a device.
    fn wanted(&mut self, id: DeviceId) -> Option<Assignment> {
        let (device, parent) = (self.device(id)?, self.parent(id));
        let ladder = |model: &ModelName| self.model(model).map(|model| &model.ladder);
        let plan = |device: &DeviceView| {
            let class = self.now.classes.of(&device.labels);
            assign(self.fleet(), device, class, ladder, parent.as_deref())
        };
        let (mut assignment, mut request) = plan(&device.view);
        if assignment.reason.is_drift()
            && let Some(variant) = assignment.variant
            && self.pruning_is_to_blame(&assignment, variant)
        {
            (assignment, request) = plan(&device.view.blaming(variant));
        }
        for fault in faults(&assignment, parent.as_deref(), ladder) {
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
        changed.map(|(id, assigned)| (id, (*assigned.assignment).clone())).collect()
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

/// Whether an assignment gives a device another variant, or tells it of another outcome.
pub(crate) fn moves(before: Option<&Assignment>, next: &Assignment) -> bool {
    !before.is_some_and(|before| before.variant == next.variant && before.feasible == next.feasible)
}

/// A value to be changed: in `next`, copied there from `now` at its first change.
fn change<'n, T: Clone>(
    next: &'n mut BTreeMap<DeviceId, T>,
    now: &BTreeMap<DeviceId, T>,
    id: DeviceId,
) -> Option<&'n mut T> {
    use std::collections::btree_map::Entry;
    match next.entry(id) {
        Entry::Occupied(changed) => Some(changed.into_mut()),
        Entry::Vacant(vacant) => now.get(&id).map(|now| vacant.insert(now.clone())),
    }
}
