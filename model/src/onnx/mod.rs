//! ONNX files: read into a [`Graph`](crate::Graph) and written from one.

mod fields;
mod messages;
mod read;
mod write;

pub(crate) use read::read_with;
pub(crate) use write::{graph_message, model_message};

pub use read::{OnnxError, read};
pub use write::write;
