//! The command line of `secateur-agent`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::{Config, status};

/// The program on the gateway.
#[derive(Parser, Debug)]
#[command(name = "secateur-agent", version)]
struct Cli {
    /// The configuration, TOML
    #[arg(long, global = true, default_value = "/etc/secateur/agent.toml")]
    config: PathBuf,
    /// What to log on stderr
    #[arg(long, global = true, default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Exit with 0 where an agent with this configuration runs and was alive lately
    Health,
}

/// Runs the program; `arguments` begin with its name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let filter = tracing_subscriber::EnvFilter::try_new(&cli.log).unwrap_or_default();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let config = match read(&cli.config) {
        Ok(config) => config,
        Err(error) => return fail(&error, "correct the configuration", 2),
    };
    match cli.command {
        Some(Command::Health) if status::alive(&config.data) => ExitCode::SUCCESS,
        Some(Command::Health) => fail(&anyhow::anyhow!("the agent is not alive"), "see its log", 1),
        None => match start(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, "see the log above", 1),
        },
    }
}

fn read(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("cannot use {}", path.display()))
}

fn start(config: Config) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::select! {
            result = crate::run(config) => result,
            () = stop() => Ok(()),
        }
    })
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

fn fail(error: &anyhow::Error, advice: &str, code: u8) -> ExitCode {
    let what = format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "error: {what}\nhelp: {advice}");
    ExitCode::from(code)
}
