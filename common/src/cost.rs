//! What a variant costs, as computed from its graph.

use serde::{Deserialize, Serialize};

use crate::{ByteCount, MacCount};

/// The cost of one variant at batch 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Multiply-accumulates of convolutions and matrix products by constants, counting nonzero weights only.
    pub macs: MacCount,
    /// The same, counting zeros as well: what an engine without sparse kernels computes.
    pub dense_macs: MacCount,
    /// Weights and biases (float initializers), zeros included.
    pub parameters: u64,
    /// Of these, how many are not zero.
    pub nonzero: u64,
    /// The variant as stored: the bytes of its full update.
    pub model_bytes: ByteCount,
    /// Weights plus the peak of the live activations, fp32, by liveness over the node order.
    pub peak_memory_bytes: ByteCount,
}
