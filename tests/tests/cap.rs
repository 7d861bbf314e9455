//! A daily cap on what a device may download: kept on every day, and an update goes on the next day where it stopped.

use std::time::Duration;

use secateur_cli::client::Device;
use secateur_common::{FleetSpec, GroupSpec, Metric, Report};
use secateur_tests::fleet::{Fleet, failure, lenet5};

const LIMIT: Duration = Duration::from_secs(60);
const CAP: u64 = 128 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cap_is_kept_and_an_update_takes_the_days_it_needs() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(&[0.5]).await?;
    let mut client = fleet.client().await?;
    let model = client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    let full = model.rungs[0].cost.model_bytes.get();
    assert!(full > CAP, "the dense model needs more than a day: {full}");
    let mut group = GroupSpec {
        name: "capped".parse()?,
        selector: Default::default(),
        model: "lenet5".parse()?,
        budget: Default::default(),
        rollout: None,
    };
    group.budget.set(Metric::DownloadBytesPerDay, Some(Metric::DownloadBytesPerDay.parse("128KiB")?));
    client.apply(&FleetSpec { groups: vec![group], rollout: None }, false).await.map_err(failure)?;
    fleet.start_agent("one", "class=small", "shards/1.npz")?;

    let path = fleet.data("one").join("status.json");
    let status = || -> Option<secateur_agent::status::Status> {
        serde_json::from_slice(&std::fs::read(&path).ok()?).ok()
    };
    let (mut days, mut before) = (1, 0);
    loop {
        let deadline = tokio::time::Instant::now() + LIMIT;
        let now = loop {
            let now = status().unwrap_or_default();
            // Either way: what is left is too little for a piece, or for the session itself.
            let spent =
                ["paused", "the day's bytes are spent"].iter().any(|state| now.state.starts_with(state));
            if (spent && now.received_bytes > before) || now.variant.is_some() {
                break now;
            }
            anyhow::ensure!(tokio::time::Instant::now() < deadline, "day {days}: {now:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if now.variant.is_some() {
            break;
        }
        assert!(now.received_bytes - before < CAP && now.received_bytes > before, "day {days}: {now:?}");
        before = now.received_bytes;
        fleet.next_day();
        days += 1;
    }
    // What a day's sessions cost beside the update is not fixed: on a busy machine they end and begin again.
    assert!(
        (full.div_ceil(CAP)..=full.div_ceil(CAP / 2)).contains(&days),
        "{days} days: it went on where it stopped"
    );
    // The connection's own bytes come with its next heartbeat.
    let told = |report: &Report| report.today.update > 0 && report.today.control > 0;
    let settled = |devices: &[Device]| {
        devices.iter().all(|device| device.settled() && device.report.as_ref().is_some_and(told))
    };
    let devices = fleet.wait_for("the device reports", LIMIT, settled).await?;
    let today = devices[0].report.as_ref().expect("a report").today;
    assert!(today.total() <= CAP, "{today:?}");
    Ok(())
}
