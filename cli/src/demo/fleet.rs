//! The demo's fleet: a temporary folder, a coordinator and its agents as processes, and a link that can be slowed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secateur_common::{ByteCount, Micros};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use super::bundle;
use super::processes::Process;
use super::story::group_of;
use crate::client::Client;
use crate::failure::{Failure, OrFail, Outcome};
use crate::files;
use crate::link::{self, Loss, Shape};
use crate::progress::Progress;

/// The model's name in the demo.
pub(super) const MODEL: &str = "lenet5";
/// The rate of a link that slows nothing down.
pub(super) const FAST: ByteCount = ByteCount(1 << 40);
/// How often a state is looked at.
pub(super) const POLL: Duration = Duration::from_millis(100);
const START: Duration = Duration::from_secs(30);
const RETRY: &str = "see the logs in the demo's folder";

/// Everything that runs. Dropped, it stops all processes and removes the folder.
pub(super) struct Fleet {
    coordinator: Option<Process>,
    devices: BTreeMap<String, Device>,
    addresses: Addresses,
    slow_device: String,
    link: watch::Sender<Shape>,
    folder: Option<tempfile::TempDir>,
}

struct Device {
    folder: PathBuf,
    process: Option<Process>,
}

/// Where the coordinator listens.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    /// For agents.
    fleet: SocketAddr,
    /// For operators.
    operator: SocketAddr,
}

impl Fleet {
    /// Starts a coordinator and `devices` agents; the first one dials through a link that can be slowed.
    pub(super) async fn start(devices: usize) -> Outcome<Self> {
        let folder = tempfile::tempdir()
            .or_work("cannot make a temporary folder", "set TMPDIR to a writable folder")?;
        let (coordinator, addresses) = start_coordinator(folder.path(), None).await?;
        let shape = Shape { rate: FAST, delay: Micros(0), loss: Loss::default(), stall: None };
        let (link, shape) = watch::channel(shape);
        let listener =
            TcpListener::bind("127.0.0.1:0").await.or_work("cannot listen for the slow link", RETRY)?;
        let slow = listener.local_addr().or_work("cannot listen for the slow link", RETRY)?;
        tokio::spawn(link::serve(listener, addresses.fleet.to_string(), 1, shape));
        let mut fleet = Self {
            coordinator: Some(coordinator),
            devices: BTreeMap::new(),
            addresses,
            slow_device: device_name(0),
            link,
            folder: Some(folder),
        };
        for index in 0..devices {
            let dial = if index == 0 { slow } else { addresses.fleet };
            fleet.add_device(index, dial)?;
        }
        Ok(fleet)
    }
}

impl Fleet {
    fn add_device(&mut self, index: usize, dial: SocketAddr) -> Outcome {
        let name = device_name(index);
        let folder = self.folder()?.join(&name);
        make_folder(&folder)?;
        let shard = folder.join("shard.npz");
        files::write(&shard, bundle::SHARDS[index % bundle::SHARDS.len()])?;
        let config = AgentConfig {
            coordinator: format!("http://{dial}"),
            name: &name,
            join_token: JOIN_TOKEN,
            data: folder.join("data"),
            shard,
            report_s: 2,
            labels: BTreeMap::from([("class", group_of(index))]),
        };
        write_config(&folder.join("agent.toml"), &config)?;
        self.devices.insert(name.clone(), Device { folder, process: None });
        self.start_device(&name)
    }

    /// Starts the agent of the device `name`, on what its folder holds.
    pub(super) fn start_device(&mut self, name: &str) -> Outcome {
        let device = self.device(name)?;
        let config = device.folder.join("agent.toml");
        let arguments = [OsStr::new("agent"), OsStr::new("--config"), config.as_os_str()];
        device.process = Some(Process::start(name, &arguments, &device.folder.join("log"))?);
        Ok(())
    }

    /// Kills the agent of the device `name` with SIGKILL.
    pub(super) fn kill(&mut self, name: &str) -> Outcome {
        let process = self.device(name)?.process.take();
        process.map_or(Ok(()), Process::kill)
    }

    /// Waits until the device's own status tells that it downloads an update; answers how far it is.
    pub(super) async fn until_downloading(&mut self, name: &str, limit: Duration) -> Outcome<String> {
        let path = self.device(name)?.folder.join("data/status.json");
        let end = Instant::now() + limit;
        loop {
            let status: AgentStatus = std::fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            if status.state == "downloading" && status.received_bytes > 0 {
                return Ok(format!("downloading, {} of {} bytes", status.received_bytes, status.total_bytes));
            }
            if Instant::now() > end {
                let what = format!("{name} did not begin to download within {} s", limit.as_secs());
                return Err(Failure::work(what, format!("see {}", path.display())));
            }
            tokio::time::sleep(POLL / 20).await;
        }
    }

    /// Kills the coordinator with SIGKILL, starts it again at the same addresses and waits until it answers.
    pub(super) async fn restart_coordinator(&mut self) -> Outcome {
        if let Some(process) = self.coordinator.take() {
            process.kill()?;
        }
        let (process, addresses) = start_coordinator(self.folder()?, Some(self.addresses)).await?;
        (self.coordinator, self.addresses) = (Some(process), addresses);
        Ok(())
    }

    /// A client of the coordinator.
    pub(super) async fn client(&self) -> Outcome<Client> {
        Client::connect(&self.operator_address().to_string()).await
    }

    pub(super) fn operator_address(&self) -> SocketAddr {
        self.addresses.operator
    }

    /// # Errors
    /// Where a program that should run has ended.
    pub(super) fn check_alive(&mut self) -> Outcome {
        let devices = self.devices.values_mut().filter_map(|device| device.process.as_mut());
        self.coordinator.iter_mut().chain(devices).try_for_each(Process::check_alive)
    }

    /// The device that dials through the link.
    pub(super) fn slow_device(&self) -> &str {
        &self.slow_device
    }

    pub(super) fn set_link_rate(&self, rate: ByteCount) {
        self.link.send_modify(|shape| shape.rate = rate);
    }

    pub(super) fn len(&self) -> usize {
        self.devices.len()
    }

    /// Leaves the folder with its logs behind, and says where.
    pub(super) fn keep_folder(&mut self, progress: &Progress) {
        if let Some(folder) = self.folder.take() {
            progress.say(&format!("logs are in {}", folder.keep().display()));
        }
    }

    fn folder(&self) -> Outcome<&Path> {
        let folder = self.folder.as_ref().map(tempfile::TempDir::path);
        folder.ok_or_else(|| Failure::work("the demo's folder is given away", "report this as a defect"))
    }

    fn device(&mut self, name: &str) -> Outcome<&mut Device> {
        let device = self.devices.get_mut(name);
        device.ok_or_else(|| Failure::work(format!("there is no device {name}"), "report this as a defect"))
    }
}

/// Only this fleet's agents know it.
const JOIN_TOKEN: &str = "demo";

#[derive(Serialize)]
struct CoordinatorConfig {
    fleet: String,
    operator: String,
    data: PathBuf,
    join_token: &'static str,
}

#[derive(Serialize)]
struct AgentConfig<'a> {
    coordinator: String,
    name: &'a str,
    join_token: &'static str,
    data: PathBuf,
    shard: PathBuf,
    report_s: u64,
    labels: BTreeMap<&'static str, &'static str>,
}

/// What the demo reads of an agent's `status.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AgentStatus {
    state: String,
    received_bytes: u64,
    total_bytes: u64,
}

/// Starts a coordinator at `addresses`, or at free ones, and waits until it answers.
async fn start_coordinator(folder: &Path, addresses: Option<Addresses>) -> Outcome<(Process, Addresses)> {
    let (folder, any) = (folder.join("coordinator"), "127.0.0.1:0".to_owned());
    make_folder(&folder)?;
    let (data, config) = (folder.join("data"), folder.join("coordinator.toml"));
    let told = data.join("addresses.json");
    let _ = std::fs::remove_file(&told);
    let at =
        |of: fn(&Addresses) -> SocketAddr| addresses.as_ref().map_or(any.clone(), |all| of(all).to_string());
    let (fleet, operator) = (at(|all| all.fleet), at(|all| all.operator));
    write_config(&config, &CoordinatorConfig { fleet, operator, data, join_token: JOIN_TOKEN })?;
    let arguments = [OsStr::new("coordinator"), OsStr::new("--config"), config.as_os_str()];
    let mut process = Process::start("the coordinator", &arguments, &folder.join("log"))?;
    let end = Instant::now() + START;
    loop {
        process.check_alive()?;
        let addresses = std::fs::read(&told).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(addresses) = addresses {
            return Ok((process, addresses));
        }
        if Instant::now() > end {
            let what = format!("the coordinator did not start within {} s", START.as_secs());
            return Err(Failure::work(what, format!("see {}", folder.join("log").display())));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn device_name(index: usize) -> String {
    format!("gw{}-{}", index + 1, group_of(index))
}

fn make_folder(folder: &Path) -> Outcome {
    std::fs::create_dir_all(folder).or_work(format!("cannot make {}", folder.display()), "free some space")
}

fn write_config(path: &Path, config: &impl Serialize) -> Outcome {
    let text = toml::to_string(config).or_work("cannot write a configuration", "report this as a defect")?;
    files::write(path, text.as_bytes())
}
