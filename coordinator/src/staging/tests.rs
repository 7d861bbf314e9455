//! Whole rollouts in which the coordinator is killed between any two steps, and at every commit; and a store that was
//! restored from an old backup.

use std::cell::Cell;
use std::collections::BTreeMap;

use secateur_common::{
    Accuracy, Cost, DeviceId, Digest, FleetSpec, Generation, GroupSpec, LatencySummary, MacCount, Micros,
    ModelName, Report, RolloutPolicy, VariantId,
};
use secateur_plan::rollout::{Rollout, Stage};
use secateur_plan::{Ladder, Reason, Rung};

use crate::catalog::ModelRecord;
use crate::draft::Draft;
use crate::inventory::{DeviceRecord, Hello};
use crate::lines::Lines;
use crate::state::State;
use crate::store::{Memory, Store};

const DEVICES: usize = 5;

fn model(name: &str) -> ModelRecord {
    let digest = Digest::of(name.as_bytes());
    let macs = MacCount(1000);
    let rung = Rung {
        variant: VariantId(digest),
        label: "dense".to_owned(),
        cost: Cost { macs, dense_macs: macs, ..Cost::default() },
        accuracy: Some(Accuracy { samples: 1000, correct: 900 }),
    };
    let ladder = Ladder { model: name.parse().unwrap(), rungs: vec![rung], floors: Vec::new() };
    ModelRecord { ladder, file: digest, calibration: digest, validation: None, precision: Default::default() }
}

fn fleet(model: &str) -> FleetSpec {
    let rollout = RolloutPolicy {
        canary: "1".parse().unwrap(),
        waves: vec!["50%".parse().unwrap()],
        soak_s: 2,
        min_reports: 1,
        ..RolloutPolicy::default()
    };
    let group = GroupSpec {
        name: "all".parse().unwrap(),
        selector: Default::default(),
        model: model.parse().unwrap(),
        budget: Default::default(),
        rollout: Some(rollout),
    };
    FleetSpec { groups: vec![group], rollout: None }
}

/// An agent, which keeps what it has when the coordinator dies.
struct Agent {
    id: DeviceId,
    active: Option<(VariantId, Generation)>,
    held: Vec<VariantId>,
    accepted: Generation,
    sequence: u64,
    /// Every activation: what the fleet went through.
    went: Vec<(String, u64)>,
}

/// A coordinator that is loaded from its store for each change and forgotten after it.
struct World {
    store: Memory,
    lines: Lines,
    now: u64,
    agents: Vec<Agent>,
    /// Answers of a thousand that a model gives right.
    correct: BTreeMap<&'static str, u64>,
    /// Of so many commits all but one are lost, with the coordinator.
    survives: u32,
    commits: Cell<u32>,
}

impl World {
    fn new(survives: u32) -> Self {
        let lines = Lines::default();
        let agent = |index: usize| Agent {
            id: DeviceId::of_credential(&[index as u8]),
            active: None,
            held: Vec::new(),
            accepted: Generation(0),
            sequence: 0,
            went: Vec::new(),
        };
        let agents: Vec<Agent> = (0..DEVICES).map(agent).collect();
        agents.iter().for_each(|agent| drop(lines.open(agent.id)));
        let world = Self {
            store: Memory::default(),
            lines,
            now: 1_000_000,
            agents,
            correct: BTreeMap::from([("old", 900), ("new", 900), ("bad", 500)]),
            survives,
            commits: Cell::new(0),
        };
        for name in ["old", "new", "bad"] {
            world.change(|draft| draft.set_model(model(name)));
        }
        world.change(|draft| draft.set_fleet(fleet("old")));
        world
    }

    fn state(&self) -> State {
        State::load(&self.store).unwrap()
    }

    /// A change, asked for until it is stored: between two attempts the coordinator dies.
    fn change(&self, work: impl Fn(&mut Draft<'_>)) {
        loop {
            let state = self.state();
            let mut draft = Draft::new(&state, &self.lines, self.now);
            work(&mut draft);
            draft.plan();
            let (mut next, _) = draft.finish();
            let changes = next.changes(&state, &self.lines);
            self.commits.set(self.commits.get() + 1);
            if self.commits.get().is_multiple_of(self.survives) {
                self.store.commit(&changes).unwrap();
                return;
            }
        }
    }

    fn hello(&mut self) {
        for agent in &self.agents {
            let (id, name) = (agent.id, "gateway".parse::<ModelName>().unwrap());
            let hello = Hello {
                name: name.clone(),
                labels: Default::default(),
                held: agent.held.clone(),
                active: agent.active,
                accepted: agent.accepted,
            };
            self.change(|draft| {
                if draft.device(id).is_none() {
                    draft.add_device(DeviceRecord::new(id, name.clone()));
                }
                draft.device_mut(id).unwrap().hello(hello.clone());
                draft.due(id);
            });
        }
    }

    /// A second goes by: every agent does what it is told and reports, and the rollout is looked at.
    fn tick(&mut self) {
        self.now += 1;
        for index in 0..self.agents.len() {
            self.activate(index);
            self.report(index);
        }
        let moving: Vec<_> = self.state().rollouts.into_values().filter(Rollout::moving).collect();
        for rollout in moving {
            self.change(|draft| draft.look_at(rollout.group.clone()));
        }
    }

    fn activate(&mut self, index: usize) {
        let id = self.agents[index].id;
        let Some(directive) = crate::rollout::wanted(&self.state(), id) else { return };
        let agent = &mut self.agents[index];
        let (model, case) = directive;
        assert!(case.generation >= agent.accepted, "a device would refuse it");
        if !agent.held.contains(&case.variant) {
            agent.held.push(case.variant);
        }
        (agent.active, agent.accepted) = (Some((case.variant, case.generation)), case.generation);
        agent.went.push((model.to_string(), case.generation.0));
        let (active, accepted, held) = (agent.active, agent.accepted, agent.held.clone());
        self.change(|draft| {
            let device = draft.device_mut(id).unwrap();
            (device.active, device.accepted, device.held) = (active, accepted, held.clone());
            draft.due(id);
        });
    }

    fn report(&mut self, index: usize) {
        let state = self.state();
        let agent = &mut self.agents[index];
        let Some((variant, generation)) = agent.active else { return };
        agent.sequence += 1;
        let model = state.model_of(variant).unwrap().clone();
        let p95 = Micros(1000);
        let report = Report {
            sequence: agent.sequence,
            variant,
            generation,
            accuracy: Accuracy { samples: 1000, correct: self.correct[model.as_str()] },
            latency: LatencySummary { count: 100, p50: p95, p95, p99: p95 },
            model,
            memory: Default::default(),
            model_bytes: Default::default(),
            disk_bytes: Default::default(),
            wire_bytes: Default::default(),
            today: Default::default(),
            sensed: Default::default(),
        };
        let id = agent.id;
        self.change(|draft| {
            draft.report(id, vec![report.clone()]).unwrap();
        });
    }

    fn ticks(&mut self, ticks: usize) {
        (0..ticks).for_each(|_| self.tick());
    }

    fn stage(&self) -> Stage {
        self.state().rollouts[&"all".parse().unwrap()].stage
    }

    /// What each agent activated, in order.
    fn went(&self) -> Vec<Vec<(String, u64)>> {
        self.agents.iter().map(|agent| agent.went.clone()).collect()
    }
}

/// A good rollout, then a bad one.
fn story(survives: u32) -> (World, Vec<Vec<(String, u64)>>) {
    let mut world = World::new(survives);
    world.hello();
    world.ticks(3);
    world.change(|draft| draft.set_fleet(fleet("new")));
    world.ticks(20);
    assert_eq!(world.stage(), Stage::Done);
    world.change(|draft| draft.set_fleet(fleet("bad")));
    world.ticks(20);
    let went = world.went();
    (world, went)
}

#[test]
fn killed_at_every_step_it_loses_and_repeats_nothing() {
    let (world, went) = story(1);
    assert!(matches!(world.stage(), Stage::RolledBack(_)), "{}", world.stage());
    let through =
        |name: &str| went.iter().filter(|steps| steps.iter().any(|(model, _)| model == name)).count();
    assert_eq!((through("old"), through("new"), through("bad")), (DEVICES, DEVICES, 1), "{went:?}");
    for steps in &went {
        let generations: Vec<u64> = steps.iter().map(|(_, generation)| *generation).collect();
        assert!(generations.windows(2).all(|pair| pair[0] < pair[1]), "each step once: {steps:?}");
    }
    let canary: Vec<&str> =
        went.iter().find(|steps| steps.len() == 4).unwrap().iter().map(|(model, _)| model.as_str()).collect();
    assert_eq!(canary, ["old", "new", "bad", "new"]);
    let plans = world.state().plans.len();
    for survives in [2, 3] {
        let (killed, same) = story(survives);
        assert_eq!(same, went, "what a lost commit would have done is done by the next");
        assert_eq!(killed.state().plans.len(), plans);
    }
}

#[test]
fn a_store_from_an_old_backup_moves_no_device_until_an_operator_says_so() {
    let mut world = World::new(1);
    world.hello();
    world.ticks(3);
    let backup = Memory::default();
    let copy =
        world.store.scan(b"").unwrap().into_iter().map(|(key, value)| crate::store::Change::Put(key, value));
    backup.commit(&copy.collect::<Vec<_>>()).unwrap();
    world.change(|draft| draft.set_fleet(fleet("new")));
    world.ticks(20);
    let went = world.went();

    world.store = backup;
    world.hello();
    world.ticks(5);
    world.change(|draft| draft.set_model(model("other"))); // everything is planned again
    assert_eq!(world.went(), went, "nobody moves");
    let state = world.state();
    for agent in &world.agents {
        let assignment = state.assignment(agent.id).unwrap();
        assert_eq!((&assignment.reason, assignment.generation), (&Reason::Restored, agent.accepted));
    }
    world.change(|draft| assert_eq!(draft.release_held(), DEVICES as u64));
    world.ticks(20);
    for agent in &world.agents {
        let (model, generation) = agent.went.last().unwrap();
        assert_eq!((model.as_str(), *generation), ("old", 3), "the operator's word is the old fleet");
    }
    world.change(|draft| assert_eq!(draft.release_held(), 0));
}
