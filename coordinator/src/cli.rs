//! The program's command line: `secateur-coordinator`, also reached as `secateur coordinator`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::{Config, CoordinatorError, grpc};

/// Prunes models to the budgets of devices and ships them what fits.
#[derive(Parser, Debug)]
#[command(name = "secateur-coordinator", version)]
struct Cli {
    /// The configuration file (TOML).
    #[arg(long, default_value = "/etc/secateur/coordinator.toml", global = true)]
    config: PathBuf,
    /// What to log: error, warn, info, debug, or a tracing filter.
    #[arg(long, default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Asks the coordinator of this configuration whether it serves: exit code 0 if so.
    Health,
}

/// Runs the program with `arguments`, the program's name first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let config = match load(&cli.config) {
        Ok(config) => config,
        Err(problem) => return fail(2, &problem, &format!("correct {}", cli.config.display())),
    };
    let Ok(filter) = tracing_subscriber::EnvFilter::try_new(&cli.log) else {
        return fail(2, &format!("bad --log {}", cli.log), "give error, warn, info or debug");
    };
    // A second subscriber in one process is no failure: the first one logs.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("cannot start threads: {error}"), "raise the system's limits"),
    };
    let result = match cli.command {
        Some(Command::Health) => runtime.block_on(grpc::health(&config)),
        None => runtime.block_on(serve(config)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &chain(&error), advice(&error)),
    }
}

async fn serve(config: Config) -> Result<(), CoordinatorError> {
    let shutdown = CancellationToken::new();
    let running = grpc::start(config, shutdown.clone()).await?;
    tracing::info!(fleet = %running.fleet, operator = %running.operator, "listening");
    tokio::spawn(async move {
        stop_signal().await;
        tracing::info!("stopping");
        shutdown.cancel();
    });
    running.wait().await
}

/// Returns at SIGTERM or ctrl-C.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

fn load(path: &Path) -> Result<Config, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let config: Config = toml::from_str(&text).map_err(|error| {
        let message = error.to_string();
        format!("bad configuration {}: {}", path.display(), message.lines().collect::<Vec<_>>().join(" "))
    })?;
    config.check()?;
    Ok(config)
}

fn advice(error: &CoordinatorError) -> &'static str {
    match error {
        CoordinatorError::Listen { .. } => {
            "stop what listens there, or choose another address in the configuration"
        }
        CoordinatorError::Store(_) => "see that the data folder is writable and used by no other coordinator",
        CoordinatorError::Write { .. } => "see that the data folder is writable",
        _ => "see the log",
    }
}

/// The error and its sources on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[allow(clippy::print_stderr)]
fn fail(code: u8, what: &str, advice: &str) -> ExitCode {
    eprintln!("secateur-coordinator: {what}\n  {advice}");
    ExitCode::from(code)
}
