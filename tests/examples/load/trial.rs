//! The trials: what is done to a coordinator, and what is found.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use secateur_cli::client::Client;
use secateur_common::Metric;
use secateur_tests::fleet::{everyone, failure, lenet5};
use serde_json::{Value, json};

use crate::crowd::{Crowd, quantile, until};
use crate::device::{Device, dial, greet};
use crate::program::{Home, Program};

const LIMIT: Duration = Duration::from_secs(180);
/// Devices that dial in a second at first.
const RAMP: u32 = 1000;
/// Connections over which devices are registered, and sessions at once on each.
const REGISTRARS: usize = 32;
const AT_ONCE: usize = 4;

async fn prepared(program: &Program) -> Result<Client> {
    let mut client = program.client().await?;
    client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    client.apply(&everyone(&[(Metric::Macs, "100%")])?, false).await.map_err(failure)?;
    Ok(client)
}

/// Devices on the line.
pub(crate) async fn connected(
    coordinator: &Path,
    devices: usize,
    (report_every, steady): (Duration, Duration),
) -> Result<Value> {
    let home = Home::new(coordinator)?;
    let mut program = home.start(None).await?;
    let mut client = prepared(&program).await?;
    let before = program.resident()?;
    let crowd = Arc::new(Crowd::new(devices, report_every));
    for index in 0..devices {
        let device = Device::new(&crowd, program.fleet(), index);
        tokio::spawn(device.live(Duration::from_secs(1) * devices as u32 / RAMP));
    }
    let (all, settled) = (|| crowd.on_line() == devices, |times: usize| crowd.settled() >= times * devices);
    until("all are on the line", LIMIT, all).await?;
    until("all run the first variant", LIMIT, || settled(1)).await?;
    let reporting = reporting(&program, &crowd, steady).await?;
    let resident = program.resident()?;

    let since = crowd.now();
    client.apply(&everyone(&[(Metric::Macs, "50%")])?, false).await.map_err(failure)?;
    let applied = crowd.now() - since;
    until("all are assigned the second", LIMIT, || crowd.assigned_since(since).len() == devices).await?;
    let assigned = crowd.assigned_since(since);
    until("all run it", LIMIT, || settled(2)).await?;

    let cut = Instant::now();
    crowd.cut.send_modify(|cuts| *cuts += 1);
    until("all lines are cut", LIMIT, || crowd.on_line() < devices / 10).await?;
    until("all are back", LIMIT, all).await?;
    let cut = cut.elapsed();

    let killed = Instant::now();
    program.kill()?;
    let program = home.start(Some(&program)).await?;
    until("all are back after the kill", LIMIT, all).await?;
    let killed = killed.elapsed();
    Ok(json!({
        "devices": devices,
        "bytes_a_connection": resident.saturating_sub(before) / devices as u64,
        "reporting": reporting,
        "apply_ms": applied as f64 / 1e3,
        "directive_p99_ms": (quantile(&assigned, 0.99) - since) as f64 / 1e3,
        "directive_all_ms": (quantile(&assigned, 1.0) - since) as f64 / 1e3,
        "back_after_cut_s": cut.as_secs_f64(),
        "back_after_kill_s": killed.as_secs_f64(),
        "bytes_a_connection_after": program.resident()?.saturating_sub(before) / devices as u64,
    }))
}

/// What reports cost, over `steady`.
async fn reporting(program: &Program, crowd: &Crowd, steady: Duration) -> Result<Value> {
    let (before, first) = (program.processor()?, crowd.acknowledged());
    tokio::time::sleep(steady).await;
    let (after, last) = (program.processor()?, crowd.acknowledged());
    let reports = (last - first).max(1);
    let us = |index: usize| (after[index] - before[index]).as_micros() as f64 / reports as f64;
    let waits = crowd.waits();
    Ok(json!({
        "reports": reports,
        "user_us": us(0),
        "system_us": us(1),
        "acknowledged_p50_ms": quantile(&waits, 0.5) as f64 / 1e3,
        "acknowledged_p99_ms": quantile(&waits, 0.99) as f64 / 1e3,
    }))
}

/// Devices that are known and not on the line.
pub(crate) async fn registered(coordinator: &Path, devices: usize) -> Result<Value> {
    let home = Home::new(coordinator)?;
    let program = home.start(None).await?;
    prepared(&program).await?;
    let (before, began) = (program.resident()?, Instant::now());
    let mut tasks = Vec::new();
    for registrar in 0..REGISTRARS {
        let channel = dial(program.fleet(), registrar).await?;
        for place in 0..AT_ONCE {
            let (channel, first) = (channel.clone(), registrar * AT_ONCE + place);
            tasks.push(tokio::spawn(async move {
                for index in (first..devices).step_by(REGISTRARS * AT_ONCE) {
                    let (_say, mut heard) = greet(channel.clone(), index, None).await?;
                    heard.message().await?.context("a welcome")?;
                }
                anyhow::Ok(())
            }));
        }
    }
    for task in tasks {
        task.await??;
    }
    let took = began.elapsed();
    let grown = program.resident()?.saturating_sub(before);
    let mut program = program;
    program.kill()?;
    let began = Instant::now();
    let again = home.start(Some(&program)).await?;
    Ok(json!({
        "registered": devices,
        "took_s": took.as_secs_f64(),
        "bytes": grown,
        "restart_s": began.elapsed().as_secs_f64(),
        "bytes_after_restart": again.resident()?,
    }))
}

/// Devices on a bare server's line.
pub(crate) async fn bare(devices: usize) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let told = folder.path().join("addresses.json");
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hold").arg("--told").arg(&told);
    let program = Program::start(command, &told).await?;
    let before = program.resident()?;
    let crowd = Arc::new(Crowd::new(devices, Duration::from_secs(10)));
    for index in 0..devices {
        tokio::spawn(
            Device::new(&crowd, program.fleet(), index).live(Duration::from_secs(1) * devices as u32 / RAMP),
        );
    }
    until("all are on the line", LIMIT, || crowd.on_line() == devices).await?;
    let grown = program.resident()?.saturating_sub(before);
    Ok(json!({ "bare": devices, "bytes_a_connection": grown / devices as u64 }))
}
