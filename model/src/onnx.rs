//! ONNX files: read into a [`Graph`](crate::Graph) and written from one.
