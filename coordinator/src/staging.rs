//! Each group's changes through the gate of its rollout: what the planner wants goes in, what devices are told comes out.
//!
//! A change of one device passes the gate by itself. A whole group is looked at, and its rollout moves on, where the
//! fleet or the rollout was changed by an operator, and every second while the rollout is moving.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secateur_common::{DeviceId, ModelName, Name, RolloutPolicy, VariantId};
use secateur_plan::Assignment;
use secateur_plan::rollout::{Member, Rollout, Seen, Standing, round};
use tokio_util::sync::CancellationToken;

use crate::draft::Draft;
use crate::inventory::DeviceRecord;
use crate::lines::Lines;
use crate::shared::Shared;
use crate::state::{Assigned, State};

/// How often a rollout that is moving is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// What came out of the gates.
#[derive(Default)]
pub(crate) struct Staged {
    pub(crate) assigned: Vec<(DeviceId, Assignment)>,
    /// The rollouts that changed.
    pub(crate) rollouts: Vec<Rollout>,
}

/// Sends what the planner wants for the devices that are due through the gates of their groups.
pub(crate) fn staged(draft: &Draft<'_>, wanted: Vec<(DeviceId, Assignment)>) -> Staged {
    let mut groups: BTreeMap<Option<Name>, Vec<(DeviceId, Assignment)>> = BTreeMap::new();
    for (id, assignment) in wanted {
        groups.entry(assignment.group.clone()).or_default().push((id, assignment));
    }
    let mut staged = Staged::default();
    for (group, wanted) in groups {
        let spec = group.and_then(|name| draft.fleet().groups.iter().find(|group| group.name == name));
        match spec.and_then(|spec| Some((spec, draft.fleet().rollout_of(spec)?))) {
            Some((spec, policy)) => {
                let (old, parents) = (draft.rollout(&spec.name), parents(draft, &wanted));
                let in_force = || Rollout::new(spec.name.clone(), in_force(draft.now(), &spec.name));
                let mut rollout = old.cloned().unwrap_or_else(in_force);
                let members = members(draft, wanted, &parents);
                let assigned = if draft.looks_at(&spec.name) {
                    round(&mut rollout, policy, &spec.model, draft.next_plan(), &members, draft.unix_s())
                } else {
                    let admit = |m: &Member<'_>| rollout.admit(policy, m.before, m.wanted.clone(), false);
                    members.iter().map(admit).collect()
                };
                let ids = members.iter().map(|member| member.device.id);
                staged.assigned.extend(ids.zip(assigned));
                staged.rollouts.extend((old != Some(&rollout)).then_some(rollout));
            }
            None => staged.assigned.extend(wanted),
        }
    }
    staged
}

/// What the devices of a group have that begins to stage its changes.
fn in_force<'s>(state: &'s State, group: &'s Name) -> impl Iterator<Item = (ModelName, VariantId)> + 's {
    state
        .members(group)
        .filter_map(|Assigned { assignment, .. }| Some((assignment.model.clone()?, assignment.variant?)))
}

fn parents(draft: &Draft<'_>, wanted: &[(DeviceId, Assignment)]) -> Vec<Option<Arc<Assignment>>> {
    wanted.iter().map(|(id, _)| draft.parent(*id)).collect()
}

fn members<'d>(
    draft: &'d Draft<'_>,
    wanted: Vec<(DeviceId, Assignment)>,
    parents: &'d [Option<Arc<Assignment>>],
) -> Vec<Member<'d>> {
    let member = |((id, wanted), parent): ((DeviceId, Assignment), &'d Option<Arc<Assignment>>)| {
        let device = draft.device(id)?;
        let seen = seen(device, draft.is_connected(id));
        Some(Member { device: &device.view, seen, before: parent.as_deref(), wanted })
    };
    wanted.into_iter().zip(parents).filter_map(member).collect()
}

fn seen(device: &DeviceRecord, connected: bool) -> Seen {
    Seen { connected, active: device.active, failed: device.failed }
}

/// The devices that the rollout of `group` has to do with, as they are assigned now.
pub(crate) fn crew(state: &State, lines: &Lines, policy: &RolloutPolicy, group: &Name) -> Vec<Standing> {
    let standing = |assigned: &Assigned| {
        let device = state.devices.get(&assigned.device)?;
        let seen = seen(device, lines.is_open(assigned.device));
        Standing::of(policy, &device.view, seen, &assigned.assignment)
    };
    state.members(group).filter_map(standing).collect()
}

/// Looks at what moves, until shut down.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {}
            () = shutdown.cancelled() => return,
        }
        let moving = |rollout: &&Rollout| rollout.moving();
        let groups: Vec<Name> =
            shared.state().rollouts.values().filter(moving).map(|rollout| rollout.group.clone()).collect();
        if groups.is_empty() {
            continue;
        }
        let looked = shared.orders.change(move |draft| {
            groups.into_iter().for_each(|group| draft.look_at(group));
            Ok(())
        });
        if let Err(error) = looked.await {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot look at a rollout");
        }
    }
}

#[cfg(test)]
mod tests;
