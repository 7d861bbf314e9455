//! From stage to stage.

use secateur_common::{Accuracy, DeviceId, Digest, Generation, ModelName, RolloutPolicy, VariantId};

use super::judge::judge;
use super::{Fault, Rollout, Stage, Tally, Tried};
use crate::{Assignment, DeviceView, Measurement, Reason};

/// What is seen of a device beside what it measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// It has a session.
    pub connected: bool,
    /// What it runs, and since which generation.
    pub active: Option<(VariantId, Generation)>,
    /// The newest generation that it could not activate.
    pub failed: Option<Generation>,
}

/// A device that a rollout has to do with.
#[derive(Clone, PartialEq, Debug)]
pub struct Standing {
    /// Which.
    pub device: DeviceId,
    /// How early the policy wants it to go.
    pub rank: usize,
    /// It has a session.
    pub connected: bool,
    /// Its part.
    pub role: Role,
}

/// A device's part in a rollout.
#[derive(Clone, PartialEq, Debug)]
pub enum Role {
    /// To be told to move.
    Waiting,
    /// Told to move.
    OnTrial(Tried),
    /// Told to go back and not yet there.
    Returning,
}

impl Standing {
    /// The part of a device with this assignment; none where it has none.
    pub fn of(
        policy: &RolloutPolicy,
        device: &DeviceView,
        seen: Seen,
        assignment: &Assignment,
    ) -> Option<Self> {
        let runs_it = seen.active == assignment.variant.map(|variant| (variant, assignment.generation));
        let role = match (&assignment.reason, &assignment.trial) {
            (Reason::Waiting { .. }, _) => Role::Waiting,
            (Reason::Halted { .. }, _) if !runs_it => Role::Returning,
            (_, Some(_)) => Role::OnTrial(tried(policy, device, seen, assignment)?),
            _ => return None,
        };
        let rank = policy.rank(&device.labels);
        Some(Self { device: device.id, rank, connected: seen.connected, role })
    }

    /// What the device tries, if it is on trial.
    pub fn tried(&self) -> Option<&Tried> {
        match &self.role {
            Role::OnTrial(tried) => Some(tried),
            _ => None,
        }
    }

    fn waits(&self) -> bool {
        self.role == Role::Waiting
    }
}

fn tried(policy: &RolloutPolicy, device: &DeviceView, seen: Seen, assignment: &Assignment) -> Option<Tried> {
    let (variant, generation) = (assignment.variant?, assignment.generation);
    let before = assignment.trial.as_ref()?.before.as_ref();
    let before = before.and_then(|(_, variant)| device.measurement(*variant));
    // What it measured of the variant in an earlier generation, and of the dense model on its way, does not count.
    let now = device.measurement(variant).filter(|measurement| measurement.generation == generation);
    let now = now.filter(|_| !matches!(assignment.reason, Reason::AwaitingDense(_)));
    let factor = |value: fn(&Measurement) -> Option<f64>| {
        let pair = now.filter(|now| now.reports >= 2).and_then(value).zip(before.and_then(value));
        pair.map(|(now, before)| now / before.max(1.0))
    };
    let arrived = seen.active == Some((variant, generation));
    Some(Tried {
        model: assignment.model.clone()?,
        variant,
        arrived,
        failed: !arrived && seen.failed == Some(generation),
        judged: arrived && now.is_some_and(|now| now.reports >= policy.min_reports.max(1)),
        before: before.map_or(Accuracy::default(), |before| before.accuracy),
        on_trial: now.map_or(Accuracy::default(), |now| now.first),
        latency_factor: factor(Measurement::latency_us),
        energy_factor: factor(Measurement::energy_uj),
    })
}

impl Rollout {
    /// One step at `now`: judges, enters the next stage, halts, or tells who may move. `model` is what the group is to
    /// run, `plan` the plan that this step becomes part of. To be called until nothing changes any more.
    pub fn advance(
        &mut self,
        policy: &RolloutPolicy,
        model: &ModelName,
        plan: u64,
        crew: &[Standing],
        now_unix_s: u64,
    ) -> Vec<DeviceId> {
        match self.stage {
            Stage::Halted(fault) => self.settle(fault, crew),
            Stage::Idle | Stage::Done | Stage::RolledBack(_) => self.begin(model, plan, crew, now_unix_s),
            // The operator has changed his mind: what is on trial is what the devices are to run now.
            Stage::Canary | Stage::Wave(_) if self.model.as_ref() != Some(model) => self.stage = Stage::Idle,
            Stage::Canary | Stage::Wave(_) => return self.proceed(policy, crew, now_unix_s),
        }
        Vec::new()
    }

    /// What the devices on trial show.
    pub fn tally(&self, policy: &RolloutPolicy, crew: &[Standing]) -> (Tally, Option<Fault>) {
        let waiting = crew.iter().filter(|standing| standing.waits()).count();
        judge(&policy.judge, crew.iter().filter_map(Standing::tried), waiting)
    }

    fn begin(&mut self, model: &ModelName, plan: u64, crew: &[Standing], now_unix_s: u64) {
        let ready = |standing: &Standing| standing.connected && standing.role != Role::Returning;
        if crew.iter().any(ready) {
            self.number += 1;
            self.model = Some(model.clone());
            (self.plan, self.since_unix_s) = (plan, now_unix_s);
            (self.stage, self.paused, self.tally) = (Stage::Canary, false, Tally::default());
        }
    }

    /// After a halt: devices that are away go back when they return.
    fn settle(&mut self, fault: Fault, crew: &[Standing]) {
        let open = |standing: &Standing| match standing.role {
            Role::Waiting => false,
            Role::OnTrial(_) => true,
            Role::Returning => standing.connected,
        };
        if !crew.iter().any(open) {
            self.stage = Stage::RolledBack(fault);
        }
    }

    fn proceed(&mut self, policy: &RolloutPolicy, crew: &[Standing], now_unix_s: u64) -> Vec<DeviceId> {
        let (tally, fault) = self.tally(policy, crew);
        if let Some(fault) = fault {
            self.tally = tally;
            self.halt(fault, crew);
            return Vec::new();
        }
        if self.paused {
            return Vec::new();
        }
        if policy.window.is_none_or(|window| window.is_open(now_unix_s)) {
            let released = self.release(policy, crew);
            if !released.is_empty() {
                self.since_unix_s = now_unix_s;
                return released;
            }
        }
        let soaked = now_unix_s >= self.since_unix_s.saturating_add(policy.soak_s);
        if soaked && self.passed(policy, crew) {
            self.tally = tally;
            self.next_stage(policy, crew);
        }
        Vec::new()
    }

    /// How many devices may be on trial in this stage.
    fn target(&self, policy: &RolloutPolicy, all: usize) -> usize {
        let canary = policy.canary.of(all);
        match self.stage {
            Stage::Canary => canary,
            Stage::Wave(wave) if wave <= policy.waves.len() => {
                policy.waves[..wave].iter().fold(canary, |target, wave| target.max(wave.of(all)))
            }
            _ => all,
        }
    }

    /// The devices whose turn it is: connected ones, in the policy's order, within the stage and the disruption budget.
    /// Of equals each rollout takes others first.
    fn release(&self, policy: &RolloutPolicy, crew: &[Standing]) -> Vec<DeviceId> {
        let on_trial = crew.iter().filter_map(Standing::tried).count();
        let mut ready: Vec<&Standing> = crew.iter().filter(|s| s.waits() && s.connected).collect();
        let all = on_trial + crew.iter().filter(|standing| standing.waits()).count();
        let on_the_way = |s: &&Standing| s.connected && s.tried().is_some_and(|tried| !tried.arrived);
        let budget = policy.max_unavailable.of(all).saturating_sub(crew.iter().filter(on_the_way).count());
        let room = self.target(policy, all).saturating_sub(on_trial).min(budget);
        let lot = |device: DeviceId| {
            Digest::of(&[&self.number.to_be_bytes()[..], device.as_bytes()].concat()).as_bytes().to_owned()
        };
        ready.sort_by_cached_key(|standing| (standing.rank, lot(standing.device)));
        ready.iter().take(room).map(|standing| standing.device).collect()
    }

    /// Whether as many devices are on trial as this stage asks for, or all that are connected, and have been judged.
    fn passed(&self, policy: &RolloutPolicy, crew: &[Standing]) -> bool {
        let tried: Vec<(&Standing, &Tried)> = crew.iter().filter_map(|s| Some((s, s.tried()?))).collect();
        let waiting = crew.iter().filter(|standing| standing.waits());
        if tried.is_empty() {
            return waiting.count() == 0; // they have left the group
        }
        let full = tried.len() >= self.target(policy, tried.len() + waiting.clone().count());
        let nobody_left = !waiting.clone().any(|standing| standing.connected);
        let awaited = tried.iter().any(|(standing, tried)| standing.connected && !tried.judged);
        // Those that fell silent with it may have failed by it; one that is away and has not got it yet has not.
        let arrived = tried.iter().filter(|(_, tried)| tried.arrived);
        let silent = arrived.clone().filter(|(_, tried)| !tried.judged).count();
        let judged = tried.iter().any(|(_, tried)| tried.judged);
        let bearable = silent as f64 <= policy.judge.max_failures.get() * arrived.count() as f64;
        (full || nobody_left) && judged && !awaited && bearable
    }

    fn next_stage(&mut self, policy: &RolloutPolicy, crew: &[Standing]) {
        self.stage = match self.stage {
            Stage::Canary => Stage::Wave(1),
            Stage::Wave(wave) if wave <= policy.waves.len() => Stage::Wave(wave + 1),
            _ => {
                let tried: Vec<&Tried> = crew.iter().filter_map(Standing::tried).collect();
                // An offline device's variant is as good as those that were judged only if it is one of them.
                for tried in tried.iter().filter(|tried| tried.judged) {
                    self.prove(&tried.model, tried.variant);
                }
                Stage::Done
            }
        };
    }
}
