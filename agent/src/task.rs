//! What the coordinator wants, being brought about: `core` is asked for the next step after each one.

use std::time::{Duration, Instant};

use anyhow::bail;
use secateur_common::{ByteCount, Cause};

use crate::core::{Step, UpdateRef, Wanted, next};
use crate::install;
use crate::link::{Assignment, Download, Link, Outcome, Probe};
use crate::run::Agent;

/// Received bytes are made durable at least this often.
const FLUSH_BYTES: u64 = 64 * 1024;
/// Bytes of a piece's message beside its own, about: gRPC's head and its fields. HTTP/2's heads are the connection's.
const FRAMING: u64 = 5 + 9;
/// The status is renewed so often at most.
const RENEWAL: Duration = Duration::from_millis(250);

/// An assignment on its way into force.
pub(crate) struct Task {
    wanted: Wanted,
    probe: Option<Probe>,
    /// Bytes of the update that made what is wanted.
    received: ByteCount,
    fetch: Option<Fetch>,
    /// The day's bytes are spent: it goes on when there are more.
    pub(crate) paused: bool,
}

/// A download under way.
struct Fetch {
    update: UpdateRef,
    download: Download,
    received: u64,
    flushed: u64,
    renewed: Instant,
    /// Where the part that was asked for ends; none where all was.
    granted: Option<u64>,
}

impl Task {
    /// Takes up `assignment`; of a task that it replaces the download goes on if it is of the same update, else is abandoned.
    pub(crate) fn new(assignment: Assignment, before: Option<Self>) -> Self {
        let Assignment { wanted, probe } = assignment;
        let same = |fetch: &Fetch| wanted.update.is_some_and(|update| update.id == fetch.update.id);
        let fetch = before.and_then(|before| before.fetch).filter(same);
        Self { wanted, probe, received: ByteCount(0), fetch, paused: false }
    }

    /// The next piece of the download; never, where none is under way.
    pub(crate) async fn piece(task: Option<&mut Self>) -> anyhow::Result<Option<Vec<u8>>> {
        match task.and_then(|task| task.fetch.as_mut()) {
            Some(fetch) => Ok(fetch.download.next().await?),
            None => std::future::pending().await,
        }
    }

    /// Whether pieces are to come.
    pub(crate) fn downloads(&self) -> bool {
        self.fetch.is_some()
    }

    /// Whether it waits, for a download or another day.
    pub(crate) fn waits(&self) -> bool {
        self.fetch.is_some() || self.paused
    }
}

impl Agent {
    /// Does the next steps, until the task waits for its download or is done; then it is none.
    pub(crate) async fn advance(&mut self, link: &mut Link, mut task: Task) -> anyhow::Result<Option<Task>> {
        while !task.waits() {
            let held = self.cache.held()?;
            match next(&held, &task.wanted) {
                Step::Rest => return Ok(None),
                Step::RefuseOld => {
                    tracing::warn!(generation = %task.wanted.generation, "an older generation is refused");
                    return Ok(None);
                }
                Step::AskForFull => {
                    let failure = Some("the base of the update is not held".to_owned());
                    self.end(link, &task, failure, true).await?;
                    return Ok(None);
                }
                Step::Fetch(update) => self.fetch(link, &mut task, update).await?,
                Step::Activate => {
                    self.tell("activating", true);
                    let done = tokio::task::block_in_place(|| {
                        let (graph, loaded) =
                            install::activate(&self.cache, &task.wanted, task.probe.as_ref())?;
                        match loaded {
                            Some(loaded) => self.run(&task.wanted.model, task.wanted.variant, loaded),
                            None => self.load(&task.wanted.model, task.wanted.variant, &graph),
                        }
                        anyhow::Ok(())
                    });
                    let failure = done.err().map(|error| format!("{error:#}"));
                    // Dropped because it was damaged: a full update brings it back.
                    let gone = !self.cache.held()?.variants.contains(&task.wanted.variant);
                    self.end(link, &task, failure, gone).await?;
                    return Ok(None);
                }
            }
        }
        Ok(Some(task))
    }

    /// Begins the download where it stopped; or, where all is there, stores what it makes.
    async fn fetch(&mut self, link: &mut Link, task: &mut Task, update: UpdateRef) -> anyhow::Result<()> {
        self.cache.accept(task.wanted.generation)?;
        self.cache.drop_partials(Some(update.id))?;
        let mut received = self.cache.partial_bytes(update.id)?;
        if received > update.size.get() {
            self.cache.drop_partials(None)?;
            received = 0;
        }
        let missing = update.size.get() - received;
        let grant = self.meter.grant(&self.cache, (self.clock)())?.map(|grant| grant.min(missing));
        if grant == Some(0) && missing > 0 {
            task.paused = true;
            self.progress("paused until tomorrow", received, update.size);
            return Ok(());
        }
        self.progress("downloading", received, update.size);
        tracing::info!(from = received, of = update.size.get(), "downloading");
        let download = link.download(update, received, grant).await?;
        let granted = grant.map(|grant| received + grant);
        task.fetch =
            Some(Fetch { update, download, received, flushed: received, renewed: Instant::now(), granted });
        Ok(())
    }

    /// Takes the next piece of the download, or its end. A line that breaks is an error; what came is kept.
    pub(crate) async fn piece(
        &mut self,
        link: &mut Link,
        mut task: Task,
        piece: Option<Vec<u8>>,
    ) -> anyhow::Result<Option<Task>> {
        let Some(fetch) = &mut task.fetch else { return Ok(Some(task)) };
        if let Some(piece) = piece {
            let bytes = piece.len() as u64 + FRAMING;
            self.count(link, Cause::Update, bytes)?;
            let end = fetch.received + piece.len() as u64;
            if end > fetch.update.size.get() {
                bail!("the update is longer than was said");
            }
            self.cache.append_partial(fetch.update.id, fetch.received, &piece)?;
            fetch.received = end;
            if end - fetch.flushed >= FLUSH_BYTES {
                self.cache.flush()?;
                fetch.flushed = end;
            }
            if fetch.renewed.elapsed() >= RENEWAL {
                fetch.renewed = Instant::now();
                self.progress("downloading", end, fetch.update.size);
            }
            return Ok(Some(task));
        }
        self.cache.flush()?;
        let (update, received) = (fetch.update, fetch.received);
        let granted = fetch.granted;
        self.meter.arrived();
        task.fetch = None;
        if received < update.size.get() {
            // With a cap it comes in parts.
            if granted.is_some_and(|end| received >= end) {
                return Ok(Some(task));
            }
            bail!("the update ended early");
        }
        task.received = update.size;
        self.tell("activating", true);
        let stored = tokio::task::block_in_place(|| {
            install::store(&self.cache, &self.config.data, update, &task.wanted)
        });
        if let Err(error) = stored {
            // A base that cannot be read, or bytes that make something else: a full update helps.
            let held = self.cache.held()?.variants;
            let gone = update.base.is_some_and(|base| !held.contains(&base));
            self.end(link, &task, Some(format!("{error:#}")), gone).await?;
            return Ok(None);
        }
        Ok(Some(task))
    }

    /// Tells how the task ended.
    async fn end(
        &mut self,
        link: &Link,
        task: &Task,
        failure: Option<String>,
        base_unusable: bool,
    ) -> anyhow::Result<()> {
        let held = &self.cache.held()?.variants;
        let (wanted, update_bytes) = (&task.wanted, task.received);
        link.outcome(Outcome { wanted, failure, update_bytes, base_unusable, held }).await?;
        self.tell("idle", true);
        Ok(())
    }

    fn progress(&mut self, state: &str, received: u64, total: ByteCount) {
        (self.status.received_bytes, self.status.total_bytes) = (received, total.get());
        self.tell(state, true);
    }
}
