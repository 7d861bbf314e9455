//! A simulated fleet under a rollout: agents that come and go, activate late and report, and a coordinator that forgets
//! everything but what it stored, between any two steps.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use secateur_common::{
    Accuracy, DeviceId, FleetSpec, Generation, ModelName, Portion, RolloutPolicy, VariantId,
};
use secateur_plan::rollout::{Fault, Member, Rollout, Seen, Stage, Standing, crew, round};
use secateur_plan::{Assignment, DeviceView, Ladder, Plan, Reason, plan};

const SAMPLES: u64 = 1000;

/// An agent as the coordinator sees it, and what only the agent knows.
struct Agent {
    view: DeviceView,
    seen: Seen,
    held: BTreeSet<VariantId>,
    accepted: Generation,
    fetched: u64,
}

struct World {
    ladders: BTreeMap<ModelName, Ladder>,
    fleet: FleetSpec,
    rollout: Rollout,
    plan: Plan,
    agents: Vec<Agent>,
    now: u64,
    /// Answers of a thousand that each model gives right.
    correct: BTreeMap<ModelName, u64>,
    /// Models that no device can activate.
    broken: BTreeSet<ModelName>,
    slower: u64,
    hungrier: u64,
}

fn portion(text: &str) -> Portion {
    text.parse().unwrap()
}

fn staged() -> RolloutPolicy {
    RolloutPolicy {
        canary: portion("1"),
        waves: vec![portion("50%")],
        max_unavailable: portion("2"),
        soak_s: 5,
        min_reports: 2,
        ..RolloutPolicy::default()
    }
}

impl World {
    /// `devices` run `old` with nothing staged; then the group is to run `new`, staged by `policy`.
    fn new(devices: usize, policy: RolloutPolicy) -> Self {
        let ladder = |name: &str| support::ladder(name, &[400_000, 200_000], &[Some(900), Some(890)]);
        let ladders = ["old", "new", "newer"].map(|name| (name.parse().unwrap(), ladder(name)));
        let agent = |index: usize| Agent {
            view: support::device(&format!("device {index}"), if index == 0 { "site=lab" } else { "" }),
            seen: Seen { connected: true, ..Seen::default() },
            held: BTreeSet::new(),
            accepted: Generation(0),
            fetched: 0,
        };
        let mut fleet = support::policy("old", &[]);
        fleet.groups[0].rollout = Some(policy);
        let mut world = Self {
            ladders: ladders.into(),
            fleet,
            rollout: Rollout::new("all".parse().unwrap(), []),
            plan: Plan::default(),
            agents: (0..devices).map(agent).collect(),
            now: 1_000_000,
            correct: BTreeMap::new(),
            broken: BTreeSet::new(),
            slower: 1,
            hungrier: 1,
        };
        world.settle();
        assert_eq!(world.running("old"), devices, "first variants wait for nobody");
        world.fleet.groups[0].model = "new".parse().unwrap();
        world
    }

    /// So many of a thousand answers of `model` are right from now on.
    fn answers(&mut self, model: &str, correct: u64) {
        self.correct.insert(model.parse().unwrap(), correct);
    }

    fn policy(&self) -> RolloutPolicy {
        self.fleet.groups[0].rollout.clone().unwrap()
    }

    fn replan(&mut self) {
        self.forget();
        let views: Vec<DeviceView> = self.agents.iter().map(|agent| agent.view.clone()).collect();
        let mut next = plan(&self.fleet, &views, &self.ladders, &self.plan).plan;
        let members = members(&self.agents, &self.plan, &next);
        let (policy, model) = (self.policy(), self.fleet.groups[0].model.clone());
        let assigned = round(&mut self.rollout, &policy, &model, next.id, &members, self.now);
        let ids: Vec<DeviceId> = members.iter().map(|member| member.device.id).collect();
        next.assignments = ids.into_iter().zip(assigned).collect();
        self.plan = next;
    }

    /// Only what is stored is kept.
    fn forget(&mut self) {
        let text = serde_json::to_string(&self.rollout).unwrap();
        self.rollout = serde_json::from_str(&text).unwrap();
        for assignment in self.plan.assignments.values_mut() {
            *assignment = serde_json::from_str(&serde_json::to_string(&assignment).unwrap()).unwrap();
        }
    }

    fn crew(&self) -> Vec<Standing> {
        let members = members(&self.agents, &self.plan, &self.plan);
        let assigned: Vec<Assignment> = self.plan.assignments.values().cloned().collect();
        crew(&self.policy(), &members, &assigned)
    }

    /// Agent `index` does what it was told, if it is there.
    fn activate(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        let Some(assignment) = self.plan.assignments.get(&agent.view.id) else { return };
        let (Some(variant), true) = (assignment.variant, agent.seen.connected) else { return };
        assert!(assignment.generation >= agent.accepted, "a device would refuse it");
        agent.accepted = assignment.generation;
        if self.broken.contains(assignment.model.as_ref().unwrap()) {
            agent.seen.failed = Some(assignment.generation);
            return;
        }
        agent.fetched += u64::from(agent.held.insert(variant));
        let previous = agent.seen.active.map(|(previous, _)| previous).filter(|p| *p != variant);
        agent.seen.active = Some((variant, assignment.generation));
        if let Some(previous) = previous {
            agent.held.retain(|held| [previous, variant].contains(held));
        }
    }

    /// Agent `index` reports what it runs, if it is there.
    fn report(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        let (Some((variant, generation)), true) = (agent.seen.active, agent.seen.connected) else { return };
        let (model, ladder) = self.ladders.iter().find(|(_, ladder)| ladder.find(variant).is_some()).unwrap();
        let mut rung = ladder.find(variant).unwrap().1.clone();
        let correct = self.correct.get(model).copied().unwrap_or(900);
        rung.accuracy = Some(Accuracy { samples: SAMPLES, correct });
        let (slower, hungrier) = if model.as_str() == "old" { (1, 1) } else { (self.slower, self.hungrier) };
        support::report_in(&mut agent.view, ladder, &rung, (1000 * slower, 50 * hungrier), generation);
    }

    fn tick(&mut self) {
        self.now += 1;
        for index in 0..self.agents.len() {
            self.activate(index);
            self.report(index);
        }
        self.replan();
    }

    /// Until nothing moves any more.
    fn settle(&mut self) {
        self.replan();
        for _ in 0..200 {
            self.tick();
            if !self.rollout.moving() && self.crew().is_empty() {
                return;
            }
        }
    }

    fn running(&self, model: &str) -> usize {
        let ladder = &self.ladders[&model.parse::<ModelName>().unwrap()];
        let runs =
            |agent: &&Agent| agent.seen.active.is_some_and(|(variant, _)| ladder.find(variant).is_some());
        self.agents.iter().filter(runs).count()
    }

    fn reason(&self, index: usize) -> &Reason {
        &self.plan.assignments[&self.agents[index].view.id].reason
    }
}

fn members<'a>(agents: &'a [Agent], before: &'a Plan, wanted: &Plan) -> Vec<Member<'a>> {
    let mut members: Vec<Member<'a>> = agents
        .iter()
        .filter_map(|agent| {
            let wanted = wanted.assignments.get(&agent.view.id)?.clone();
            Some(Member {
                device: &agent.view,
                seen: agent.seen,
                before: before.assignments.get(&agent.view.id),
                wanted,
            })
        })
        .collect();
    members.sort_by_key(|member| member.device.id);
    members
}

#[test]
fn a_good_change_goes_from_the_canary_to_all() {
    let mut world = World::new(6, staged());
    world.replan();
    let mut seen = Vec::new();
    let mut most = BTreeMap::new();
    for _ in 0..60 {
        world.tick();
        let stage = world.rollout.stage.to_string();
        let most = most.entry(stage.clone()).or_insert(0);
        *most = world.running("new").max(*most);
        if seen.last() != Some(&stage) {
            seen.push(stage);
        }
    }
    assert_eq!(seen, ["canary", "wave 1", "wave 2", "done"]);
    assert_eq!((most["canary"], most["wave 1"], most["wave 2"]), (1, 3, 6));
    assert_eq!(world.rollout.number, 1);
    assert!(world.plan.assignments.values().all(|assignment| assignment.trial.is_none()));
    assert_eq!(world.rollout.tally.judged, 6);
}

#[test]
fn a_bad_model_is_caught_by_the_canary_and_goes_back_for_no_bytes() {
    type MakeBad = fn(&mut World);
    let cases: [(MakeBad, &str); 4] = [
        (|world| world.answers("new", 700), "accuracy"),
        (|world| world.slower = 2, "p95"),
        (|world| world.hungrier = 2, "energy"),
        (|world| world.broken = BTreeSet::from(["new".parse().unwrap()]), "1 of 1 devices"),
    ];
    for (make_bad, fault) in cases {
        let mut world = World::new(6, staged());
        make_bad(&mut world);
        world.replan();
        let fetched: u64 = world.agents.iter().map(|agent| agent.fetched).sum();
        let mut most = 0;
        for _ in 0..60 {
            world.tick();
            most = most.max(world.running("new"));
        }
        assert!(most <= 1, "{most} devices ran it");
        assert_eq!(world.running("old"), 6);
        assert!(
            matches!(world.rollout.stage, Stage::RolledBack(why) if why.to_string().contains(fault)),
            "{}",
            world.rollout.stage
        );
        let after: u64 = world.agents.iter().map(|agent| agent.fetched).sum();
        assert!(after - fetched <= 1, "what a device goes back to it still holds");
        assert!((0..6).all(|index| matches!(world.reason(index), Reason::Halted { rollout: 1, .. })));
        let plans = world.plan.assignments.clone();
        world.settle();
        assert_eq!(world.plan.assignments, plans, "it stays refused");
    }
}

#[test]
fn an_operator_resumes_what_was_refused_and_replaces_it() {
    let mut world = World::new(4, staged());
    world.answers("new", 700);
    world.settle();
    assert!(matches!(world.rollout.stage, Stage::RolledBack(Fault::Accuracy { .. })));
    assert!(world.rollout.clone().pause().is_err());
    world.correct.clear(); // the data that it was judged by was bad
    world.rollout.resume().unwrap();
    world.settle();
    assert_eq!((world.rollout.stage, world.running("new")), (Stage::Done, 4));

    world.answers("newer", 100);
    world.fleet.groups[0].model = "newer".parse().unwrap();
    world.settle();
    assert!(matches!(world.rollout.stage, Stage::RolledBack(_)));
    assert_eq!((world.rollout.number, world.running("new")), (3, 4));
    world.fleet.groups[0].model = "old".parse().unwrap();
    world.settle();
    assert_eq!(world.running("old"), 4, "what was proven once goes at once");
}

#[test]
fn a_change_of_mind_in_the_middle_leaves_the_way_back_to_what_was_proven() {
    let mut world = World::new(5, staged());
    world.replan();
    for _ in 0..3 {
        world.tick();
    }
    assert_eq!(world.running("new"), 1);
    world.answers("newer", 100);
    world.fleet.groups[0].model = "newer".parse().unwrap();
    for _ in 0..60 {
        world.tick();
        assert!(world.running("newer") <= 1);
    }
    assert!(matches!(world.rollout.stage, Stage::RolledBack(_)));
    let old: usize = world.running("old");
    assert!(old >= 4 && old + world.running("new") == 5, "{old} went back");
}

#[test]
fn pause_holds_abort_takes_back_and_both_need_a_rollout() {
    let mut world = World::new(6, staged());
    assert!(world.rollout.clone().abort(&[]).is_err() && world.rollout.clone().resume().is_err());
    world.replan();
    world.tick();
    world.rollout.pause().unwrap();
    for _ in 0..30 {
        world.tick();
        assert_eq!((world.running("new"), world.rollout.stage), (1, Stage::Canary));
    }
    world.rollout.resume().unwrap();
    while world.running("new") < 3 {
        world.tick();
    }
    let crew = world.crew();
    world.rollout.abort(&crew).unwrap();
    world.settle();
    assert_eq!(world.rollout.stage, Stage::RolledBack(Fault::Aborted));
    assert_eq!(world.running("old"), 6);
}

#[test]
fn the_lab_goes_first_and_only_within_the_window() {
    let day = 20_000 * 86_400;
    let policy = RolloutPolicy {
        order: vec![secateur_common::Selector("site=lab".parse().unwrap())],
        window: Some("00:10-00:20".parse().unwrap()),
        ..staged()
    };
    let mut world = World::new(6, policy);
    world.now = day;
    world.replan();
    world.tick();
    assert_eq!(world.running("new"), 0, "the window is shut");
    assert_eq!(*world.reason(3), Reason::Waiting { group: "all".parse().unwrap() });
    world.now = day + 10 * 60;
    world.replan();
    world.tick();
    let lab = world.agents[0].seen.active.map(|(variant, _)| variant);
    assert!(world.running("new") == 1 && world.ladders[&"new".parse().unwrap()].find(lab.unwrap()).is_some());
}

/// What may happen between two rounds.
#[derive(Clone, Debug)]
enum Event {
    Activate(prop::sample::Index),
    Report(prop::sample::Index),
    Connect(prop::sample::Index, bool),
    Wait(u64),
    Pause,
    Resume,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Event::Activate),
        4 => any::<prop::sample::Index>().prop_map(Event::Report),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(index, on)| Event::Connect(index, on)),
        2 => (1u64..8).prop_map(Event::Wait),
        1 => Just(Event::Pause),
        1 => Just(Event::Resume),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Whatever happens, in whatever order: no more devices are on trial than the stage allows nor on the way than the
    /// budget allows, generations only rise, nobody loses what it has; and once all are there, it ends as it must.
    #[test]
    fn every_rollout_keeps_its_limits_and_ends(
        devices in 2usize..9,
        canary in 1u64..3,
        budget in 1u64..4,
        good: bool,
        events in events(),
    ) {
        let policy = RolloutPolicy {
            canary: Portion::Count(canary),
            max_unavailable: Portion::Count(budget),
            ..staged()
        };
        let mut world = World::new(devices, policy);
        if !good {
            world.answers("new", 600);
        }
        world.replan();
        for event in events {
            match event {
                Event::Activate(index) => world.activate(index.index(devices)),
                Event::Report(index) => world.report(index.index(devices)),
                Event::Connect(index, on) => world.agents[index.index(devices)].seen.connected = on,
                Event::Wait(seconds) => world.now += seconds,
                Event::Pause => drop(world.rollout.pause()),
                Event::Resume => if world.rollout.paused { world.rollout.resume().unwrap() },
            }
            let before = world.plan.clone();
            let (paused, number) = (world.rollout.paused, world.rollout.number);
            world.replan();
            let on_trial = world.plan.assignments.values().filter(|a| a.trial.is_some()).count();
            let target = match world.rollout.stage {
                Stage::Canary => (canary as usize).min(devices),
                Stage::Wave(1) => (devices.div_ceil(2)).max(canary as usize),
                Stage::Wave(_) => devices,
                _ => 0,
            };
            prop_assert!(on_trial <= target, "{on_trial} on trial in {}", world.rollout.stage);
            let was = |id: &DeviceId| before.assignments[id].trial.is_some();
            let released = world.plan.assignments.iter().filter(|(id, a)| a.trial.is_some() && !was(id)).count();
            prop_assert!(released <= budget as usize);
            prop_assert!(!paused || released == 0 || world.rollout.number > number);
            for (id, assignment) in &world.plan.assignments {
                let old = &before.assignments[id];
                let moved = assignment.variant != old.variant;
                prop_assert_eq!(assignment.generation.0, old.generation.0 + u64::from(moved));
                prop_assert!(assignment.variant.is_some());
            }
            if !good {
                prop_assert!(world.running("new") <= (canary as usize).max(1) || world.rollout.under_way());
            }
        }
        for agent in &mut world.agents {
            agent.seen.connected = true;
        }
        if world.rollout.paused {
            world.rollout.resume().unwrap();
        }
        world.settle();
        if good {
            prop_assert_eq!((world.rollout.stage, world.running("new")), (Stage::Done, devices));
        } else {
            let back = matches!(world.rollout.stage, Stage::RolledBack(Fault::Accuracy { .. }));
            prop_assert!(back, "{}", world.rollout.stage);
            prop_assert_eq!(world.running("old"), devices);
        }
    }
}
