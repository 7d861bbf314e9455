//! The real programs, killed (SIGKILL) at random moments of an update, the agent and the coordinator in turns. After each
//! kill the device's disk is read as the next start would: the old or the new variant is in force, whole, and nothing is
//! forgotten that was acknowledged; and whoever was killed comes back by itself.
//!
//! A few kills run with all tests; by hand as many as wanted:
//! `KILLS=1000 cargo test --release -p secateur-tests --test kill -- --ignored --nocapture`.

#![allow(clippy::print_stdout)] // what the kills hit is for who runs it

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use secateur_agent::cache::Cache;
use secateur_agent::install;
use secateur_cli::client::{Client, Device};
use secateur_common::{Metric, VariantId};
use secateur_model::canonical;
use secateur_tests::fleet::{TOKEN, everyone, example, failure, lenet5};

const LIMIT: Duration = Duration::from_secs(120);
/// A kill comes so much after a start, at most.
const MOMENT_MS: u64 = 700;
const SEED: u64 = 0x5eca_7e06;

/// Reproducible numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) % bound
    }
}

/// A program that is killed when it is dropped, and never told before.
struct Process(Child);

impl Process {
    fn start(what: &str, config: &Path) -> Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(config.with_extension("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_secateur-under-test"));
        command.args(["--exit-with-stdin", what, "--config"]).arg(config);
        Ok(Self(command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One coordinator, one device, and what they acknowledged.
struct Pair {
    folder: tempfile::TempDir,
    operator: SocketAddr,
    coordinator: Option<Process>,
    agent: Option<Process>,
    rungs: BTreeSet<VariantId>,
    told: Told,
    moments: Moments,
}

/// What was acknowledged and must never be forgotten.
#[derive(Default)]
struct Told {
    /// The share of the dense multiply-accumulates that was declared last.
    share: Option<&'static str>,
    accepted: u64,
    assigned: u64,
    reported: u64,
    in_force: Option<u64>,
}

/// In what state the kills found the device.
#[derive(Default, Debug)]
struct Moments {
    nothing_held: usize,
    downloading: usize,
    stored: usize,
    at_rest: usize,
}

impl Pair {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (fleet, operator) = (free()?, free()?);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let coordinator = format!(
            "fleet = '{fleet}'\noperator = '{operator}'\ndata = '{}'\njoin_token = \"{TOKEN}\"\nheartbeat_s = 1\nladder = [0.5, 0.25]\n",
            path("store"),
        );
        let agent = format!(
            "coordinator = 'http://{fleet}'\nname = 'one'\ndata = '{}'\njoin_token = \"{TOKEN}\"\nshard = '{}'\nreport_s = 1\n",
            path("device"),
            example("shards/1.npz").display(),
        );
        std::fs::write(path("coordinator.toml"), coordinator)?;
        std::fs::write(path("agent.toml"), agent)?;
        let (rungs, told, moments) = Default::default();
        let mut pair = Self { folder, operator, coordinator: None, agent: None, rungs, told, moments };
        pair.start_coordinator()?;
        pair.client().await?.add_model(lenet5()?, |_, _, _| {}).await.map_err(failure)?;
        Ok(pair)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start_coordinator(&mut self) -> Result<()> {
        self.coordinator = Some(Process::start("coordinator", &self.path("coordinator.toml"))?);
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        self.agent = Some(Process::start("agent", &self.path("agent.toml"))?);
        Ok(())
    }

    /// A client, once the coordinator answers.
    async fn client(&mut self) -> Result<Client> {
        let end = Instant::now() + LIMIT;
        loop {
            match Client::connect(&self.operator.to_string()).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > end => return Err(failure(error)),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            let process = self.coordinator.as_mut().context("no coordinator runs")?;
            ensure!(process.0.try_wait()?.is_none(), "the coordinator ended by itself");
        }
    }

    /// Declares another budget, so that an update is due.
    async fn declare(&mut self, share: &'static str) -> Result<()> {
        let mut client = self.client().await?;
        client.apply(&everyone(&[(Metric::Macs, share)])?, false).await.map_err(failure)?;
        self.told.share = Some(share);
        Ok(())
    }

    /// What the coordinator knows after it came back.
    async fn check_coordinator(&mut self) -> Result<()> {
        let mut client = self.client().await?;
        let known = rungs(&mut client).await?;
        ensure!(known.is_superset(&self.rungs), "a rung was forgotten");
        self.rungs = known;
        if let Some(share) = self.told.share {
            let changes =
                client.apply(&everyone(&[(Metric::Macs, share)])?, true).await.map_err(failure)?.changes;
            ensure!(changes.is_empty(), "what was declared was forgotten: {changes:?}");
        }
        if let Some(device) = client.devices().await.map_err(failure)?.first() {
            self.check_device(device)?;
        } else {
            ensure!(self.told.assigned == 0, "the device was forgotten");
        }
        Ok(())
    }

    /// What the coordinator knows of the device never becomes less.
    fn check_device(&mut self, device: &Device) -> Result<()> {
        ensure!(device.generation >= self.told.assigned, "an assignment was forgotten: {device:?}");
        let reported = device.report.as_ref().map_or(0, |report| report.sequence);
        ensure!(reported >= self.told.reported, "a report was forgotten: {device:?}");
        (self.told.assigned, self.told.reported) = (device.generation, reported);
        Ok(())
    }

    /// What is on the device's disk while no agent runs.
    async fn check_disk(&mut self) -> Result<()> {
        self.rungs = rungs(&mut self.client().await?).await?; // some are made on demand
        let folder = self.path("device").join("cache");
        if !folder.exists() {
            self.moments.nothing_held += 1;
            return Ok(());
        }
        let cache = Cache::open(&folder)?;
        ensure!(!folder.with_extension("corrupt-1").exists(), "the cache was damaged by the kill");
        let held = cache.held()?;
        ensure!(held.accepted.0 >= self.told.accepted, "an accepted generation was forgotten");
        self.told.accepted = held.accepted.0;
        for &variant in &held.variants {
            ensure!(self.rungs.contains(&variant), "a variant that the coordinator never made");
            let graph = install::stored(&cache, variant).context("what is held is not whole")?;
            ensure!(canonical::variant_id(&graph) == variant);
        }
        let now = held.active.as_ref().map(|active| active.generation.0);
        ensure!(now >= self.told.in_force, "what was in force is not: {now:?}, {:?}", self.told.in_force);
        self.told.in_force = now;
        let Some(active) = held.active else {
            self.moments.nothing_held += 1;
            return Ok(());
        };
        ensure!(held.variants.contains(&active.variant), "what is in force is not held");
        let sequence = cache.next_sequence(0)?;
        ensure!(sequence > self.told.reported, "a report's number would be given again");
        let files: Vec<_> = std::fs::read_dir(folder.join("files"))?.filter_map(|file| file.ok()).collect();
        let arriving = files.iter().any(|file| file.file_name().to_string_lossy().starts_with("update-"));
        match (arriving, held.accepted > active.generation) {
            (true, _) => self.moments.downloading += 1,
            (false, true) => self.moments.stored += 1,
            (false, false) => self.moments.at_rest += 1,
        }
        Ok(())
    }

    /// Both run, and the device comes to rest as declared.
    async fn settles(&mut self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        let mut client = self.client().await?;
        loop {
            let devices = client.devices().await.map_err(failure)?;
            if let [device] = &devices[..] {
                self.check_device(device)?;
                if device.settled() && device.met {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < end, "wedged: {devices:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One kill: of the coordinator one time in five, else of the agent.
    async fn kill(&mut self, dice: &mut Dice) -> Result<()> {
        let others: Vec<_> =
            ["100%", "50%", "25%"].into_iter().filter(|share| Some(*share) != self.told.share).collect();
        self.declare(others[dice.below(2) as usize]).await?;
        if self.agent.is_none() {
            self.start_agent()?;
        }
        // The one place where a test sleeps: no state is waited for, any moment will do.
        tokio::time::sleep(Duration::from_millis(dice.below(MOMENT_MS))).await;
        if dice.below(5) == 0 {
            self.coordinator = None;
            self.start_coordinator()?;
            return self.check_coordinator().await;
        }
        self.agent = None;
        self.check_disk().await
    }
}

async fn rungs(client: &mut Client) -> Result<BTreeSet<VariantId>> {
    let model = client.model("lenet5").await.map_err(failure)?;
    Ok(model.rungs.iter().map(|rung| rung.variant).collect())
}

/// An address that nobody listens at.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

async fn killed(kills: usize) -> Result<()> {
    let (mut pair, mut dice) = (Pair::start().await?, Dice(SEED));
    for kill in 1..=kills {
        pair.kill(&mut dice).await.with_context(|| format!("kill {kill}"))?;
        if kill % 10 == 0 || kill == kills {
            if pair.agent.is_none() {
                pair.start_agent()?;
            }
            pair.settles().await.with_context(|| format!("after kill {kill}"))?;
        }
    }
    println!("{kills} kills; what those of the agent found: {:?}", pair.moments);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_kills_wedge_nothing_and_lose_nothing() -> Result<()> {
    killed(30).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: KILLS, 1,000 by default"]
async fn a_thousand_kills_wedge_nothing_and_lose_nothing() -> Result<()> {
    killed(std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(1_000)).await
}
