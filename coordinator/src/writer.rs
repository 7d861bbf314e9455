//! The one writer. Changes that wait together are drafted one after the other, planned, and stored in one commit; then
//! they are seen, who asked for them is answered, and the sessions that they concern are woken.
//!
//! Architecture invariants: every change is stored before it is seen; who asked is answered only after that. A session
//! asks for one change at a time, so a device that floods has one place in each batch and holds up nobody.

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::CoordinatorError;
use crate::draft::Draft;
use crate::shared::Shared;
use crate::store::StoreError;

/// How long a change waits for others, to share the commit; and one that nobody waits for, which can share with more.
const LINGER: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(250);
/// Changes of one commit, at most.
const BATCH: usize = 1024;
/// Changes that wait for the writer, at most; who asks for more waits.
const QUEUE: usize = 4096;

/// A change that someone asks for, and how it is answered once it is stored or cannot be.
pub(crate) struct Order {
    work: Box<dyn FnOnce(&mut Draft<'_>) -> Answer + Send>,
    linger: Duration,
}

type Stored = Result<(), Arc<StoreError>>;
type Answer = Box<dyn FnOnce(Stored) + Send>;
type Answered<T> = oneshot::Receiver<Result<T, CoordinatorError>>;

/// Where changes are asked for.
#[derive(Clone)]
pub(crate) struct Orders(mpsc::Sender<Order>);

/// Where they wait.
pub(crate) type Queue = mpsc::Receiver<Order>;

pub(crate) fn orders() -> (Orders, Queue) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Orders(sender), queue)
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
        self.ordered(order(LINGER, work)).await
    }

    /// As [`Self::change`], for what nobody waits for: it shares its commit with more.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn change_patiently<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        self.ordered(order(PATIENCE, work)).await
    }

    async fn ordered<T>(&self, (order, answer): (Order, Answered<T>)) -> Result<T, CoordinatorError> {
        self.0.send(order).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// As [`Self::change`], on a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn change_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
    ) -> Result<T, CoordinatorError> {
        let (order, answer) = order(LINGER, work);
        self.0.blocking_send(order).map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())?
    }
}

fn order<T: Send + 'static>(
    linger: Duration,
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
    (Order { work, linger }, answered)
}

fn stopped() -> CoordinatorError {
    CoordinatorError::Server("the coordinator stops".into())
}

/// Writes what is asked for, as long as someone can ask.
pub(crate) async fn run(shared: Weak<Shared>, mut queue: Queue) {
    while let Some(orders) = together(&mut queue).await {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || write(&shared, orders)).await {
            tracing::error!(%error, "a change panicked; those that came with it are dropped");
        }
    }
}

/// The next batch: what comes until the least patient of it has waited enough, or it is full.
async fn together(queue: &mut Queue) -> Option<Vec<Order>> {
    let first = queue.recv().await?;
    let mut until = Instant::now() + first.linger;
    let mut batch = vec![first];
    while batch.len() < BATCH
        && let Ok(Some(order)) = tokio::time::timeout_at(until, queue.recv()).await
    {
        until = until.min(Instant::now() + order.linger);
        batch.push(order);
    }
    Some(batch)
}

fn write(shared: &Shared, orders: Vec<Order>) {
    let (stored, answers, next, requests) = {
        let now = shared.state();
        let mut draft = Draft::new(&now, &shared.lines, (shared.clock)());
        let answers: Vec<Answer> = orders.into_iter().map(|order| (order.work)(&mut draft)).collect();
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
    answers.into_iter().for_each(|answer| answer(stored.clone()));
}
