//! A fleet's load on one coordinator: thousands of devices in this process speak the real protocol to the real program.
//!
//! `bench/fleet/run` builds it, raises the limits and draws what it finds. It prints one JSON document.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // what it found

mod bare;
mod crowd;
mod device;
mod program;
mod trial;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Loads a coordinator with a fleet.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connects devices, has them report, changes their budget, breaks their lines; twice, once by a kill.
    Connected {
        /// The coordinator's program.
        #[arg(long)]
        coordinator: PathBuf,
        /// How many.
        #[arg(long)]
        devices: usize,
        /// Seconds between two reports of a device.
        #[arg(long, default_value_t = 10)]
        report_s: u64,
        /// Seconds for which reports are counted.
        #[arg(long, default_value_t = 60)]
        steady_s: u64,
    },
    /// Has devices say hello and go.
    Registered {
        /// The coordinator's program.
        #[arg(long)]
        coordinator: PathBuf,
        /// How many.
        #[arg(long)]
        devices: usize,
    },
    /// Connects devices to a server that does nothing but hold their streams, with this program's gRPC.
    Bare {
        /// How many.
        #[arg(long)]
        devices: usize,
    },
    /// That server.
    #[command(hide = true)]
    Hold {
        /// Where it tells its address.
        #[arg(long)]
        told: PathBuf,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let found = match Cli::parse().command {
        Command::Connected { coordinator, devices, report_s, steady_s } => {
            let times = (Duration::from_secs(report_s), Duration::from_secs(steady_s));
            trial::connected(&coordinator, devices, times).await?
        }
        Command::Registered { coordinator, devices } => trial::registered(&coordinator, devices).await?,
        Command::Bare { devices } => trial::bare(devices).await?,
        Command::Hold { told } => return bare::hold(&told).await,
    };
    println!("{}", serde_json::to_string(&found).context("it is JSON")?);
    Ok(())
}
