//! The program under load: started, asked for what it takes, killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use secateur_cli::client::Client;
use secateur_tests::fleet::{TOKEN, failure};
use serde::Deserialize;

/// A program that serves; killed when it is dropped.
pub(crate) struct Program {
    process: Child,
    addresses: Addresses,
}

#[derive(Deserialize, Clone, Copy)]
struct Addresses {
    fleet: SocketAddr,
    operator: SocketAddr,
}

/// A coordinator's folder and configuration, which outlive its program.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Home {
    pub(crate) fn new(program: &Path) -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()?, program: program.to_owned() })
    }

    /// Starts the coordinator, at `at` if it ran there before.
    pub(crate) async fn start(&self, at: Option<&Program>) -> Result<Program> {
        let any = "127.0.0.1:0".to_owned();
        let [fleet, operator] = at.map_or([any.clone(), any], |program| {
            [program.addresses.fleet, program.addresses.operator].map(|address| address.to_string())
        });
        let data = self.folder.path().join("data");
        let config = self.folder.path().join("coordinator.toml");
        let text = format!(
            "fleet = '{fleet}'\noperator = '{operator}'\ndata = '{}'\njoin_token = \"{TOKEN}\"\nladder = [0.5]\n",
            data.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(config).args(["--log", "warn"]);
        Program::start(command, &data.join("addresses.json")).await
    }
}

impl Program {
    /// Starts what tells its addresses in the file `told`.
    pub(crate) async fn start(mut command: Command, told: &Path) -> Result<Self> {
        let _ = std::fs::remove_file(told);
        let mut process = command.stdin(Stdio::null()).spawn().context("the program starts")?;
        let end = Instant::now() + Duration::from_secs(120);
        while !told.exists() {
            ensure!(process.try_wait()?.is_none() && Instant::now() < end, "the program does not serve");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let addresses = serde_json::from_slice(&std::fs::read(told)?)?;
        Ok(Self { process, addresses })
    }

    pub(crate) fn fleet(&self) -> SocketAddr {
        self.addresses.fleet
    }

    pub(crate) async fn client(&self) -> Result<Client> {
        Client::connect(&self.addresses.operator.to_string()).await.map_err(failure)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// Its resident memory, bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS is told")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// The processor time that it took so far, in user mode and for it in the kernel. Ticks are of 10 ms.
    pub(crate) fn processor(&self) -> Result<[Duration; 2]> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after = stat.rsplit_once(") ").context("a name in parentheses")?.1;
        let mut fields =
            after.split(' ').skip(11).map(|ticks| Ok(Duration::from_millis(10 * ticks.parse::<u64>()?)));
        let mut next = || -> Result<Duration> { fields.next().context("two times")? };
        Ok([next()?, next()?])
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
