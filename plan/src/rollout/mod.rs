//! Rollouts: a change that no device of a group has proven goes to a canary, then in waves to all, and back at once
//! where quality falls.
//!
//! What is staged is the move of a device to a *variant that is not proven in its group*: of a new version of a model,
//! or a rung that nobody there has run. A move to a proven rung, such as a device's own re-prune for its latency, goes
//! at once, and so does the first variant of a device, unless the policy asks otherwise or it is on trial just then.
//!
//! A group has one [`Rollout`], which lasts: it remembers what is proven and what was refused. What a device is to go
//! back to stands in its own assignment ([`Trial`]), so the state of a rollout is its record and the assignments, and
//! storing both in one batch makes each step happen once or not at all. By level: [`round`] is asked again after each
//! change and now and then, and needs no event.

mod admit;
mod advance;
mod evidence;
mod judge;
mod round;

use std::collections::BTreeMap;
use std::fmt;

use secateur_common::{ModelName, Name, VariantId, caps};
use serde::{Deserialize, Serialize};

pub use advance::{Role, Seen, Standing};
pub use evidence::Evidence;
pub use judge::{Loss, Tally, Tried};
pub use round::{Member, crew, round};

/// One group's rollout under way, or its last, and what all of them found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rollout {
    /// The group.
    pub group: Name,
    /// Which of the group's rollouts it is, rising; 0 before the first.
    pub number: u64,
    /// The model whose variants are on trial.
    pub model: Option<ModelName>,
    /// The plan that began it.
    pub plan: u64,
    /// How far it is.
    pub stage: Stage,
    /// Whether an operator holds it where it is. It is judged all the same.
    pub paused: bool,
    /// Whether a device waits that was not there when it was last looked at.
    pub asked: bool,
    /// When a device was last told to move, seconds since the Unix epoch.
    pub since_unix_s: u64,
    /// What was found when its stage last changed.
    pub tally: Tally,
    /// Variants that passed, or were in force before anything was staged; the newest last.
    proven: BTreeMap<ModelName, Vec<VariantId>>,
    /// What was halted, and why, until an operator asks for it again.
    refused: BTreeMap<ModelName, Refusal>,
}

/// How far a rollout is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nothing is staged.
    Idle,
    /// The first devices run what is on trial.
    Canary,
    /// So does this wave, from 1; the last wave is of all devices.
    Wave(usize),
    /// All passed.
    Done,
    /// Judged bad: its devices are told to go back.
    Halted(Fault),
    /// Judged bad, and every device that is connected is back.
    RolledBack(Fault),
}

/// Why a rollout was halted.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Devices answer worse than before by this, percentage points.
    Accuracy {
        /// The loss.
        lost: f64,
        /// What is accepted.
        accepted: f64,
    },
    /// Devices are slower than before by this factor at the 95th percentile.
    Latency {
        /// The median over devices.
        factor: f64,
        /// What is accepted.
        accepted: f64,
    },
    /// An inference takes this factor more energy than before.
    Energy {
        /// The median over devices.
        factor: f64,
        /// What is accepted.
        accepted: f64,
    },
    /// Devices could not activate it.
    Failures {
        /// So many.
        failed: u64,
        /// Of so many.
        of: u64,
    },
    /// An operator aborted it.
    Aborted,
}

/// Stands in the assignment of a device that runs what is on trial.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The rollout's number.
    pub rollout: u64,
    /// What the device ran before anything was on trial there; none where it ran nothing.
    pub before: Option<(ModelName, VariantId)>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Refusal {
    rollout: u64,
    fault: Fault,
    /// No variant of the model was ever proven: none is tried again.
    whole_model: bool,
    variants: Vec<VariantId>,
}

/// Why a rollout does not do what an operator asks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RolloutError {
    #[error("group {0} has no rollout under way")]
    NotUnderWay(Name),
    #[error("the rollout of group {0} is neither paused nor halted")]
    NothingToResume(Name),
}

impl Rollout {
    /// Of a group whose devices have `in_force`, which is taken as proven.
    pub fn new(group: Name, in_force: impl IntoIterator<Item = (ModelName, VariantId)>) -> Self {
        let mut rollout = Self {
            group,
            number: 0,
            model: None,
            plan: 0,
            stage: Stage::Idle,
            paused: false,
            asked: false,
            since_unix_s: 0,
            tally: Tally::default(),
            proven: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        for (model, variant) in in_force {
            rollout.prove(&model, variant);
        }
        rollout
    }

    /// Whether devices are being moved to what is on trial.
    pub fn under_way(&self) -> bool {
        matches!(self.stage, Stage::Canary | Stage::Wave(_))
    }

    /// Whether it is to be looked at now and then: it is under way, devices are going back, or one waits.
    pub fn moving(&self) -> bool {
        self.under_way() || self.asked || matches!(self.stage, Stage::Halted(_))
    }

    /// Whether `variant` passed in this group.
    pub fn proven(&self, model: &ModelName, variant: VariantId) -> bool {
        self.proven.get(model).is_some_and(|proven| proven.contains(&variant))
    }

    /// Releases no further device until resumed.
    ///
    /// # Errors
    /// Where nothing is under way.
    pub fn pause(&mut self) -> Result<(), RolloutError> {
        if !self.under_way() {
            return Err(RolloutError::NotUnderWay(self.group.clone()));
        }
        self.paused = true;
        Ok(())
    }

    /// Goes on after a pause; after a rollback, tries again from the canary on what was refused.
    ///
    /// # Errors
    /// Where it is neither paused nor halted.
    pub fn resume(&mut self) -> Result<(), RolloutError> {
        match (self.paused, self.stage) {
            (true, _) => self.paused = false,
            (false, Stage::RolledBack(_)) => {
                self.refused.retain(|model, _| Some(model) != self.model.as_ref());
                self.stage = Stage::Idle;
            }
            _ => return Err(RolloutError::NothingToResume(self.group.clone())),
        }
        Ok(())
    }

    /// Halts it: its devices go back.
    ///
    /// # Errors
    /// Where nothing is under way.
    pub fn abort(&mut self, crew: &[Standing]) -> Result<(), RolloutError> {
        if !self.under_way() {
            return Err(RolloutError::NotUnderWay(self.group.clone()));
        }
        self.halt(Fault::Aborted, crew);
        Ok(())
    }

    fn prove(&mut self, model: &ModelName, variant: VariantId) {
        let proven = self.proven.entry(model.clone()).or_default();
        if !proven.contains(&variant) {
            proven.push(variant);
            proven.drain(..proven.len().saturating_sub(caps::VERDICTS));
        }
    }

    fn halt(&mut self, fault: Fault, crew: &[Standing]) {
        (self.stage, self.paused) = (Stage::Halted(fault), false);
        let Some(model) = self.model.clone() else { return };
        let mut variants = self.refused.remove(&model).map(|old| old.variants).unwrap_or_default();
        for tried in crew.iter().filter_map(Standing::tried) {
            if !variants.contains(&tried.variant) {
                variants.push(tried.variant);
            }
        }
        variants.drain(..variants.len().saturating_sub(caps::VERDICTS));
        let whole_model = !self.proven.contains_key(&model);
        self.refused.insert(model, Refusal { rollout: self.number, fault, whole_model, variants });
    }

    fn refusal(&self, model: &ModelName, variant: VariantId) -> Option<&Refusal> {
        self.refused.get(model).filter(|refusal| refusal.whole_model || refusal.variants.contains(&variant))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("idle"),
            Self::Canary => f.write_str("canary"),
            Self::Wave(wave) => write!(f, "wave {wave}"),
            Self::Done => f.write_str("done"),
            Self::Halted(fault) => write!(f, "halted: {fault}; its devices go back"),
            Self::RolledBack(fault) => write!(f, "rolled back: {fault}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accuracy { lost, accepted } => {
                write!(f, "accuracy fell by {lost:.1} points where {accepted:.1} are accepted")
            }
            Self::Latency { factor, accepted } => {
                write!(f, "p95 rose to {factor:.2} × what it was where {accepted:.2} × is accepted")
            }
            Self::Energy { factor, accepted } => {
                write!(f, "energy rose to {factor:.2} × what it was where {accepted:.2} × is accepted")
            }
            Self::Failures { failed, of } => write!(f, "{failed} of {of} devices could not activate it"),
            Self::Aborted => f.write_str("an operator aborted it"),
        }
    }
}
