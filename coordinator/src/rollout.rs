//! What each session is to tell its device. It makes no choices: the planner did.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use secateur_common::{DeviceId, Digest, Generation, ModelName, VariantId};
use secateur_plan::{Plan, Reason};
use tokio::sync::OwnedMutexGuard;

use crate::CoordinatorError;
use crate::shared::Shared;
use crate::state::{State, Undo};
use crate::store::{Store, records};
use crate::updates::{self, Encoded};

/// An older plan, whole: the `newest` with what came after undone, if the store remembers all of it.
pub(crate) fn older(store: &dyn Store, newest: Plan, id: u64) -> Result<Option<Plan>, CoordinatorError> {
    let mut plan = newest;
    while plan.id > id {
        let Some(Undo { before, .. }) = records::undo(store, plan.id)? else { return Ok(None) };
        for (device, assignment) in before {
            match assignment {
                Some(assignment) => drop(plan.assignments.insert(device, assignment)),
                None => drop(plan.assignments.remove(&device)),
            }
        }
        plan.id -= 1;
    }
    Ok(Some(plan))
}

/// What a session is to tell its device.
#[derive(Clone, Debug)]
pub(crate) struct Directive {
    pub(crate) generation: Generation,
    pub(crate) model: ModelName,
    pub(crate) variant: VariantId,
    pub(crate) means: Arc<Means>,
}

/// How a device comes to a variant; the same for all that hold the same.
#[derive(Debug)]
pub(crate) struct Means {
    /// Absent where the device holds the variant.
    pub(crate) update: Option<Arc<Encoded>>,
    /// What the self-test must find.
    pub(crate) expected: Vec<f32>,
}

/// What decides a device's means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    pub(crate) variant: VariantId,
    pub(crate) generation: Generation,
    /// None where it holds the variant.
    pub(crate) bases: Option<Vec<VariantId>>,
}

/// Means that were found lately: devices of one kind are told one after the other.
#[derive(Debug, Default)]
pub(crate) struct Found {
    lately: Mutex<VecDeque<(Case, Arc<Means>)>>,
    /// Held while means are sought, so that who needs the same waits for them without a thread.
    seeking: Arc<tokio::sync::Mutex<()>>,
}

/// Cases kept.
const KEPT: usize = 64;

impl Found {
    fn find(&self, case: &Case) -> Option<Arc<Means>> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.iter().find(|(of, _)| of == case).map(|(_, means)| means.clone())
    }

    /// An update that was offered lately, by its id.
    pub(crate) fn update(&self, id: Digest) -> Option<Arc<Encoded>> {
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.iter().filter_map(|(_, means)| means.update.as_ref()).find(|update| update.id == id).cloned()
    }

    fn keep(&self, case: Case, means: Arc<Means>) {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.truncate(KEPT - 1);
        lately.push_front((case, means));
    }
}

/// What the device should run, unless it does already. Waits where an update must be encoded.
pub(crate) async fn directive(
    shared: &Arc<Shared>,
    id: DeviceId,
) -> Result<Option<Directive>, CoordinatorError> {
    let Some((model, case)) = wanted(&shared.state(), id) else { return Ok(None) };
    let means = match shared.found.find(&case) {
        Some(means) => means,
        None => {
            let seeking = shared.found.seeking.clone().lock_owned().await;
            match shared.found.find(&case) {
                Some(means) => means,
                None => seek(shared, &case, seeking).await?,
            }
        }
    };
    Ok(Some(Directive { generation: case.generation, model, variant: case.variant, means }))
}

/// The model, and what decides how the device comes to its variant; none where it has nothing to do.
pub(crate) fn wanted(state: &State, id: DeviceId) -> Option<(ModelName, Case)> {
    let (assignment, device) = (state.assignment(id)?, state.devices.get(&id)?);
    let (variant, model, generation) =
        (assignment.variant?, assignment.model.clone()?, assignment.generation);
    if device.active == Some((variant, generation)) || assignment.reason == Reason::Restored {
        return None;
    }
    let holds = device.held.contains(&variant);
    let bases = (!holds).then(|| state.bases(device));
    Some((model, Case { variant, generation, bases }))
}

/// Finds it, though who asked may go meanwhile: the next who asks has it.
async fn seek(
    shared: &Arc<Shared>,
    case: &Case,
    seeking: OwnedMutexGuard<()>,
) -> Result<Arc<Means>, CoordinatorError> {
    let (shared, case) = (shared.clone(), case.clone());
    let sought = tokio::task::spawn_blocking(move || {
        let _seeking = seeking;
        let (store, Case { variant, generation, bases }) = (&shared.store, &case);
        let make = |bases: &Vec<VariantId>| shared.updates.make(store, bases, *variant, *generation);
        let update = bases.as_ref().map(make).transpose()?;
        let means = Arc::new(Means { update, expected: updates::probe(store, *variant)? });
        shared.found.keep(case, means.clone());
        Ok(means)
    });
    sought.await.map_err(|error| CoordinatorError::Server(error.to_string()))?
}
