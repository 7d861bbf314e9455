//! What a device at rest costs its link: every frame that passes is counted, head included, and a day is made of them.
//!
//! The bytes of TCP, without its and IP's heads, and without TLS. What passes at rest is seen on a real line that beats each
//! second; how often it passes in a day follows from the configuration's heartbeat and the agent's own rule.

#![allow(clippy::print_stdout)] // the day's bytes are for who asks

use std::time::Duration;

use secateur_agent::core::telling::Telling;
use secateur_cli::client::Device;
use secateur_common::{Micros, Report};
use secateur_tests::fleet::{Fleet, everyone, failure, lenet5};
use secateur_tests::tap::{Frame, Tap, Way};

const LIMIT: Duration = Duration::from_secs(60);
const DAY_S: usize = 86_400;
/// Bytes a day that a device at rest may cost.
const GOAL: usize = 30_000;
/// HTTP/2's number of frames with data.
const DATA: u8 = 0;
/// A heartbeat: HTTP/2's head, gRPC's, an empty field.
const HEARTBEAT: usize = 9 + 5 + 2;
/// Heartbeats that are waited for.
const BEATS: usize = 8;

/// Reports in a day of measurements each ten seconds, by a machine so noisy that no two times are the same.
fn reports_a_day(report: &Report) -> usize {
    let (mut telling, mut noise) = (Telling::default(), report.clone());
    let mut told = |turn: usize| {
        let p95 = 100 << (turn.wrapping_mul(0x9e37_79b9) >> 13 & 15);
        noise.latency.p95 = Micros(p95);
        telling.tells(&noise, false, turn as u64 * 10)
    };
    (0..DAY_S / 10).filter(|&turn| told(turn)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_device_at_rest_costs_less_than_thirty_kilobytes_a_day() -> anyhow::Result<()> {
    let mut fleet = Fleet::start(&[]).await?;
    let mut client = fleet.client().await?;
    client.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
    client.apply(&everyone(&[])?, false).await.map_err(failure)?;
    let (tap, address) = Tap::open(fleet.address()).await?;
    fleet.start_agent_at(address, "one", "class=small", "shards/1.npz")?;
    let settled = |devices: &[Device]| devices.len() == 1 && devices.iter().all(Device::settled);
    let devices = fleet.wait_for("it settles", LIMIT, settled).await?;
    let report = devices[0].report.clone().expect("a report");

    // From now on the line is at rest.
    let settled = tap.frames().len();
    let beat = |frame: &Frame| frame.kind == DATA && frame.bytes == HEARTBEAT;
    let beats =
        |rest: &[Frame], way: Way| rest.iter().filter(|frame| frame.way == way && beat(frame)).count();
    let end = tokio::time::Instant::now() + LIMIT;
    let rest = loop {
        let rest = tap.frames().split_off(settled);
        if [Way::Up, Way::Down].iter().all(|&way| beats(&rest, way) >= BEATS) {
            break rest;
        }
        anyhow::ensure!(tokio::time::Instant::now() < end, "no heartbeats: {rest:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(rest.iter().all(|frame| frame.kind == DATA), "heartbeats, and what is news: {rest:?}");

    // A report and its acknowledgement, as large as any that passed.
    let largest = |way: Way| rest.iter().filter(|frame| frame.way == way).map(|frame| frame.bytes).max();
    let reporting = largest(Way::Up).unwrap_or_default() + largest(Way::Down).unwrap_or_default();
    let config: secateur_coordinator::Config = toml::from_str("data = 'd'\njoin_token = 't'")?;
    let (beats, reports) = (DAY_S.div_ceil(config.heartbeat_s as usize), reports_a_day(&report));
    let day = beats * 2 * HEARTBEAT + reports * reporting;
    let told = format!("{day} bytes a day: {beats} heartbeats, {reports} reports of {reporting}");
    println!("{told}");
    assert!(reporting > 100 && reports > 24 && day <= GOAL, "{told}");
    Ok(())
}
