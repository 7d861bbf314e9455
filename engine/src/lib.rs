//! Runs a variant: compiles its graph to a plan of fused dense and sparse kernels (or hands it to tract), evaluates and
//! times it, and reads labelled data.
//!
//! Architecture invariant: no file, socket or random source; the clock is read to time inferences and kernels and for
//! nothing else. `unsafe` stays in `kernels`.
#![deny(unsafe_code)]

mod dataset;
mod kernels;
mod measure;
mod plan;
mod session;
#[cfg(feature = "tract")]
mod tract;

pub use dataset::{Dataset, DatasetError};
pub use measure::{Latencies, evaluate, latencies, latencies_on};
pub use plan::{KernelChoices, StepTime};
pub use session::{Backend, EngineError, Profile, Session};
