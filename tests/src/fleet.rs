//! A whole fleet in one process: a coordinator and agents over real sockets on free ports, in a temporary folder.
//!
//! What is waited for is a state, looked at again and again within a limit; nothing depends on how long a step takes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use secateur_cli::client::{Client, Device, NewModel};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "a test's join token";
const POLL: Duration = Duration::from_millis(50);

/// Everything that runs. Dropped, it stops the agents and removes the folder.
pub struct Fleet {
    folder: tempfile::TempDir,
    coordinator: Option<Coordinator>,
    /// The address that agents know; the coordinator takes it again after a restart.
    fleet: SocketAddr,
    agents: Vec<JoinHandle<Result<()>>>,
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
        let coordinator = Coordinator::start(folder.path(), free, ladder).await?;
        let fleet = coordinator.running.fleet;
        Ok(Self { folder, coordinator: Some(coordinator), fleet, agents: Vec::new() })
    }

    /// Stops the coordinator and starts it again on the same folder and the same address for agents.
    ///
    /// # Errors
    /// Where it fails to stop or to start.
    pub async fn restart_coordinator(&mut self, ladder: &[f64]) -> Result<()> {
        let Coordinator { running, shutdown } = self.coordinator.take().context("no coordinator runs")?;
        shutdown.cancel();
        running.wait().await?;
        self.coordinator = Some(Coordinator::start(self.folder.path(), self.fleet, ladder).await?);
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
        let config = secateur_agent::Config {
            coordinator: format!("http://{}", self.fleet),
            name: name.parse()?,
            join_token: TOKEN.into(),
            data: self.folder.path().join(name),
            shard: Some(example(shard)),
            labels: labels.parse()?,
            report_s: 1,
        };
        self.agents.push(tokio::spawn(secateur_agent::run(config)));
        Ok(())
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
        self.agents.iter().for_each(JoinHandle::abort);
    }
}

impl Coordinator {
    async fn start(folder: &Path, fleet: SocketAddr, ladder: &[f64]) -> Result<Self> {
        let config = secateur_coordinator::Config {
            fleet,
            operator: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: folder.join("coordinator"),
            join_token: TOKEN.into(),
            heartbeat_s: 1,
            max_nmse: 1e-3,
            ladder: ladder.to_vec(),
        };
        let shutdown = CancellationToken::new();
        let running = secateur_coordinator::start(config, shutdown.clone()).await?;
        Ok(Self { running, shutdown })
    }
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

/// The client's failures are written for people and are no `std` errors.
pub fn failure(failure: secateur_cli::failure::Failure) -> anyhow::Error {
    anyhow::anyhow!("{failure}")
}
