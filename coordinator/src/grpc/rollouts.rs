//! What operators ask of rollouts.

use std::sync::Arc;

use secateur_common::{Name, RolloutPolicy};
use secateur_plan::rollout::{Fault, Rollout, Stage};
use secateur_proto::v1::{self, steer_rollout_request::Action};
use tonic::Status;

use super::status_of;
use crate::CoordinatorError;
use crate::draft::Draft;
use crate::shared::Shared;
use crate::staging;
use crate::state::State;

/// The rollouts of all groups that stage their changes, or of one.
pub(super) fn list(shared: &Shared, group: &str) -> Result<Vec<v1::Rollout>, Status> {
    let wanted = one(group)?;
    let state = shared.state();
    let rollouts: Vec<v1::Rollout> = state
        .fleet
        .groups
        .iter()
        .filter(|group| wanted.as_ref().is_none_or(|wanted| group.name == *wanted))
        .filter_map(|group| Some((group, state.fleet.rollout_of(group)?)))
        .map(|(group, policy)| view(shared, &state, policy, &group.name))
        .collect();
    match wanted {
        Some(group) if rollouts.is_empty() => {
            Err(Status::not_found(format!("there is no group {group} that stages its changes")))
        }
        _ => Ok(rollouts),
    }
}

/// Does what the operator asks; answers the rollouts that it concerned, and how many devices were let go that were ahead of
/// the store.
pub(super) async fn steer(
    shared: &Arc<Shared>,
    request: v1::SteerRolloutRequest,
) -> Result<v1::SteerRolloutResponse, Status> {
    let (group, action) = (one(&request.group)?, request.action());
    let on_draft = shared.clone();
    let work = move |draft: &mut Draft<'_>| draft_steer(draft, &on_draft, group.as_ref(), action);
    let (steered, released) = shared.orders.change(work).await.map_err(status_of)?;
    let mut rollouts = list(shared, "")?;
    rollouts.retain(|rollout| steered.iter().any(|group| group.as_str() == rollout.group));
    Ok(v1::SteerRolloutResponse { rollouts, released })
}

fn draft_steer(
    draft: &mut Draft<'_>,
    shared: &Shared,
    group: Option<&Name>,
    action: Action,
) -> Result<(Vec<Name>, u64), CoordinatorError> {
    let released = if action == Action::Resume { draft.release_held() } else { 0 };
    let groups: Vec<(Name, RolloutPolicy)> = draft
        .fleet()
        .groups
        .iter()
        .filter(|spec| group.is_none_or(|wanted| spec.name == *wanted))
        .filter_map(|spec| Some((spec.name.clone(), draft.fleet().rollout_of(spec)?.clone())))
        .collect();
    let (mut steered, mut refused) = (Vec::new(), None);
    for (name, policy) in groups {
        let Some(mut rollout) = draft.rollout(&name).cloned() else { continue };
        let done = match action {
            Action::Pause => rollout.pause(),
            Action::Resume => rollout.resume(),
            Action::Abort => rollout.abort(&staging::crew(draft.now(), &shared.lines, &policy, &name)),
            Action::Unspecified => {
                return Err(CoordinatorError::Refused("the request lacks `action`".into()));
            }
        };
        match done {
            Ok(()) => {
                draft.set_rollout(rollout);
                draft.look_at(name.clone());
                steered.push(name);
            }
            Err(error) => refused = Some(error.to_string()),
        }
    }
    match steered.is_empty() && released == 0 {
        true => Err(CoordinatorError::Refused(refused.unwrap_or_else(|| "no rollout is under way".into()))),
        false => Ok((steered, released)),
    }
}

/// A group's name as the wire carries it: empty for all.
fn one(group: &str) -> Result<Option<Name>, Status> {
    let parsed = (!group.is_empty()).then(|| group.parse()).transpose();
    parsed.map_err(|error: secateur_common::ParseError| Status::invalid_argument(error.to_string()))
}

fn view(shared: &Shared, state: &State, policy: &RolloutPolicy, group: &Name) -> v1::Rollout {
    let Some(rollout) = state.rollouts.get(group) else {
        return v1::Rollout {
            group: group.to_string(),
            stage: v1::rollout::Stage::Idle.into(),
            ..v1::Rollout::default()
        };
    };
    let crew = staging::crew(state, &shared.lines, policy, group);
    let tally = if rollout.under_way() { rollout.tally(policy, &crew).0 } else { rollout.tally.clone() };
    let (stage, wave, fault) = stage(rollout);
    v1::Rollout {
        group: group.to_string(),
        number: rollout.number,
        model: rollout.model.as_ref().map(ToString::to_string).unwrap_or_default(),
        plan: rollout.plan,
        stage: stage.into(),
        wave,
        fault: fault.map(|fault| fault.to_string()).unwrap_or_default(),
        paused: rollout.paused,
        since_unix_s: rollout.since_unix_s,
        waiting: tally.waiting,
        on_trial: tally.on_trial,
        arrived: tally.arrived,
        judged: tally.judged,
        failed: tally.failed,
        accuracy_loss: tally.loss.map(|loss| v1::AccuracyLoss {
            points: loss.points,
            low: loss.low,
            high: loss.high,
            odds: loss.odds,
        }),
        latency_factor: tally.latency_factor.unwrap_or(0.0),
        energy_factor: tally.energy_factor.unwrap_or(0.0),
    }
}

fn stage(rollout: &Rollout) -> (v1::rollout::Stage, u64, Option<Fault>) {
    use v1::rollout::Stage as Wire;
    match rollout.stage {
        Stage::Idle => (Wire::Idle, 0, None),
        Stage::Canary => (Wire::Canary, 0, None),
        Stage::Wave(wave) => (Wire::Wave, wave as u64, None),
        Stage::Done => (Wire::Done, 0, None),
        Stage::Halted(fault) => (Wire::Halted, 0, Some(fault)),
        Stage::RolledBack(fault) => (Wire::RolledBack, 0, Some(fault)),
    }
}
