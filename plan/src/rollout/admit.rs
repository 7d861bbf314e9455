//! The gate between what the planner wants for a device and what the device is told.

use secateur_common::{Generation, RolloutPolicy};

use super::{Refusal, Rollout, Trial};
use crate::{Assignment, Reason};

impl Rollout {
    /// What a device of the group is assigned, given what it was assigned `before` and what the planner wants now.
    /// `released`: its turn has come.
    pub fn admit(
        &mut self,
        policy: &RolloutPolicy,
        before: Option<&Assignment>,
        wanted: Assignment,
        released: bool,
    ) -> Assignment {
        let (Some(model), Some(variant)) = (wanted.model.clone(), wanted.variant) else { return wanted };
        if wanted.reason == Reason::Restored {
            return wanted;
        }
        // What is on trial in another group is its affair.
        let trial = before.filter(|before| before.group == wanted.group).and_then(|b| b.trial.clone());
        if self.proven(&model, variant) {
            return wanted;
        }
        if let Some(refusal) = self.refusal(&model, variant) {
            return back(refusal, before, trial, wanted);
        }
        let current = before.and_then(|before| Some((before.model.clone()?, before.variant?)));
        let on_trial_now = self.under_way() && self.model.as_ref() == Some(&model);
        if on_trial_now && (released || trial.is_some()) {
            let before = trial.map_or(current, |trial| trial.before);
            return Assignment { trial: Some(Trial { rollout: self.number, before }), ..wanted };
        }
        match current {
            // In force already: the group is new, or begins to stage its changes.
            Some((_, current)) if current == variant => {
                if before.is_some_and(|before| before.trial.is_none()) {
                    self.prove(&model, variant);
                }
                Assignment { trial, ..wanted }
            }
            None if !on_trial_now && !policy.first_install => {
                self.prove(&model, variant);
                wanted
            }
            _ => {
                self.asked = true;
                stay(before, trial, Reason::Waiting { group: self.group.clone() }, wanted)
            }
        }
    }
}

/// What was refused: a device that runs it goes back, any other stays.
fn back(
    refusal: &Refusal,
    before: Option<&Assignment>,
    trial: Option<Trial>,
    wanted: Assignment,
) -> Assignment {
    let reason = Reason::Halted { rollout: refusal.rollout, fault: refusal.fault };
    match trial.and_then(|trial| trial.before) {
        Some((model, variant)) => Assignment {
            generation: before.map_or(Generation(1), |before| before.generation.next()),
            model: Some(model),
            variant: Some(variant),
            reason,
            ..wanted
        },
        // It had nothing before, which is no better.
        None => stay(before, None, reason, wanted),
    }
}

/// The device keeps what it has.
fn stay(before: Option<&Assignment>, trial: Option<Trial>, reason: Reason, wanted: Assignment) -> Assignment {
    Assignment {
        model: before.and_then(|before| before.model.clone()),
        variant: before.and_then(|before| before.variant),
        generation: before.map_or(Generation(0), |before| before.generation),
        trial,
        reason,
        ..wanted
    }
}
