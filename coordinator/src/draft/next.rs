//! What a draft changes: what is stored for it, in one batch, and how it is shown once it is.

use std::collections::{BTreeMap, BTreeSet};

use secateur_common::{DeviceId, FleetSpec, ModelName, Name};
use secateur_plan::rollout::Rollout;

use crate::catalog::ModelRecord;
use crate::inventory::DeviceRecord;
use crate::journal::Reports;
use crate::lines::Lines;
use crate::state::{Assigned, PlanRecord, State, Undo};
use crate::store::Change;
use crate::store::records::{self, Counters};

/// What differs.
#[derive(Default)]
pub(crate) struct Next {
    pub(super) devices: BTreeMap<DeviceId, Box<DeviceRecord>>,
    /// Those of which more changed than what they reported.
    pub(super) rewritten: BTreeSet<DeviceId>,
    pub(super) reports: Reports,
    /// The journal was full, and begins anew.
    folded: bool,
    pub(super) assigned: BTreeMap<DeviceId, Assigned>,
    /// None where a model goes.
    pub(super) models: BTreeMap<ModelName, Option<ModelRecord>>,
    pub(super) fleet: Option<FleetSpec>,
    pub(super) plan: Option<(PlanRecord, Undo)>,
    pub(super) counters: Option<Counters>,
    /// None where a group stages nothing any more.
    pub(super) rollouts: BTreeMap<Name, Option<Rollout>>,
    /// Changes of the store alone.
    pub(super) stored: Vec<Change>,
}

/// Plans that can be told, at most; and how many assignments they may have changed, altogether.
const PLANS: usize = 1000;
const UNDONE: u64 = 200_000;

impl Next {
    /// What is stored for it: one batch.
    pub(crate) fn changes(&mut self, now: &State, lines: &Lines) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.stored);
        self.journal(now, &mut changes);
        for id in &self.rewritten {
            if let Some(device) = self.devices.get_mut(id) {
                device.sent = lines.sent(*id);
                changes.push(records::put(&**device));
            }
        }
        changes.extend(self.assigned.values().map(records::put));
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

    /// What devices reported goes into the journal; where that is full, into their own records with all that it has.
    fn journal(&mut self, now: &State, changes: &mut Vec<Change>) {
        if self.reports.told.is_empty() {
            return;
        }
        if !now.journal.is_full() {
            self.reports.number = now.journal.next();
            return changes.push(records::put(&self.reports));
        }
        self.rewritten.extend(self.reports.told.drain(..).map(|told| told.device));
        for id in now.journal.devices() {
            match now.devices.get(&id) {
                Some(device) if !self.devices.contains_key(&id) => changes.push(records::put(&**device)),
                _ => drop(self.rewritten.insert(id)),
            }
        }
        changes.extend(now.journal.numbers().map(records::delete_reports));
        self.folded = true;
    }

    /// Shows it: to be called when it is stored. Tells the devices whose assignments changed.
    pub(crate) fn show(self, state: &mut State) -> Vec<DeviceId> {
        let told = self.assigned.keys().copied().collect();
        if self.folded {
            state.journal.clear();
        }
        if !self.reports.told.is_empty() {
            state.journal.add(&self.reports);
        }
        self.devices.into_values().for_each(|device| state.show_device(device));
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

#[cfg(test)]
mod tests {
    use secateur_common::{Cause, Digest, Generation, Report, VariantId};

    use super::*;
    use crate::draft::Draft;
    use crate::store::{Memory, Store};

    fn report(sequence: u64) -> Report {
        Report {
            sequence,
            model: "m".parse().unwrap(),
            variant: VariantId(Digest::of(&(sequence / 1000).to_be_bytes())),
            generation: Generation(sequence / 1000),
            accuracy: Default::default(),
            latency: Default::default(),
            memory: Default::default(),
            sensed: Default::default(),
            model_bytes: Default::default(),
            disk_bytes: Default::default(),
            wire_bytes: Default::default(),
            today: Default::default(),
        }
    }

    fn commit(store: &Memory, lines: &Lines, state: &mut State, work: impl FnOnce(&mut Draft<'_>)) {
        let mut draft = Draft::new(state, lines, 1_000_000);
        work(&mut draft);
        let (mut next, _) = draft.finish();
        store.commit(&next.changes(state, lines)).unwrap();
        next.show(state);
        let again = State::load(store).unwrap();
        assert_eq!(again.devices, state.devices, "what is stored is what is known");
    }

    #[test]
    fn reports_outlive_the_journal_that_they_were_in() {
        let (store, lines) = (Memory::default(), Lines::default());
        let mut state = State::load(&store).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|key| DeviceId::of_credential(key));
        commit(&store, &lines, &mut state, |draft| {
            for id in [a, b, c] {
                draft.add_device(DeviceRecord::new(id, "gw".parse().unwrap()));
            }
        });
        let (mut sequence, mut longest) = (0, 0);
        for turn in 0..80 {
            lines.charge(a, 1_000_000, None, (Cause::Report, turn));
            commit(&store, &lines, &mut state, |draft| {
                // The older half came before: a device that hears no answer tells again.
                let reports = (sequence..sequence + 128).map(report).collect();
                draft.report(a, reports).unwrap();
                match turn % 7 {
                    0 => draft.report(c, vec![report(turn)]).unwrap(),
                    1 => draft.device_mut(c).unwrap().failed = Some(Generation(turn)),
                    _ => {}
                }
            });
            sequence += 64;
            longest = longest.max(store.scan(b"r/").unwrap().len());
        }
        assert!(longest > 50 && store.scan(b"r/").unwrap().len() < 20, "it was full once: {longest}");
        assert_eq!(state.devices[&a].newest.as_ref().unwrap().report.sequence, sequence + 63);
        assert_eq!((&state.devices[&b].newest, state.devices[&b].sent.total()), (&None, 0));
    }
}
