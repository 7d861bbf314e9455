//! One thread that runs requests in the order they came; those that would wait too long are refused at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use secateur_common::caps;
use tokio::sync::oneshot;

use super::protocol::Refused;
use super::served::Served;

/// The way to the thread; it ends when nobody can reach it any more.
pub(super) struct Worker {
    queue: SyncSender<Job>,
}

/// A request, the variant it took, and who waits for it.
struct Job {
    served: Arc<Served>,
    rows: usize,
    values: Vec<f32>,
    reply: oneshot::Sender<Result<Vec<f32>, Refused>>,
}

impl Worker {
    /// Starts the thread. A request waits up to `delay` for others to be taken with it.
    pub(super) fn start(delay: Duration) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(caps::SERVE_QUEUE);
        std::thread::Builder::new().name("inference".into()).spawn(move || work(&jobs, delay))?;
        Ok(Self { queue })
    }

    /// The outputs of `rows` samples by `served`.
    pub(super) async fn run(
        &self,
        served: Arc<Served>,
        rows: usize,
        values: Vec<f32>,
    ) -> Result<Vec<f32>, Refused> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { served, rows, values, reply }).map_err(|_| Refused::Busy)?;
        answer.await.unwrap_or_else(|_| Err(Refused::Failed("the inference was given up".into())))
    }
}

fn work(jobs: &Receiver<Job>, delay: Duration) {
    while let Ok(first) = jobs.recv() {
        for job in gather(jobs, first, delay) {
            run(job);
        }
    }
}

/// The first request and those that come within `delay`; without one, those that are there.
fn gather(jobs: &Receiver<Job>, first: Job, delay: Duration) -> Vec<Job> {
    let end = Instant::now() + delay;
    let mut taken = vec![first];
    while taken.len() < caps::SERVE_TOGETHER {
        match jobs.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(job) => taken.push(job),
            Err(_) => break,
        }
    }
    taken
}

fn run(Job { served, rows, values, reply }: Job) {
    // A defect of a kernel must not end the serving of all others.
    let outputs = catch_unwind(AssertUnwindSafe(|| served.run(rows, &values, || reply.is_closed())));
    let outputs = outputs.unwrap_or_else(|_| Err(Refused::Failed("the inference panicked".into())));
    drop(served);
    let _ = reply.send(outputs);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::super::tests::served;
    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_what_waits_is_taken_together() {
        let (queue, jobs) = sync_channel(2);
        let (worker, served) = (Worker { queue }, Arc::new(served(3)));
        let run = || Box::pin(worker.run(served.clone(), 1, vec![1.0, 0.0, 0.0]));
        let (mut first, mut second, third) = (run(), run(), run());
        poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
        poll_fn(|context| Poll::Ready(second.as_mut().poll(context).is_pending())).await;
        assert_eq!(third.await, Err(Refused::Busy));
        let taken = gather(&jobs, jobs.recv().unwrap(), Duration::ZERO);
        assert_eq!(taken.len(), 2);
        taken.into_iter().for_each(super::run);
        assert_eq!((first.await, second.await), (Ok(vec![3.0, 3.0]), Ok(vec![3.0, 3.0])));
    }

    #[tokio::test]
    async fn the_thread_ends_with_those_who_can_reach_it() {
        let (queue, jobs) = sync_channel(1);
        let thread = std::thread::spawn(move || work(&jobs, Duration::ZERO));
        let worker = Worker { queue };
        assert_eq!(worker.run(Arc::new(served(1)), 2, vec![1.0; 6]).await, Ok(vec![3.0, 1.0, 3.0, 1.0]));
        drop(worker);
        thread.join().unwrap();
    }
}
