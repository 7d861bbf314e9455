//! One round of a group's rollout: every device through the gate, step after step until nothing changes.

use std::collections::BTreeSet;

use secateur_common::{DeviceId, ModelName, RolloutPolicy};

use super::{Rollout, Seen, Standing};
use crate::{Assignment, DeviceView, Reason};

/// A device of the group.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// What it measured.
    pub device: &'a DeviceView,
    /// What else is seen of it.
    pub seen: Seen,
    /// What it is assigned.
    pub before: Option<&'a Assignment>,
    /// What the planner wants for it.
    pub wanted: Assignment,
}

/// Steps of one round, at most: begin, release, and a stage or two that have nobody to wait for.
const STEPS: usize = 64;

/// What each of `members`, all of the group, is assigned now, in their order. `rollout` is changed; both belong in one
/// batch of the store.
pub fn round(
    rollout: &mut Rollout,
    policy: &RolloutPolicy,
    model: &ModelName,
    plan: u64,
    members: &[Member<'_>],
    now_unix_s: u64,
) -> Vec<Assignment> {
    let mut released = BTreeSet::new();
    let mut assigned = admit_all(rollout, policy, members, &released);
    for _ in 0..STEPS {
        let (crew, old) = (crew(policy, members, &assigned), rollout.clone());
        let next = rollout.advance(policy, model, plan, &crew, now_unix_s);
        if next.is_empty() && *rollout == old {
            break;
        }
        released.extend(next);
        assigned = admit_all(rollout, policy, members, &released);
    }
    rollout.asked = assigned.iter().any(|assignment| matches!(assignment.reason, Reason::Waiting { .. }));
    assigned
}

fn admit_all(
    rollout: &mut Rollout,
    policy: &RolloutPolicy,
    members: &[Member<'_>],
    released: &BTreeSet<DeviceId>,
) -> Vec<Assignment> {
    let admit = |member: &Member<'_>| {
        let released = released.contains(&member.device.id);
        rollout.admit(policy, member.before, member.wanted.clone(), released)
    };
    members.iter().map(admit).collect()
}

/// The devices that the rollout has to do with.
pub fn crew(policy: &RolloutPolicy, members: &[Member<'_>], assigned: &[Assignment]) -> Vec<Standing> {
    let standing = |(member, assignment): (&Member<'_>, &Assignment)| {
        Standing::of(policy, member.device, member.seen, assignment)
    };
    members.iter().zip(assigned).filter_map(standing).collect()
}
