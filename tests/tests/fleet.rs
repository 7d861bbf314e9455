//! A fleet in one process: it settles within its budgets, and a coordinator that comes back knows all that it knew.

use std::time::Duration;

use secateur_cli::client::{Device, NewModel};
use secateur_common::{FleetSpec, Metric};
use secateur_tests::fleet::{Fleet, failure, lenet5};

const LADDER: &[f64] = &[0.5, 0.25];
const LIMIT: Duration = Duration::from_secs(60);

fn policy() -> FleetSpec {
    let group = |name: &str, metric: Metric, limit: &str| {
        let mut group = secateur_common::GroupSpec {
            name: name.parse().expect("a name"),
            selector: secateur_common::Selector(format!("class={name}").parse().expect("labels")),
            model: "lenet5".parse().expect("a name"),
            budget: Default::default(),
            rollout: None,
        };
        group.budget.set(metric, Some(metric.parse(limit).expect("a limit")));
        group
    };
    FleetSpec {
        groups: vec![group("half", Metric::Macs, "50%"), group("small", Metric::Macs, "25%")],
        rollout: None,
    }
}

fn settled(devices: &[Device]) -> bool {
    devices.len() == 2 && devices.iter().all(|device| device.settled() && device.feasible && device.met)
}

/// What must survive a restart of one device.
fn intent(device: &Device) -> (String, String, String, Option<secateur_common::VariantId>, u64) {
    let Device { id, name, group, variant, generation, .. } = device.clone();
    (id, name, group, variant, generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_settles_and_survives_its_coordinator() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(LADDER).await?;
    let mut client = fleet.client().await?;
    let model = client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    assert_eq!(model.rungs.len(), 1 + LADDER.len());
    client.apply(&policy(), false).await.map_err(failure)?;
    fleet.start_agent("one", "class=half", "shards/1.npz")?;
    fleet.start_agent("two", "class=small", "shards/2.npz")?;

    let before = fleet.wait_for("both settle", LIMIT, settled).await?;
    let dense = model.rungs[0].cost.macs.get() as f64;
    for (device, share) in before.iter().map(|d| (d, if d.group == "half" { 0.5 } else { 0.25 })) {
        assert!(device.cost.macs.get() as f64 <= share * dense, "{device:#?}");
        let report = device.current_report().expect("a report of what was assigned");
        assert_eq!(report.accuracy.samples, 400, "measured on the device's own shard");
    }

    fleet.restart_coordinator(LADDER).await?;
    let mut client = fleet.client().await?;
    let again = client.model("lenet5").await.map_err(failure)?;
    assert_eq!(again.digest, model.digest);
    let variants = |model: &secateur_cli::client::Model| -> Vec<_> {
        model.rungs.iter().map(|rung| (rung.variant, rung.cost)).collect()
    };
    assert_eq!(variants(&again), variants(&model));
    // A set-up that runs twice finds what it made; another model does not take its name.
    let twice = client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    assert_eq!((&twice.digest, variants(&twice)), (&model.digest, variants(&model)));
    let other = NewModel { validation: Vec::new(), ..lenet5()? };
    assert!(client.add_model(other, |_, _, _| {}).await.is_err());
    let known = client.devices().await.map_err(failure)?;
    let intents = |devices: &[Device]| devices.iter().map(intent).collect::<Vec<_>>();
    assert_eq!(intents(&known), intents(&before), "known before anyone reconnects or after");
    let after = fleet.wait_for("both reconnect and settle", LIMIT, settled).await?;
    assert_eq!(intents(&after), intents(&before), "nobody moves for a restart");
    Ok(())
}
