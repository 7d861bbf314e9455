//! ONNX in, ONNX out; the graph between, its shapes, costs and channel groups.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws randomness; nothing here knows of
//! budgets, devices or updates. Bytes from outside are hostile: every length is checked before it is allocated.
#![forbid(unsafe_code)]

pub mod canonical;
pub mod cost;
pub mod eval;
pub mod fold;
mod graph;
pub mod groups;
pub mod onnx;
pub mod shape;
mod tensor;
pub mod timing;

pub use graph::{Attribute, Dim, Graph, GraphError, Node, OpSet, ValueInfo};
pub use tensor::{DType, Tensor, TensorData, TensorError};
