//! One device's life, told step by step and compared with `golden/story.txt`. `UPDATE_GOLDEN=1` writes it anew.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use secateur_common::{Accuracy, Metric, ModelName};
use secateur_plan::{DeviceView, Ladder, Plan, Reason, Rung, lint, plan, pruning_is_to_blame};

const MODEL: &str = "net";

struct Story {
    ladders: BTreeMap<ModelName, Ladder>,
    device: DeviceView,
    limits: Vec<(&'static str, &'static str)>,
    plan: Plan,
    told: String,
}

impl Story {
    fn new() -> Self {
        let accuracies = [900, 899, 895, 880, 850].map(Some);
        let ladder = support::ladder(MODEL, &[400_000, 300_000, 200_000, 100_000, 40_000], &accuracies);
        Self {
            ladders: BTreeMap::from([(ladder.model.clone(), ladder)]),
            device: support::device("gateway", "site=lab"),
            limits: Vec::new(),
            plan: Plan::default(),
            told: String::new(),
        }
    }

    fn ladder(&mut self) -> &mut Ladder {
        self.ladders.get_mut(&MODEL.parse().unwrap()).unwrap()
    }

    fn limit(&mut self, limits: &[(&'static str, &'static str)]) {
        self.limits = limits.to_vec();
    }

    /// The device reports this latency of what it was assigned.
    fn measures(&mut self, p95_us: u64) {
        let ladder = &self.ladders[&MODEL.parse().unwrap()];
        let variant = self.plan.assignments[&self.device.id].variant.unwrap();
        let (_, rung) = ladder.find(variant).unwrap();
        support::report(&mut self.device, ladder, rung, p95_us);
    }

    /// The device reports this many right answers of a thousand with what it was assigned.
    fn answers(&mut self, correct: u64) {
        let ladder = &self.ladders[&MODEL.parse().unwrap()];
        let assignment = &self.plan.assignments[&self.device.id];
        let mut rung = ladder.find(assignment.variant.unwrap()).unwrap().1.clone();
        rung.accuracy = Some(Accuracy { samples: support::SAMPLES, correct });
        support::report_in(&mut self.device, ladder, &rung, (5_000, 5_000), assignment.generation);
    }

    /// The device is held as one that the store does not know the newest of.
    fn held(&mut self) {
        self.plan.assignments.get_mut(&self.device.id).unwrap().reason = Reason::Restored;
        self.limit(&[("macs", "10%")]);
    }

    /// Plans, and writes down what came of it.
    fn step(&mut self, happened: &str) {
        let policy = support::policy(MODEL, &self.limits);
        let planned = plan(&policy, std::slice::from_ref(&self.device), &self.ladders, &self.plan);
        assert_eq!(lint(&planned.plan, &self.plan, &self.ladders), Vec::<String>::new(), "{happened}");
        self.plan = planned.plan;
        let assignment = &self.plan.assignments[&self.device.id];
        let ladder = &self.ladders[&MODEL.parse().unwrap()];
        let rung = assignment.variant.and_then(|variant| ladder.find(variant)).map(|(_, rung)| rung);
        let label = rung.map_or("nothing", |rung| &rung.label);
        writeln!(self.told, "{happened}").unwrap();
        writeln!(self.told, "  gateway: {label}, generation {}", assignment.generation).unwrap();
        writeln!(self.told, "  budget: {}", assignment.budget).unwrap();
        writeln!(self.told, "  reason: {}", assignment.reason).unwrap();
        for request in planned.requests {
            writeln!(self.told, "  to be pruned: {}", request.budget).unwrap();
        }
    }
}

#[test]
fn a_device_lives_through_its_budgets() {
    let mut story = Story::new();
    story.limit(&[("latency_p95", "80%"), ("model_bytes", "100kB")]);
    story.step("A new device; its limit is relative to the dense model.");
    story.measures(20_000);
    story.step("It measured the dense model once.");
    story.measures(18_000);
    story.step("The narrower rung is slower than predicted: its first report is over the limit.");
    story.measures(17_500);
    story.step("So is the next one.");
    story.measures(11_000);
    story.step("The third meets it.");
    story.measures(25_000);
    story.step("One disturbed report.");
    story.measures(11_200);
    story.step("It was only a disturbance.");
    story.limit(&[("latency_p95", "40%"), ("model_bytes", "50kB")]);
    story.step("The operator halves the budget.");
    story.measures(6_500);
    story.step("It is met.");
    story.limit(&[("latency_p95", "40%"), ("model_bytes", "2kB")]);
    story.step("The operator asks for less than any rung has: one is asked for.");
    story.ladder().floors.push((Metric::ModelBytes, 4_000.0));
    story.step("Pruning found that 4000 bytes are the least.");
    story.limit(&[("latency_p95", "80%"), ("model_bytes", "100kB")]);
    story.step("The operator relaxes the budget.");
    story.measures(11_100);
    story.step("It rests.");
    story.limit(&[("accuracy_min", "85%")]);
    story.step("Only accuracy is asked for.");
    story.answers(890);
    story.step("It is met.");
    story.answers(820);
    story.step(
        "The light in the hall has changed: the same variant answers worse. Pruning less would not help.",
    );
    story.answers(815);
    story.step("It goes on, which is no news.");
    story.answers(889);
    story.step("It is over.");
    story.held();
    story.step("The coordinator was restored from a backup that the device is ahead of.");

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/story.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &story.told).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(story.told, golden, "if this is meant: UPDATE_GOLDEN=1 cargo test -p secateur-plan");
}

#[test]
fn less_pruned_devices_tell_drift_from_pruning_loss() {
    let ladder = support::ladder(MODEL, &[400_000, 100_000], &[Some(900), Some(880)]);
    let ladders = BTreeMap::from([(ladder.model.clone(), ladder.clone())]);
    let [dense, pruned] = [&ladder.rungs[0], &ladder.rungs[1]];
    let policy = support::policy(MODEL, &[("accuracy_min", "86%")]);
    // A device that has activated `rung` and answers `now` of a thousand after what the rung's own accuracy is.
    let device = |name: &str, rung: &Rung, now: u64| {
        let mut device = support::device(name, "");
        support::report(&mut device, &ladder, rung, 5_000);
        let rung =
            Rung { accuracy: Some(Accuracy { samples: support::SAMPLES, correct: now }), ..rung.clone() };
        support::report(&mut device, &ladder, &rung, 5_000);
        device
    };
    let fallen = device("pruned", pruned, 800);
    let mut parent = plan(&policy, std::slice::from_ref(&fallen), &ladders, &Plan::default()).plan;
    let assignment = parent.assignments.get_mut(&fallen.id).unwrap();
    (assignment.variant, assignment.generation) = (Some(pruned.variant), secateur_common::Generation(1));
    let reason = |device: &DeviceView| {
        plan(&policy, std::slice::from_ref(device), &ladders, &parent).plan.assignments[&device.id].clone()
    };
    let blamed = |now: u64| {
        let reference = device("dense", dense, now);
        let others = [(&reference, dense.variant), (&fallen, pruned.variant)];
        pruning_is_to_blame(&ladder, pruned.variant, others.into_iter())
    };
    assert!(!blamed(820) && blamed(899), "the dense model fell as well, or it did not");
    assert!(!pruning_is_to_blame(&ladder, pruned.variant, std::iter::empty()));
    assert!(fallen.drifts(pruned.variant));
    let moved = reason(&fallen.blaming(pruned.variant));
    assert_eq!(moved.variant, Some(dense.variant));
    assert!(matches!(moved.reason, Reason::Moved(_)), "{}", moved.reason);
}
