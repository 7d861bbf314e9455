//! Rungs on demand: what plans ask for is pruned, one at a time, and comes back as a change of the model's ladder.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secateur_common::caps;
use secateur_plan::RungRequest;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::CoordinatorError;
use crate::catalog::{self, Answer, ModelRecord};
use crate::draft::Draft;
use crate::shared::Shared;
use crate::store::Change;

/// Requests that wait, at most; one that finds no place is asked for again by the next plan.
const WAITING: usize = 256;

/// What waits to be pruned, each once; the one that is being pruned is in front. After a restart plans ask again.
#[derive(Debug, Default)]
pub(crate) struct Pruning {
    waiting: Mutex<VecDeque<RungRequest>>,
    asked: Notify,
}

impl Pruning {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<RungRequest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ask(&self, requests: Vec<RungRequest>) {
        let mut waiting = self.waiting();
        for request in requests {
            if waiting.len() < WAITING && !waiting.contains(&request) {
                waiting.push_back(request);
                self.asked.notify_one();
            }
        }
    }
}

/// Prunes what is asked for, until shut down.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shared.pruning.asked.notified() => {}
            () = shutdown.cancelled() => return,
        }
        while let Some(request) = next(&shared) {
            let on_thread = shared.clone();
            let done = tokio::task::spawn_blocking(move || prune(&on_thread, &request)).await;
            shared.pruning.waiting().pop_front();
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "cannot prune"),
                Err(error) => tracing::error!(%error, "the pruner panicked"),
            }
            if shutdown.is_cancelled() {
                return;
            }
        }
    }
}

fn next(shared: &Shared) -> Option<RungRequest> {
    shared.pruning.waiting().front().cloned()
}

fn prune(shared: &Arc<Shared>, request: &RungRequest) -> Result<(), CoordinatorError> {
    let record = shared.state().models.get(&request.model).cloned();
    let Some(record) = record else { return Ok(()) };
    let started = std::time::Instant::now();
    let answer = catalog::on_demand(&record, request, &shared.store, &shared.config, &shared.families)?;
    let took = started.elapsed();
    tracing::info!(model = %request.model, budget = %request.budget, ?took, "pruned on demand");
    let request = request.clone();
    shared.orders.change_blocking(move |draft| {
        keep(draft, &request, answer);
        Ok(())
    })
}

/// Takes what came of `request` into its model's ladder, if the model is still there.
fn keep(draft: &mut Draft<'_>, request: &RungRequest, answer: Answer) {
    let Some(mut record) = draft.model(&request.model).cloned() else { return };
    let (rung, changes, floors): (_, Vec<Change>, _) = match answer {
        Answer::Made { rung, changes, floors } => (Some(rung), changes, floors),
        Answer::OutOfReach(floors) => (None, Vec::new(), floors),
    };
    let ModelRecord { ladder, .. } = &mut record;
    if let Some(rung) = rung.filter(|_| ladder.rungs.len() < caps::RUNGS) {
        // From dense to sparsest, so that a rung's index tells how far it is pruned.
        let sparser = ladder.rungs.iter().skip(1).position(|other| other.cost.macs < rung.cost.macs);
        ladder.rungs.insert(sparser.map_or(ladder.rungs.len(), |index| index + 1), *rung);
    } else if floors.is_empty() {
        // Nothing came of it: do not ask again.
        ladder.floors.extend(request.budget.iter().map(|(metric, limit)| (metric, limit * 1.001)));
    }
    ladder.floors.extend(floors);
    draft.store(changes);
    draft.set_model(record);
}
