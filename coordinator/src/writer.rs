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

/// How long a change waits for others, to share the commit.
const LINGER: Duration = Duration::from_millis(20);
/// Changes of one commit, at most.
const BATCH: usize = 1024;
/// Changes that wait for the writer, at most; who asks for more waits.
const QUEUE: usize = 4096;

/// A change that someone asks for, and how it is answered once it is stored or cannot be.
pub(crate) struct Order(Box<dyn FnOnce(&mut Draft<'_>) -> Answer + Send>);

type Stored = Result<(), Arc<StoreError>>;
type Answer = Box<dyn FnOnce(Stored) + Send>;

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
        let (order, answer) = order(work);
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
        let (order, answer) = order(work);
        self.0.blocking_send(order).map_err(|_| stopped())?;
        answer.blocking_recv().map_err(|_| stopped())?
    }
}

fn order<T: Send + 'static>(
    work: impl FnOnce(&mut Draft<'_>) -> Result<T, CoordinatorError> + Send + 'static,
) -> (Order, oneshot::Receiver<Result<T, CoordinatorError>>) {
    let (answer, answered) = oneshot::channel();
    let order = Order(Box::new(move |draft| {
        let result = work(draft);
        Box::new(move |stored| {
            // Nobody listens where the session ended meanwhile.
            let _ = answer.send(result.and_then(|value| Ok(stored.map(|()| value)?)));
        })
    }));
    (order, answered)
}

fn stopped() -> CoordinatorError {
    CoordinatorError::Server("the coordinator stops".into())
}

/// Writes what is asked for, as long as someone can ask.
pub(crate) async fn run(shared: Weak<Shared>, mut queue: Queue) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        tokio::time::sleep(LINGER).await;
        while batch.len() < BATCH
            && let Ok(order) = queue.try_recv()
        {
            batch.push(order);
        }
        let Some(shared) = shared.upgrade() else { return };
        let orders = std::mem::take(&mut batch);
        if let Err(error) = tokio::task::spawn_blocking(move || write(&shared, orders)).await {
            tracing::error!(%error, "a change panicked; those that came with it are dropped");
        }
    }
}

fn write(shared: &Shared, orders: Vec<Order>) {
    let (stored, answers, next, requests) = {
        let now = shared.state();
        let mut draft = Draft::new(&now, &shared.lines, (shared.clock)());
        let answers: Vec<Answer> = orders.into_iter().map(|order| (order.0)(&mut draft)).collect();
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
