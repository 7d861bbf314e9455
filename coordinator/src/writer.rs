//! The one writer. Changes that wait together are drafted one after the other, planned, and stored in one commit; then
//! they are seen, who asked for them is answered, and the sessions that they concern are woken.
//!
//! Architecture invariants: every change is stored before it is seen; who asked is answered only after that. A session
//! asks for one change at a time, so a device that floods has one place in each batch and holds up nobody.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::CoordinatorError;
use crate::draft::Draft;
use crate::shared::Shared;
use crate::store::StoreError;

/// How long a change waits for others, to share the commit; and one that nobody waits for, which can share with more.
const LINGER: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(250);
/// Changes of each kind that wait for the writer, and share a commit, at most; who asks for more waits.
const QUEUE: usize = 4096;

/// A change that someone asks for, and how it is answered once it is stored or cannot be.
type Order = Box<dyn FnOnce(&mut Draft<'_>) -> Answer + Send>;

type Stored = Result<(), Arc<StoreError>>;
type Answer = Box<dyn FnOnce(Stored) + Send>;
type Answered<T> = oneshot::Receiver<Result<T, CoordinatorError>>;

/// Where changes are asked for.
#[derive(Clone)]
pub(crate) struct Orders {
    hasty: mpsc::Sender<Order>,
    patient: mpsc::Sender<Order>,
}

/// Where they wait.
pub(crate) struct Queue {
    hasty: mpsc::Receiver<Order>,
    patient: mpsc::Receiver<Order>,
}

pub(crate) fn orders() -> (Orders, Queue) {
    let ((hasty, hasty_queue), (patient, patient_queue)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
    (Orders { hasty, patient }, Queue { hasty: hasty_queue, patient: patient_queue })
}

impl Orders {
    /// Has `work` done on the next draft; returns when its result is stored. Work that refuses must not have changed
    /// anything.
    ///
    /// # Errors
    /// Where `work` refuses, or what it drafted cannot be stored; nothing is changed then.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        ordered(&self.hasty, work).await
    }

    /// As [`Self::change`], for what nobody waits for: it shares its commit with more.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn change_patiently<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        ordered(&self.patient, work).await
    }

    /// As [`Self::change`], on a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn change_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        let (order, answer) = order(work);
        self.hasty.blocking_send(order).map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())?
    }
}

async fn ordered<T: Send + 'static>(
    queue: &mpsc::Sender<Order>,
    work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
) -> Result<T, CoordinatorError> {
    let (order, answer) = order(work);
    queue.send(order).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())?
}

fn order<T: Send + 'static>(
    work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
) -> (Order, Answered<T>) {
    let (answer, answered) = oneshot::channel();
    let work = Box::new(move |draft: &mut Draft<'_>| -> Answer {
        let result = work(draft);
        Box::new(move |stored| {
            // Nobody listens where the session ended meanwhile.
            let _ = answer.send(result.and_then(|value| Ok(stored.map(|()| value)?)));
        })
    });
    (work, answered)
}

fn stopped() -> CoordinatorError {
    CoordinatorError::Server("the coordinator stops".into())
}

/// Writes what is asked for, as long as someone can ask.
pub(crate) async fn run(shared: Weak<Shared>, mut queue: Queue) {
    while let Some(orders) = queue.together().await {
        let Some(shared) = shared.upgrade() else { return };
        match tokio::task::spawn_blocking(move || write(&shared, orders)).await {
            // Sessions are woken from here at less cost than from a thread that is none of the runtime's.
            Ok((stored, answers)) => answers.into_iter().for_each(|answer| answer(stored.clone())),
            Err(error) => tracing::error!(%error, "a change panicked; those that came with it are dropped"),
        }
    }
}

impl Queue {
    /// The next batch: what comes until the least patient of it has waited enough. Nobody is woken meanwhile for each
    /// that comes.
    async fn together(&mut self) -> Option<Vec<Order>> {
        let (first, mut hasty) = tokio::select! {
            biased;
            order = self.hasty.recv() => (order?, true),
            order = self.patient.recv() => (order?, false),
        };
        let mut batch = vec![first];
        if !hasty && let Ok(order) = tokio::time::timeout(PATIENCE, self.hasty.recv()).await {
            batch.push(order?);
            hasty = true;
        }
        if hasty {
            tokio::time::sleep(LINGER).await;
        }
        for queue in [&mut self.hasty, &mut self.patient] {
            batch.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(QUEUE));
        }
        Some(batch)
    }
}

/// Writes them; how that went, and who is to be told.
fn write(shared: &Shared, orders: Vec<Order>) -> (Stored, Vec<Answer>) {
    let (stored, answers, next, requests) = {
        let now = shared.state();
        let mut draft = Draft::new(&now, &shared.lines, (shared.clock)());
        let answers: Vec<Answer> = orders.into_iter().map(|order| order(&mut draft)).collect();
        draft.plan();
        let (mut next, requests) = draft.finish();
        let changes = next.changes(&now, &shared.lines);
        // Sessions read on meanwhile.
        let stored = if changes.is_empty() { Ok(()) } else { shared.store.commit(&changes) };
        (stored.map_err(Arc::new), answers, next, requests)
    };
    match &stored {
        Ok(()) => {
            let told = next.show(&mut shared.state.write().unwrap_or_else(PoisonError::into_inner));
            shared.lines.wake(told.iter());
            shared.pruning.ask(requests);
        }
        Err(error) => {
            let error: &dyn std::error::Error = error;
            tracing::error!(error, "what was asked for cannot be stored");
        }
    }
    (stored, answers)
}
