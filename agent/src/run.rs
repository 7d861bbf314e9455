//! The shell: dials, asks `core` for the next step, does it, measures, reports; for ever.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use secateur_common::{ByteCount, Digest, Report, caps, probe_input};
use secateur_engine::{Dataset, Session};
use secateur_model::Graph;

use crate::Config;
use crate::backoff::Backoff;
use crate::cache::Cache;
use crate::core::{Active, Step, UpdateRef, Wanted, next};
use crate::link::{Assignment, Heard, Link, Outcome, Probe};
use crate::measure::measure;
use crate::status::Status;

/// The agent's own state; what must survive is in the cache.
struct Agent {
    config: Config,
    cache: Cache,
    shard: Option<Dataset>,
    status: Status,
    /// The graph in force.
    graph: Option<Graph>,
}

/// Received bytes are made durable at least this often.
const FLUSH_BYTES: usize = 64 * 1024;

/// Runs the agent; returns only with an error that it cannot live with.
///
/// # Errors
/// Where the data folder or the shard cannot be used.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut agent = Agent::open(config)?;
    let credential = credential(&agent.config.data)?;
    let mut backoff = Backoff::default();
    loop {
        agent.tell("connecting", false);
        let dialled = Instant::now();
        let held = agent.cache.held()?;
        match Link::open(&agent.config, credential.clone(), &held).await {
            Ok(link) => {
                if let Err(error) = agent.serve(link).await {
                    tracing::warn!("session ended: {error:#}");
                }
            }
            Err(error) => tracing::warn!("cannot connect: {:#}", anyhow::Error::from(error)),
        }
        agent.tell("connecting", false);
        tokio::time::sleep(backoff.after(dialled.elapsed(), jitter())).await;
    }
}

impl Agent {
    fn open(config: Config) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&config.data)
            .with_context(|| format!("cannot use {}", config.data.display()))?;
        let shard = config.shard.as_deref().map(read_shard).transpose()?;
        let cache = Cache::open(&cache_folder(&config.data))?;
        let mut agent = Self { cache, shard, status: Status::default(), graph: None, config };
        // In force is what can be read: a damaged variant is dropped, and the one before takes its place.
        while let Some(active) = agent.cache.held()?.active {
            match agent.stored(active.variant) {
                Ok(graph) => {
                    agent.graph = Some(graph);
                    break;
                }
                Err(error) => {
                    tracing::error!("the variant in force is damaged and is dropped: {error:#}");
                    agent.cache.drop_variant(active.variant)?;
                    agent.cache.fall_back()?;
                }
            }
        }
        Ok(agent)
    }

    /// One session: what is wanted is brought about, and measured now and then.
    async fn serve(&mut self, mut link: Link) -> anyhow::Result<()> {
        self.tell("idle", true);
        for report in self.cache.outbox()? {
            link.report(&report).await?;
        }
        let mut measurement = tokio::time::interval(Duration::from_secs(self.config.report_s.max(1)));
        loop {
            tokio::select! {
                heard = link.hear() => match heard? {
                    Heard::Wanted(assignment) => {
                        self.reconcile(&mut link, *assignment).await?;
                        measurement.reset_immediately();
                    }
                    Heard::Acknowledged(sequence) => self.cache.acknowledged(sequence)?,
                    Heard::Nothing => {}
                },
                _ = measurement.tick() => self.report(&link).await?,
            }
        }
    }

    async fn reconcile(&mut self, link: &mut Link, assignment: Assignment) -> anyhow::Result<()> {
        let Assignment { wanted, probe } = assignment;
        let mut received = ByteCount(0);
        loop {
            let held = self.cache.held()?;
            match next(&held, &wanted) {
                Step::Rest => return Ok(()),
                Step::RefuseOld => {
                    tracing::warn!(generation = %wanted.generation, "an older generation is refused");
                    return Ok(());
                }
                Step::AskForFull => {
                    let failure = Some("the base of the update is not held".to_owned());
                    let base_unusable = true;
                    let told = Outcome {
                        wanted: &wanted,
                        failure,
                        update_bytes: received,
                        base_unusable,
                        held: &held.variants,
                    };
                    return Ok(link.outcome(told).await?);
                }
                Step::Fetch(update) => {
                    self.cache.accept(wanted.generation)?;
                    let bytes = self.download(link, update).await?;
                    received = update.size;
                    if let Err(error) = tokio::task::block_in_place(|| self.store(update, &wanted, &bytes)) {
                        // A base that cannot be read, or bytes that make something else: a full update helps.
                        let failure = Some(format!("{error:#}"));
                        let held = self.cache.held()?.variants;
                        let told = Outcome {
                            wanted: &wanted,
                            failure,
                            update_bytes: received,
                            base_unusable: update.base.is_some_and(|base| !held.contains(&base)),
                            held: &held,
                        };
                        link.outcome(told).await?;
                        self.tell("idle", true);
                        return Ok(());
                    }
                }
                Step::Activate => {
                    let done = tokio::task::block_in_place(|| self.activate(&wanted, probe.as_ref()));
                    let failure = done.err().map(|error| format!("{error:#}"));
                    let held = self.cache.held()?.variants;
                    // Dropped because it was damaged: a full update brings it back.
                    let base_unusable = !held.contains(&wanted.variant);
                    let told = Outcome {
                        wanted: &wanted,
                        failure,
                        update_bytes: received,
                        base_unusable,
                        held: &held,
                    };
                    link.outcome(told).await?;
                    self.tell("idle", true);
                    return Ok(());
                }
            }
        }
    }

    /// Downloads what is missing of the update. A line that breaks is an error; what came is kept.
    async fn download(&mut self, link: &mut Link, update: UpdateRef) -> anyhow::Result<Vec<u8>> {
        self.cache.drop_partials(Some(update.id))?;
        let mut bytes = self.cache.partial(update.id)?;
        if bytes.len() as u64 > update.size.get() {
            self.cache.drop_partials(None)?;
            bytes.clear();
        }
        self.progress(bytes.len() as u64, update.size.get());
        let mut download = link.download(update, bytes.len() as u64).await?;
        let mut flushed = bytes.len();
        while let Some(piece) = download.next().await? {
            if (bytes.len() + piece.len()) as u64 > update.size.get() {
                bail!("the update is longer than was said");
            }
            self.cache.append_partial(update.id, bytes.len() as u64, &piece)?;
            bytes.extend_from_slice(&piece);
            if bytes.len() - flushed >= FLUSH_BYTES {
                self.cache.flush()?;
                flushed = bytes.len();
            }
            self.progress(bytes.len() as u64, update.size.get());
        }
        self.cache.flush()?;
        if (bytes.len() as u64) < update.size.get() {
            bail!("the update ended early");
        }
        Ok(bytes)
    }

    /// Applies a whole update and stores the variant that it makes. Whatever comes of it, the bytes are used up.
    fn store(&mut self, update: UpdateRef, wanted: &Wanted, bytes: &[u8]) -> anyhow::Result<()> {
        self.tell("activating", true);
        let made = self.applied(update, wanted, bytes);
        self.cache.drop_partials(None)?;
        self.cache.store_variant(wanted.variant, &made?)?;
        Ok(())
    }

    /// The full encoding of the variant that an update makes.
    fn applied(&self, update: UpdateRef, wanted: &Wanted, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        if Digest::of(bytes) != update.id {
            bail!("the update's bytes are not those that were said");
        }
        let manifest = secateur_update::Manifest::read(bytes)?;
        if (manifest.base, manifest.target, manifest.generation)
            != (update.base, wanted.variant, wanted.generation)
        {
            bail!("the update is for another base, variant or generation than the one assigned");
        }
        let base = match update.base {
            None => None,
            Some(base) => match self.stored(base) {
                Ok(graph) => Some(graph),
                Err(error) => {
                    self.cache.drop_variant(base)?;
                    return Err(error.context("the base is damaged and was dropped"));
                }
            },
        };
        let applied = secateur_update::apply(base.as_ref(), bytes)?;
        Ok(secateur_update::encode(None, &applied.graph, wanted.generation)?)
    }

    /// Tests the stored variant on the probe and brings it into force.
    fn activate(&mut self, wanted: &Wanted, probe: Option<&Probe>) -> anyhow::Result<()> {
        self.tell("activating", true);
        let active =
            Active { model: wanted.model.clone(), variant: wanted.variant, generation: wanted.generation };
        let graph = match self.stored(active.variant) {
            Ok(graph) => graph,
            Err(error) => {
                self.cache.drop_variant(wanted.variant)?;
                return Err(error.context("the stored variant is damaged and was dropped"));
            }
        };
        if let Some(probe) = probe {
            self_test(&graph, probe)?;
        }
        self.cache.activate(&active)?;
        self.graph = Some(graph);
        tracing::info!(variant = %active.variant.0.short(), generation = %active.generation, "in force");
        Ok(())
    }

    fn stored(&self, variant: secateur_common::VariantId) -> anyhow::Result<Graph> {
        let bytes = self.cache.variant(variant)?.context("the variant is not held")?;
        let applied = secateur_update::apply(None, &bytes)?;
        if applied.manifest.target != variant {
            bail!("the stored bytes are of another variant");
        }
        Ok(applied.graph)
    }

    async fn report(&mut self, link: &Link) -> anyhow::Result<()> {
        let (Some(graph), Some(active)) = (&self.graph, self.cache.held()?.active) else {
            self.tell("idle", true);
            return Ok(());
        };
        let measured = match tokio::task::block_in_place(|| measure(graph, self.shard.as_ref())) {
            Ok(measured) => measured,
            Err(error) => {
                // The line is good and the variant serves: what cannot be measured is no reason to end either.
                tracing::error!("cannot measure: {:#}", anyhow::Error::from(error));
                return Ok(());
            }
        };
        let report = Report {
            sequence: self.cache.next_sequence(unix_s())?,
            model: active.model,
            variant: active.variant,
            generation: active.generation,
            accuracy: measured.accuracy,
            latency: measured.latency,
            memory: measured.memory,
            model_bytes: self
                .cache
                .variant(active.variant)?
                .map_or(ByteCount(0), |b| ByteCount(b.len() as u64)),
            disk_bytes: self.cache.disk_bytes(),
            wire_bytes: self.cache.received()?,
        };
        self.cache.post(&report)?;
        link.report(&report).await?;
        self.tell("idle", true);
        Ok(())
    }

    fn progress(&mut self, received: u64, total: u64) {
        (self.status.received_bytes, self.status.total_bytes) = (received, total);
        self.tell("downloading", true);
    }

    fn tell(&mut self, state: &str, connected: bool) {
        if let Ok(held) = self.cache.held() {
            self.status.generation = held.accepted.0;
            self.status.variant = held.active.map(|active| active.variant);
        }
        self.status.state = state.to_owned();
        self.status.connected = connected;
        self.status.write(&self.config.data);
    }
}

fn cache_folder(data: &Path) -> PathBuf {
    data.join("cache")
}

fn read_shard(path: &Path) -> anyhow::Result<Dataset> {
    let doing = || format!("cannot read the shard {}", path.display());
    let size = std::fs::metadata(path).with_context(doing)?.len();
    if size > caps::DATASET_BYTES as u64 {
        bail!("the shard {} is over the limit", path.display());
    }
    Dataset::from_npz(&std::fs::read(path).with_context(doing)?).with_context(doing)
}

/// The variant must give the outputs that the coordinator got.
fn self_test(graph: &Graph, probe: &Probe) -> anyhow::Result<()> {
    let session = Session::load(graph)?;
    let input = probe_input(probe.seed, session.input_shape().iter().product());
    let output = session.run(&input)?;
    let scale = probe.expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let fits = |(found, expected): (&f32, &f32)| (found - expected).abs() <= probe.tolerance * scale;
    if output.len() < probe.expected.len() || !output.iter().zip(&probe.expected).all(fits) {
        bail!("self-test failed: the outputs on the probe are not those expected");
    }
    Ok(())
}

/// This device's secret, in a file of its own beside the cache; made on the first start.
fn credential(data: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = data.join("device.key");
    let doing = || format!("cannot use the credential {}", path.display());
    if path.exists() {
        let key = std::fs::read(&path).with_context(doing)?;
        if key.len() != KEY_BYTES {
            bail!(
                "the credential {} has not {KEY_BYTES} bytes: restore it, or delete it to enrol anew",
                path.display()
            );
        }
        return Ok(key);
    }
    let key = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()]
        .iter()
        .flat_map(|part| *part.as_bytes())
        .collect::<Vec<_>>();
    let temporary = data.join("device.key.new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(doing)?;
    file.write_all(&key).and_then(|()| file.sync_all()).with_context(doing)?;
    std::fs::rename(&temporary, &path).with_context(doing)?;
    std::fs::File::open(data).and_then(|folder| folder.sync_all()).with_context(doing)?;
    Ok(key)
}

/// Bytes of a credential: two random UUIDs, 244 random bits.
const KEY_BYTES: usize = 32;

/// Seconds since the Unix epoch by this device's clock.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// From 0 to 1, different in each agent and each time.
fn jitter() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}
