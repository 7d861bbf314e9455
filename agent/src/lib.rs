//! The program on the gateway: dials the coordinator, keeps what it received, runs it, measures, reports.
//!
//! Architecture invariant: the agent never links `prune` or `plan`; inputs never leave it. What to do next is decided in
//! `core`, which does no I/O; `run` is the thin shell around it.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod cache;
pub mod cli;
pub mod config;
pub mod core;
mod credential;
pub mod install;
mod link;
mod loaded;
mod measure;
pub mod meter;
mod report;
mod run;
mod scratch;
pub mod sensors;
pub mod serve;
pub mod status;
mod task;

pub use config::Config;
pub use run::{Clock, run, run_by};
