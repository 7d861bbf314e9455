//! `secateur rollout`: how far each group's rollout is, and an operator's hand on it.

use secateur_common::Name;

use super::Coordinator;
use crate::client::{Client, Rollout, Steer};
use crate::failure::Outcome;
use crate::output::{Align, Output, table};

/// `secateur rollout`
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum RolloutCommand {
    /// How far the rollouts are and what their devices measured
    Status(Which),
    /// Move no further device; what is on trial is judged all the same
    Pause(Which),
    /// Go on after a pause; after a rollback, try again from the canary; let devices ahead of a restored store move
    Resume(Which),
    /// Halt: devices go back to what they had, which they still hold
    Abort(Which),
}

/// The rollouts that a command concerns.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Which {
    /// Of this group; of all where none is named
    group: Option<Name>,
}

/// Runs `secateur rollout`.
///
/// # Errors
/// As the coordinator answers.
pub(crate) async fn main(command: RolloutCommand, at: &Coordinator, output: Output) -> Outcome {
    let mut client = Client::connect(&at.coordinator).await?;
    let (steer, which) = match command {
        RolloutCommand::Status(which) => {
            let rollouts = client.rollouts(which.group.as_ref()).await?;
            return output.print(&rollouts, || match rollouts.is_empty() {
                true => {
                    "no group stages its changes: give one a [group.rollout] in the fleet file".to_owned()
                }
                false => rollout_table(&rollouts),
            });
        }
        RolloutCommand::Pause(which) => (Steer::Pause, which),
        RolloutCommand::Resume(which) => (Steer::Resume, which),
        RolloutCommand::Abort(which) => (Steer::Abort, which),
    };
    let steered = client.steer(steer, which.group.as_ref()).await?;
    output.print(&steered, || {
        let mut parts = Vec::new();
        if !steered.rollouts.is_empty() {
            parts.push(rollout_table(&steered.rollouts));
        }
        if steered.released > 0 {
            parts.push(format!("{} device(s) ahead of the store may move again", steered.released));
        }
        parts.join("\n")
    })
}

/// A row a rollout.
pub(super) fn rollout_table(rollouts: &[Rollout]) -> String {
    let columns = [
        ("group", Align::Left),
        ("rollout", Align::Right),
        ("model", Align::Left),
        ("stage", Align::Left),
        ("on trial", Align::Right),
        ("judged", Align::Right),
        ("accuracy lost, points", Align::Left),
        ("p95", Align::Right),
        ("energy", Align::Right),
    ];
    let factor = |factor: Option<f64>| factor.map_or("–".to_owned(), |factor| format!("× {factor:.2}"));
    let row = |rollout: &Rollout| {
        let loss = rollout.accuracy_loss.map_or("–".to_owned(), |loss| {
            format!("{:.1} ({:.1} to {:.1})", loss.points, loss.low, loss.high)
        });
        vec![
            rollout.group.clone(),
            rollout.number.to_string(),
            rollout.model.clone(),
            stage(rollout),
            format!("{} of {}", rollout.on_trial, rollout.on_trial + rollout.waiting),
            rollout.judged.to_string(),
            loss,
            factor(rollout.latency_factor),
            factor(rollout.energy_factor),
        ]
    };
    table(&columns, &rollouts.iter().map(row).collect::<Vec<_>>())
}

/// Where a rollout is, and why if it is not going on.
pub(super) fn stage(rollout: &Rollout) -> String {
    let wave = if rollout.wave > 0 { format!(" {}", rollout.wave) } else { String::new() };
    let paused = if rollout.paused { ", paused" } else { "" };
    let fault = if rollout.fault.is_empty() { String::new() } else { format!(": {}", rollout.fault) };
    format!("{}{wave}{paused}{fault}", rollout.stage.replace('_', " "))
}
