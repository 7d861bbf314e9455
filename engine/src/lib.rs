//! Runs a variant: lowers its graph to tract, evaluates and times it, and reads labelled data.
//!
//! Architecture invariant: no file, socket or random source; the clock is read to time inferences and for nothing else.
#![forbid(unsafe_code)]

mod dataset;
mod measure;
mod session;

pub use dataset::{Dataset, DatasetError};
pub use measure::{bench, evaluate};
pub use session::{Backend, EngineError, Session};
