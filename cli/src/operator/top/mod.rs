//! `secateur top`: the whole fleet at a glance, live on a terminal.
//!
//! `frame` turns what the coordinator answered into lines, `events` tells what changed from one answer to the next; here
//! are the questions, the clock and the terminal.

mod events;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Coordinator;
use crate::client::{Client, Device, Rollout, Status};
use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::screen::Screen;
use events::Event;

/// `secateur top`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TopArgs {
    /// Show the fleet once and end; also where stdout is no terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    at: Coordinator,
}

/// The fleet at one moment.
#[derive(Clone, Debug, Default, Serialize)]
struct Snapshot {
    status: Status,
    devices: Vec<Device>,
    rollouts: Vec<Rollout>,
}

impl Snapshot {
    async fn take(client: &mut Client) -> Outcome<Self> {
        let (status, devices) = (client.status().await?, client.devices().await?);
        Ok(Self { status, devices, rollouts: client.rollouts(None).await? })
    }
}

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A coordinator that takes longer to answer counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(5);
/// Events that are kept to be shown.
const EVENTS: usize = 200;

/// Runs `secateur top`.
///
/// # Errors
/// Where the coordinator does not answer at first, and where the terminal cannot be written. While it is shown, a
/// coordinator that is away is waited for.
pub(crate) async fn main(args: TopArgs, output: Output) -> Outcome {
    let mut client = Client::connect(&args.at.coordinator).await?;
    let first = Snapshot::take(&mut client).await?;
    if args.once || output.json || !Screen::is_there() {
        return output.print(&first, || {
            let lines = frame::lines(&first, &args.at.coordinator, &frame::Live::default());
            lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
        });
    }
    tokio::select! {
        result = watch(client, &args.at.coordinator, first) => result,
        () = crate::signal::stop() => Ok(()),
    }
}

/// Shows the fleet again each second, for ever; dropped, it gives the terminal back.
async fn watch(mut client: Client, address: &str, mut shown: Snapshot) -> Outcome {
    let screen = Screen::open()?;
    let mut log: VecDeque<Event> = VecDeque::new();
    let mut beat = tokio::time::interval(EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let looked = tokio::time::timeout(PATIENCE, Snapshot::take(&mut client)).await;
        let late = |_| Err(Failure::work("the coordinator does not answer", "see its log"));
        let trouble = match looked.unwrap_or_else(late) {
            Ok(now) => {
                let at = unix_s();
                log.extend(events::between(&shown, &now).into_iter().map(|text| Event { at, text }));
                log.drain(..log.len().saturating_sub(EVENTS));
                shown = now;
                None
            }
            Err(failure) => Some(failure.what().to_owned()),
        };
        let live = frame::Live { rows: Some(Screen::size().1), events: log.make_contiguous(), trouble };
        screen.draw(&frame::lines(&shown, address, &live))?;
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
