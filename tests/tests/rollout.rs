//! Rollouts end to end: a good model goes from the canary in waves to all; a bad one is caught at the canary and goes
//! back without a byte, and no other device ever ran it.

use std::time::Duration;

use secateur_cli::client::{Client, Device, NewModel, Rollout, Steer};
use secateur_common::{FleetSpec, GroupSpec, JudgePolicy, RolloutPolicy};
use secateur_model::onnx;
use secateur_tests::fleet::{Fleet, failure, lenet5};

/// The dense models are enough to be told apart.
const LADDER: &[f64] = &[];
const LIMIT: Duration = Duration::from_secs(180);
const DEVICES: usize = 4;

/// LeNet-5 under another name, its weights changed.
fn changed(name: &str, change: impl Fn(&mut [f32])) -> anyhow::Result<NewModel> {
    let model = lenet5()?;
    let mut graph = onnx::read(&model.onnx)?;
    graph.initializers.values_mut().filter_map(|tensor| tensor.as_f32_mut()).for_each(change);
    Ok(NewModel { name: name.parse()?, onnx: onnx::write(&graph), ..model })
}

/// Every device runs `model`, in stages.
fn policy(model: &str) -> anyhow::Result<FleetSpec> {
    let group = GroupSpec {
        name: "all".parse()?,
        selector: Default::default(),
        model: model.parse()?,
        budget: Default::default(),
        rollout: Some(RolloutPolicy {
            canary: "1".parse()?,
            waves: vec!["50%".parse()?],
            soak_s: 1,
            min_reports: 1,
            // A loaded machine is slow as it likes.
            judge: JudgePolicy { max_latency_factor: 1000.0, ..JudgePolicy::default() },
            ..RolloutPolicy::default()
        }),
    };
    Ok(FleetSpec { groups: vec![group], rollout: None })
}

fn run(model: &str) -> impl Fn(&[Device]) -> bool {
    move |devices| {
        let runs = |device: &Device| device.settled() && device.model == model && device.trial.is_none();
        devices.len() == DEVICES && devices.iter().all(runs)
    }
}

/// The stages that a rollout goes through until it is in `last`.
async fn stages(client: &mut Client, last: &str) -> anyhow::Result<(Vec<String>, Rollout)> {
    let end = tokio::time::Instant::now() + LIMIT;
    let mut stages: Vec<String> = Vec::new();
    loop {
        let rollouts = client.rollouts(None).await.map_err(failure)?;
        let [rollout] = &rollouts[..] else { anyhow::bail!("one group, one rollout: {rollouts:?}") };
        let stage = format!("{} {}", rollout.stage, rollout.wave);
        if stages.last() != Some(&stage) {
            stages.push(stage);
        }
        if rollout.stage == last {
            return Ok((stages, rollout.clone()));
        }
        anyhow::ensure!(tokio::time::Instant::now() < end, "not within {LIMIT:?}: {stages:?}, {rollout:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_good_model_reaches_all_and_a_bad_one_goes_back_from_the_canary() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(LADDER).await?;
    let mut client = fleet.client().await?;
    let models = [
        lenet5()?,
        changed("good", |weights| weights.iter_mut().for_each(|weight| *weight *= 1.01))?,
        changed("bad", <[f32]>::reverse)?,
    ];
    for model in models {
        client.add_model(model, |_, _, _| {}).await.map_err(failure)?;
    }
    client.apply(&policy("lenet5")?, false).await.map_err(failure)?;
    for index in 1..=DEVICES {
        fleet.start_agent(&format!("g{index}"), "site=lab", &format!("shards/{index}.npz"))?;
    }
    fleet.wait_for("all run the first model, which waits for nobody", LIMIT, run("lenet5")).await?;
    assert!(client.steer(Steer::Abort, None).await.is_err(), "there is nothing to abort");

    client.apply(&policy("good")?, false).await.map_err(failure)?;
    let (seen, done) = stages(&mut client, "done").await?;
    let order = ["canary 0", "wave 1", "wave 2", "done 0"];
    assert!(seen.iter().all(|stage| order.contains(&stage.as_str())), "{seen:?}");
    assert_eq!((done.number, done.judged, done.fault.as_str()), (1, DEVICES as u64, ""));
    let before = fleet.wait_for("all run the good model", LIMIT, run("good")).await?;

    let bad = policy("bad")?;
    let forecast = client.apply(&bad, true).await.map_err(failure)?.forecast;
    assert_eq!((forecast.devices, forecast.waiting), (4, 3), "one is the canary");
    let expected = forecast.accuracy.expect("both are measured");
    assert!(expected.after < 0.5 && expected.before > 0.8, "{expected:?}");
    client.apply(&bad, false).await.map_err(failure)?;
    let (seen, back) = stages(&mut client, "rolled_back").await?;
    assert!(seen.iter().all(|stage| !stage.starts_with("wave")), "{seen:?}");
    assert!(back.fault.contains("accuracy fell"), "{}", back.fault);
    assert_eq!((back.number, back.on_trial), (2, 1), "one device was on trial");

    let after = fleet.wait_for("all run the good model again", LIMIT, run("good")).await?;
    let moved: Vec<(&Device, &Device)> =
        before.iter().zip(&after).filter(|(before, after)| before.generation != after.generation).collect();
    let [(canary, returned)] = moved[..] else { panic!("only the canary moved: {moved:#?}") };
    assert_eq!(returned.variant, canary.variant);
    let one_update = forecast.update_bytes / DEVICES as u64;
    assert_eq!(returned.received_bytes - canary.received_bytes, one_update, "the way back cost no byte");
    for device in &after {
        assert!(device.reason.contains("rollout 2 was halted, accuracy fell"), "{}", device.reason);
    }

    let again = client.steer(Steer::Resume, None).await.map_err(failure)?.rollouts;
    assert!(again.len() == 1 && again[0].number == 3, "{again:?}");
    client.apply(&policy("good")?, false).await.map_err(failure)?;
    fleet.wait_for("what is proven needs no rollout", LIMIT, run("good")).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_goes_on_where_it_was_when_the_coordinator_restarts() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(LADDER).await?;
    let mut client = fleet.client().await?;
    client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    let good = changed("good", |weights| weights.iter_mut().for_each(|weight| *weight *= 1.01))?;
    client.add_model(good, |_, _, _| {}).await.map_err(failure)?;
    client.apply(&policy("lenet5")?, false).await.map_err(failure)?;
    for index in 1..=DEVICES {
        fleet.start_agent(&format!("g{index}"), "site=lab", &format!("shards/{index}.npz"))?;
    }
    fleet.wait_for("all run the first model", LIMIT, run("lenet5")).await?;
    client.apply(&policy("good")?, false).await.map_err(failure)?;
    let paused = client.steer(Steer::Pause, None).await.map_err(failure)?.rollouts;
    assert!(paused.len() == 1 && paused[0].paused && paused[0].number == 1, "{paused:?}");
    let on_trial = |devices: &[Device]| devices.iter().filter(|device| device.trial == Some(1)).count();
    let before = fleet
        .wait_for("the canary runs it", LIMIT, |devices| {
            on_trial(devices) == 1 && devices.iter().all(Device::settled)
        })
        .await?;
    let chosen = |devices: &[Device]| -> Vec<(String, Option<u64>, u64)> {
        devices.iter().map(|device| (device.id.clone(), device.trial, device.generation)).collect()
    };

    fleet.restart_coordinator(LADDER).await?;
    let mut client = fleet.client().await?;
    let after = fleet.wait_for("all are back", LIMIT, |devices| devices.iter().all(Device::settled)).await?;
    assert_eq!(chosen(&after), chosen(&before), "nobody moves for a restart, nor twice");
    let kept = client.rollouts(None).await.map_err(failure)?;
    assert!(kept[0].paused && kept[0].number == 1 && kept[0].stage == "canary", "{kept:?}");
    client.steer(Steer::Resume, None).await.map_err(failure)?;
    let (_, done) = stages(&mut client, "done").await?;
    assert_eq!((done.number, done.judged), (1, DEVICES as u64));
    fleet.wait_for("all run the good model", LIMIT, run("good")).await?;
    Ok(())
}
