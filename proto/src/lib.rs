//! The wire contract: code generated from `secateur/v1/*.proto`, and the conversions to the vocabulary; and the standard
//! protocol by which applications ask an agent for inference.
//!
//! Architecture invariant: wire types are named here, in `coordinator/src/grpc`, in `agent/src/link`, `agent/src/serve`
//! and in the operator's client (`cli/src/client`), nowhere else.
#![forbid(unsafe_code)]

pub mod codec;
mod convert;
mod rollout;

/// The generated types and services of package `secateur.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("secateur.v1");
}

/// The generated types and services of the Open Inference Protocol v2, package `inference`.
#[allow(missing_docs, unreachable_pub, clippy::all, rust_2018_idioms)]
pub mod inference {
    tonic::include_proto!("inference");
}

/// What every wire type is: above all, it has a length in bytes.
pub use prost::Message;

pub use convert::{WireError, labels_from_wire, labels_to_wire, variant_id};

/// The protocol that this program speaks. Raised when an older peer could not understand a newer one.
pub const PROTOCOL: u32 = 1;

/// The metadata key under which a device's credential travels (binary).
pub const DEVICE_KEY_METADATA: &str = "secateur-device-key-bin";

/// The metadata key under which the fleet's join token travels when a device connects.
pub const JOIN_TOKEN_METADATA: &str = "secateur-join-token";
