//! The update format: one variant of a model made from another, or from nothing, exactly and in few bytes.
//! `docs/update-format.md` describes it byte by byte.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws randomness. Of `model` it uses the graph, its
//! tensors and its canonical bytes, nothing that prunes or runs. Decoding uses integers, and of floats only single
//! correctly rounded operations, so that every processor agrees; bytes from outside are hostile.
#![forbid(unsafe_code)]

mod ans;
mod apply;
mod base;
mod bytes;
mod codec;
mod decoder;
mod digest;
mod encode;
mod entry;
mod error;
mod floats;
mod gap;
mod gather;
mod grid;
mod job;
mod levels;
mod manifest;
mod mix;
mod old;
mod publish;
mod range;
mod raw;
mod refit;
mod show;
mod sink;
mod skeleton;
mod state;
mod tensor;
mod text;
mod threshold;
mod trace;

pub use apply::{Applied, apply};
pub use base::{AccessError, Base};
pub use decoder::Decoder;
pub use encode::{encode, store, with_generation};
pub use entry::Change;
pub use error::{ApplyError, DecodeError, EncodeError, Part, StoreError};
pub use manifest::{FORMAT, Manifest};
pub use publish::{publish, publish_by};
pub use show::{Operation, TensorUpdate};
pub use sink::{Collector, Sink};

use secateur_common::{ByteCount, Generation};
use secateur_model::Graph;

/// The bytes that a device stores for a variant: its full update. A variant that is over the limits of the format,
/// which no device can hold, counts as the largest possible.
pub fn stored_bytes(graph: &Graph) -> ByteCount {
    encode(None, graph, Generation(0)).map_or(ByteCount(u64::MAX), |bytes| ByteCount(bytes.len() as u64))
}
