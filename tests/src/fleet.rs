//! A whole fleet in one process: a coordinator and agents over real sockets on free ports, in a temporary folder.
//!
//! What is waited for is a state, looked at again and again within a limit; nothing depends on how long a step takes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use secateur_cli::client::{Client, Device, NewModel};
use secateur_common::{FleetSpec, GroupSpec, Metric};
use secateur_coordinator::Clock;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The join token.
pub const TOKEN: &str = "a test's join token";
const POLL: Duration = Duration::from_millis(50);

/// Everything that runs. Dropped, it stops the agents and removes the folder.
pub struct Fleet {
    folder: tempfile::TempDir,
    coordinator: Option<Coordinator>,
    /// The address that agents know; the coordinator takes it again after a restart.
    fleet: SocketAddr,
    agents: Vec<JoinHandle<Result<()>>>,
    /// What every clock of the fleet is ahead of this machine's, seconds.
    ahead: Arc<AtomicU64>,
}

struct Coordinator {
    running: secateur_coordinator::Running,
    shutdown: CancellationToken,
}

impl Fleet {
    /// Starts a coordinator on free ports, with rungs at these shares of the dense MACs.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(ladder: &[f64]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let ahead = Arc::new(AtomicU64::new(0));
        let coordinator = Coordinator::start(clock(&ahead), folder.path(), free, ladder).await?;
        let fleet = coordinator.running.fleet;
        Ok(Self { folder, coordinator: Some(coordinator), fleet, agents: Vec::new(), ahead })
    }

    /// Stops the coordinator and starts it again on the same folder and the same address for agents.
    ///
    /// # Errors
    /// Where it fails to stop or to start.
    pub async fn restart_coordinator(&mut self, ladder: &[f64]) -> Result<()> {
        let Coordinator { running, shutdown } = self.coordinator.take().context("no coordinator runs")?;
        shutdown.cancel();
        running.wait().await?;
        self.coordinator =
            Some(Coordinator::start(clock(&self.ahead), self.folder.path(), self.fleet, ladder).await?);
        Ok(())
    }

    /// A client at the operator's address.
    ///
    /// # Errors
    /// Where no coordinator answers.
    pub async fn client(&self) -> Result<Client> {
        let coordinator = self.coordinator.as_ref().context("no coordinator runs")?;
        Client::connect(&coordinator.running.operator.to_string()).await.map_err(failure)
    }

    /// Starts an agent with a bundled shard; it runs until the fleet is dropped.
    ///
    /// # Errors
    /// Where the name or the labels are not well formed.
    pub fn start_agent(&mut self, name: &str, labels: &str, shard: &str) -> Result<()> {
        self.start_agent_at(self.fleet, name, labels, shard)
    }

    /// As [`Self::start_agent`]; the agent dials `address`.
    ///
    /// # Errors
    /// As there.
    pub fn start_agent_at(
        &mut self,
        address: SocketAddr,
        name: &str,
        labels: &str,
        shard: &str,
    ) -> Result<()> {
        let config = secateur_agent::Config {
            coordinator: format!("http://{address}"),
            name: name.parse()?,
            join_token: TOKEN.into(),
            data: self.folder.path().join(name),
            shard: Some(example(shard)),
            labels: labels.parse()?,
            report_s: 1,
            serve: None,
            serve_grpc: None,
            serve_socket: None,
            serve_delay_us: 0,
            watts: None,
        };
        self.agents.push(tokio::spawn(secateur_agent::run_by(clock(&self.ahead), config)));
        Ok(())
    }

    /// Puts all clocks of the fleet forward to the next day.
    pub fn next_day(&self) {
        self.ahead.fetch_add(86_400, Ordering::Relaxed);
    }

    /// The folder of an agent.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where agents dial.
    pub fn address(&self) -> SocketAddr {
        self.fleet
    }

    /// Waits until `condition` holds of the devices.
    ///
    /// # Errors
    /// Where it does not within `limit`; tells what the devices were then. Where an agent ended.
    pub async fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&[Device]) -> bool,
    ) -> Result<Vec<Device>> {
        let mut client = self.client().await?;
        let end = Instant::now() + limit;
        loop {
            let devices = client.devices().await.map_err(failure)?;
            if condition(&devices) {
                return Ok(devices);
            }
            if self.agents.iter().any(JoinHandle::is_finished) {
                bail!("an agent ended while waiting for: {what}");
            }
            if Instant::now() > end {
                bail!("not within {limit:?}: {what}; the devices: {devices:#?}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.shutdown.cancel();
        }
        // They end before their folders go.
        let agents = std::mem::take(&mut self.agents);
        agents.iter().for_each(JoinHandle::abort);
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for agent in agents {
                    let _ = agent.await;
                }
            });
        });
    }
}

impl Coordinator {
    async fn start(clock: Clock, folder: &Path, fleet: SocketAddr, ladder: &[f64]) -> Result<Self> {
        let config = secateur_coordinator::Config {
            fleet,
            operator: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: folder.join("coordinator"),
            join_token: TOKEN.into(),
            heartbeat_s: 1,
            max_nmse: 1e-3,
            max_divergence: 2e-3,
            ladder: ladder.to_vec(),
        };
        let shutdown = CancellationToken::new();
        let running = secateur_coordinator::start_by(clock, config, shutdown.clone()).await?;
        Ok(Self { running, shutdown })
    }
}

fn clock(ahead: &Arc<AtomicU64>) -> Clock {
    let ahead = ahead.clone();
    Arc::new(move || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs() + ahead.load(Ordering::Relaxed)
    })
}

/// A file of `examples/`.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// The bundled model and its data.
///
/// # Errors
/// Where a file cannot be read.
pub fn lenet5() -> Result<NewModel> {
    Ok(NewModel {
        name: "lenet5".parse()?,
        onnx: std::fs::read(example("lenet5.onnx"))?,
        calibration: std::fs::read(example("calibration.npz"))?,
        validation: std::fs::read(example("validation.npz"))?,
    })
}

/// The whole fleet runs LeNet-5 within these limits.
///
/// # Errors
/// Where one is none of its metric.
pub fn everyone(limits: &[(Metric, &str)]) -> Result<FleetSpec> {
    let (name, selector) = ("all".parse()?, Default::default());
    let (model, budget) = ("lenet5".parse()?, Default::default());
    let mut group = GroupSpec { name, selector, model, budget, rollout: None };
    for (metric, limit) in limits {
        group.budget.set(*metric, Some(metric.parse(limit)?));
    }
    Ok(FleetSpec { groups: vec![group], rollout: None })
}

/// The client's failures are written for people and are no `std` errors.
pub fn failure(failure: secateur_cli::failure::Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}
