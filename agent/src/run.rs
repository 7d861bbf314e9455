//! The shell: dials, listens, has the next step done, measures on schedule; for ever.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use secateur_common::{Cause, ModelName, VariantId, caps};
use secateur_engine::Dataset;
use secateur_model::Graph;
use tokio::time::{Interval, MissedTickBehavior};

use crate::Config;
use crate::backoff::Backoff;
use crate::cache::Cache;
use crate::core::Active;
use crate::core::pulse::Felt;
use crate::core::telling::Telling;
use crate::credential::credential;
use crate::link::{Heard, Link};
use crate::loaded::Loaded;
use crate::meter::Meter;
use crate::serve::Serving;
use crate::status::Status;
use crate::task::Task;
use crate::{install, report};

/// The agent's own state; what must survive is in the cache.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) cache: Cache,
    pub(crate) status: Status,
    /// The variant in force, compiled.
    loaded: Option<Arc<Loaded>>,
    /// Answers applications; none where none may ask.
    pub(crate) serving: Option<Serving>,
    pub(crate) meter: Meter,
    pub(crate) clock: Clock,
    shard: Option<Dataset>,
    measurement: Interval,
    telling: Telling,
}

/// Seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Where the day's bytes are spent, how often the clock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the agent; returns only with an error that it cannot live with.
///
/// # Errors
/// Where the data folder or the shard cannot be used.
pub async fn run(config: Config) -> anyhow::Result<()> {
    run_by(Arc::new(report::unix_s), config).await
}

/// Runs the agent by a given clock; otherwise as [`run`].
///
/// # Errors
/// As there.
pub async fn run_by(clock: Clock, config: Config) -> anyhow::Result<()> {
    let mut agent = Agent::open(clock, config)?;
    agent.serve_applications().await?;
    let credential = credential(&agent.config.data)?;
    let ended = agent.live(&credential).await;
    // After an error of the disk sled waits for ever when it is dropped; what must be durable was flushed before.
    std::mem::forget(agent);
    ended
}

impl Agent {
    fn open(clock: Clock, config: Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data)
            .with_context(|| format!("cannot use {}", config.data.display()))?;
        let shard = config.shard.as_deref().map(read_shard).transpose()?;
        let cache = Cache::open(&config.data.join("cache"))?;
        cache.drop_unheld()?;
        let mut measurement = tokio::time::interval(Duration::from_secs(config.report_s.max(1)));
        measurement.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let meter = Meter::open(&cache)?;
        let (status, serving, telling) = (Status::default(), None, Telling::default());
        Ok(Self { cache, meter, clock, shard, status, loaded: None, serving, config, measurement, telling })
    }

    /// Listens for applications, and runs what is in force.
    async fn serve_applications(&mut self) -> anyhow::Result<()> {
        self.serving = Serving::start(&self.config).await?;
        tokio::task::block_in_place(|| {
            if let Some((active, graph)) = in_force(&self.cache)? {
                self.load(&active.model, active.variant, &graph);
            }
            Ok(())
        })
    }

    /// Compiles a variant that is in force, and runs it from now on; one that cannot be loaded is logged, and what ran
    /// before runs on.
    pub(crate) fn load(&mut self, model: &ModelName, variant: VariantId, graph: &Graph) {
        match Loaded::load(&self.cache, variant, graph) {
            Ok(loaded) => self.run(model, variant, loaded),
            Err(error) => tracing::error!("cannot run it: {:#}", anyhow::Error::from(error)),
        }
    }

    /// Serves and measures `loaded` from now on.
    pub(crate) fn run(&mut self, model: &ModelName, variant: VariantId, loaded: Loaded) {
        let loaded = Arc::new(loaded);
        if let Some(serving) = &self.serving {
            serving.put(model, variant, loaded.clone());
        }
        self.loaded = Some(loaded);
    }

    /// Dials again and again; returns only with an error.
    async fn live(&mut self, credential: &[u8]) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            while !self.meter.may_dial((self.clock)()) {
                self.tell("the day's bytes are spent", false);
                self.meanwhile(tokio::time::sleep(LOOK)).await;
            }
            self.tell("connecting", false);
            self.meter.connected();
            let dialled = Instant::now();
            let (config, held) = (self.config.clone(), self.cache.held()?);
            match self.meanwhile(Link::open(&config, credential.to_vec(), &held)).await {
                Ok(link) => {
                    backoff.spread(link.spread);
                    if let Err(error) = self.serve(link).await {
                        tracing::warn!("session ended: {error:#}");
                    }
                }
                Err(error) => tracing::warn!("cannot connect: {:#}", anyhow::Error::from(error)),
            }
            self.tell("connecting", false);
            self.meanwhile(tokio::time::sleep(backoff.after(dialled.elapsed(), jitter()))).await;
        }
    }

    /// One session: what is wanted is brought about, and measured now and then. A newer assignment takes the place of the
    /// one under way.
    async fn serve(&mut self, mut link: Link) -> anyhow::Result<()> {
        self.tell("idle", true);
        self.telling.connected();
        let waiting = self.cache.outbox()?;
        if let Some(last) = waiting.last() {
            self.cache.sending(last.sequence)?;
        }
        for report in waiting {
            link.report(&report).await?;
        }
        let mut task: Option<Task> = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let under_way = task.is_some();
            task = match task.take() {
                Some(task) => self.advance(&mut link, task).await?,
                None => None,
            };
            if under_way && task.is_none() {
                self.measurement.reset_immediately();
            }
            tokio::select! {
                biased; // what came is seen before it is missed
                heard = link.hear() => match heard? {
                    Heard::Wanted(assignment) => task = Some(Task::new(*assignment, task.take())),
                    Heard::Acknowledged(sequence, bytes) => {
                        self.cache.acknowledged(sequence)?;
                        self.count(&link, Cause::Report, bytes)?;
                    }
                    Heard::Limits { cap, watched } => {
                        self.meter.limit(&self.cache, cap)?;
                        self.telling.watch(watched);
                    }
                    Heard::Nothing => {}
                },
                _ = look.tick() => match link.pulse.look(task.as_ref().is_some_and(Task::downloads)) {
                    Felt::Well => {}
                    Felt::Due => link.heartbeat().await?,
                    Felt::Dead => bail!("the coordinator is silent"),
                },
                _ = self.measurement.tick() => if let Some(report) = self.measure()? {
                    self.cache.sending(report.sequence)?;
                    link.report(&report).await?;
                },
                piece = Task::piece(task.as_mut()) => if let Some(current) = task.take() {
                    link.pulse.heard();
                    task = self.piece(&mut link, current, piece?).await?;
                },
            }
            if let Some(task) = &mut task {
                task.paused = false; // it asks again
            }
            self.count(&link, Cause::Control, 0)?;
            if !self.meter.may_stay() {
                bail!("the day's bytes are spent");
            }
        }
    }

    /// Waits for `work` without the coordinator, and measures on schedule all the same.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = self.measurement.tick() => if let Err(error) = self.measure() {
                    tracing::error!("cannot report: {error:#}");
                },
            }
        }
    }

    /// Counts what came over the line: up to `bytes` for `cause`.
    pub(crate) fn count(&mut self, link: &Link, cause: Cause, bytes: u64) -> anyhow::Result<()> {
        Ok(self.meter.count(&self.cache, ((self.clock)(), link.received()), (cause, bytes))?)
    }

    fn measure(&mut self) -> anyhow::Result<Option<secateur_common::Report>> {
        let (cache, loaded, shard) = (&self.cache, self.loaded.as_deref(), self.shard.as_ref());
        let (telling, serving) = (&mut self.telling, self.serving.as_ref());
        let report = tokio::task::block_in_place(|| {
            let shard = (shard, self.config.watts);
            report::take(cache, telling, loaded, shard, serving, (self.clock)(), self.meter.today())
        });
        self.status.waiting_reports = self.cache.waiting()?;
        self.status.write(&self.config.data);
        report
    }

    pub(crate) fn tell(&mut self, state: &str, connected: bool) {
        if let Ok(held) = self.cache.held() {
            self.status.generation = held.accepted.0;
            self.status.variant = held.active.map(|active| active.variant);
        }
        self.status.state = state.to_owned();
        self.status.connected = connected;
        self.status.write(&self.config.data);
    }
}

/// In force is what can be read: a damaged variant is dropped, and the one before takes its place.
fn in_force(cache: &Cache) -> anyhow::Result<Option<(Active, Graph)>> {
    while let Some(active) = cache.held()?.active {
        match install::stored(cache, active.variant) {
            Ok(graph) => return Ok(Some((active, graph))),
            Err(error) => {
                tracing::error!("the variant in force is damaged and is dropped: {error:#}");
                cache.drop_variant(active.variant)?;
                cache.fall_back()?;
            }
        }
    }
    Ok(None)
}

fn read_shard(path: &Path) -> anyhow::Result<Dataset> {
    let doing = || format!("cannot read the shard {}", path.display());
    let size = std::fs::metadata(path).with_context(doing)?.len();
    if size > caps::DATASET_BYTES as u64 {
        bail!("the shard {} is over the limit", path.display());
    }
    Dataset::from_npz(&std::fs::read(path).with_context(doing)?).with_context(doing)
}

/// From 0 to 1, different in each agent and each time.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}
