//! The program in the cloud: keeps models and ladders, devices and their reports, plans, and ships updates.
//!
//! `grpc` hears and answers; `inventory` and `catalog` are what is known; `rollout` asks the planner and carries out what
//! it says; `store` makes all of it durable before anyone is told.
//!
//! Architecture invariant: nothing matters that is only in memory; the executor makes no choices; wire types stop at
//! `grpc`, disk types at `store`.
#![forbid(unsafe_code)]

mod alike;
mod catalog;
pub mod cli;
mod config;
mod draft;
mod error;
mod families;
mod forecast;
mod grpc;
mod inventory;
mod journal;
mod lines;
mod precision;
mod pruning;
mod rollout;
mod shared;
mod staging;
mod state;
pub mod store;
mod updates;
mod writer;

pub use catalog::step_cost;
pub use config::Config;
pub use error::CoordinatorError;
pub use grpc::{Running, start, start_by};
pub use precision::{Bounds, Precision};
pub use shared::Clock;
