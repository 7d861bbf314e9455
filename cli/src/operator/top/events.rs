//! What changed between two looks at the fleet, a line each. Pure.

use std::fmt;

use super::Snapshot;
use crate::client::{Device, Rollout};
use crate::operator::device::state;
use crate::operator::rollout;

/// Something that changed, and when it was seen.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Event {
    /// Seconds since the Unix epoch.
    pub(super) at: u64,
    pub(super) text: String,
}

impl fmt::Display for Event {
    /// The time of day is UTC, as in the programs' logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.at / 3600 % 24, self.at / 60 % 60, self.at % 60);
        write!(f, "{hours:02}:{minutes:02}:{seconds:02}  {}", self.text)
    }
}

/// What changed: rollouts, then devices.
pub(super) fn between(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let rollouts = after.rollouts.iter().filter_map(|now| {
        let was = before.rollouts.iter().find(|was| was.group == now.group);
        staged(was, now)
    });
    let devices =
        after.devices.iter().flat_map(|now| match before.devices.iter().find(|was| was.id == now.id) {
            Some(was) => changed(was, now),
            None => vec![format!("{}: joined", now.name)],
        });
    rollouts.chain(devices).collect()
}

fn staged(was: Option<&Rollout>, now: &Rollout) -> Option<String> {
    let stage = rollout::stage(now);
    let same = was.is_some_and(|was| was.number == now.number && rollout::stage(was) == stage);
    (!same && now.number > 0).then(|| format!("rollout {} of {}: {stage}", now.number, now.group))
}

fn changed(was: &Device, now: &Device) -> Vec<String> {
    let name = &now.name;
    let mut lines = Vec::new();
    if was.connected != now.connected {
        lines.push(format!("{name}: {}", if now.connected { "connected" } else { "offline" }));
    }
    if was.reason != now.reason || was.generation != now.generation {
        lines.push(format!("{name}: {}", now.reason));
    }
    if was.active != now.active && now.active.is_some() && now.active == now.variant {
        lines.push(format!("{name}: runs {} {}", now.model, now.rung_label));
    }
    if now.connected && was.connected && state(was) != state(now) {
        lines.push(format!("{name}: {}", state(now)));
    }
    lines
}
