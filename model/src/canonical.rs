//! The canonical form of a variant, over which its digest is taken: a skeleton, and its tensors in name order.
//!
//! The skeleton is the graph without anything of its initializers but their names, so variants that differ only in
//! their widths and values share it. It is encoded by this program's own writer, so equal graphs give equal bytes.

use std::collections::BTreeMap;

use prost::Message;
use secateur_common::{Hasher, VariantId};

use crate::onnx::{self, OnnxError};
use crate::{Graph, Tensor};

/// Why a skeleton and tensors make no graph.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CanonicalError {
    #[error("the skeleton is damaged")]
    Skeleton(#[from] OnnxError),
}

/// The graph's skeleton: its ONNX bytes without initializers.
pub fn skeleton(graph: &Graph) -> Vec<u8> {
    onnx::model_message(graph, onnx::graph_message(graph)).encode_to_vec()
}

/// The graph with `skeleton` and `tensors`.
///
/// # Errors
/// Where the skeleton cannot be read, or lacks a tensor that it needs.
pub fn assemble(skeleton: &[u8], tensors: BTreeMap<String, Tensor>) -> Result<Graph, CanonicalError> {
    Ok(onnx::read_with(skeleton, tensors)?)
}

/// The digest of the canonical form: the skeleton, then for each tensor in name order its name, element type, rank,
/// dimensions and little-endian elements, each length as a little-endian `u64`.
pub fn variant_id(graph: &Graph) -> VariantId {
    let mut hasher = Hasher::new("secateur 2026-11 variant");
    let skeleton = skeleton(graph);
    hasher.update(&length(skeleton.len())).update(&skeleton);
    for (name, tensor) in &graph.initializers {
        hasher.update(&length(name.len())).update(name.as_bytes());
        hasher.update(&tensor.dtype().0.to_le_bytes()).update(&length(tensor.shape().len()));
        for &dim in tensor.shape() {
            hasher.update(&length(dim));
        }
        hasher.update(&tensor.to_le_bytes());
    }
    VariantId(hasher.finish())
}

fn length(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}
