//! Every limit of the system in one place. A length that comes from outside is checked against one of these
//! before anything is allocated for it.

/// A gRPC chunk of update bytes, at most, in bytes.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// A value in the agent's sled cache, at most: sled 0.34 puts pages above 128 KiB, of up to 17 values, into files that it leaks.
pub const CACHE_VALUE_BYTES: usize = 4 * 1024;
/// A frame of an update container, at most, in bytes.
pub const FRAME_BYTES: usize = 64 * 1024;
/// An ONNX file, at most, in bytes.
pub const MODEL_BYTES: usize = 256 * 1024 * 1024;
/// An update as shipped, at most, in bytes.
pub const UPDATE_BYTES: usize = 256 * 1024 * 1024;
/// A `.npz` file, and what it may decompress to, at most, in bytes.
pub const DATASET_BYTES: usize = 1024 * 1024 * 1024;
/// A variant's skeleton, and the table of its tensors' names, each at most, in bytes.
pub const SKELETON_BYTES: usize = 4 * 1024 * 1024;
/// Nodes of a graph, at most.
pub const GRAPH_NODES: usize = 100_000;
/// Initializers of a graph, at most.
pub const GRAPH_TENSORS: usize = 100_000;
/// Dimensions of a tensor, at most.
pub const TENSOR_RANK: usize = 8;
/// Elements of a tensor, at most.
pub const TENSOR_ELEMENTS: usize = 256 * 1024 * 1024 / 4;
/// A value (activation) of a graph, at most, in elements of one inference.
pub const ACTIVATION_ELEMENTS: usize = 256 * 1024 * 1024;
/// What pruning took of one model, as the coordinator keeps it, at most, in bytes.
pub const FAMILY_BYTES: usize = 128 * 1024 * 1024;
/// A name (device, model, group, label key or value), at most, in bytes.
pub const NAME_BYTES: usize = 128;
/// A name inside a graph (values, nodes, tensors), at most, in bytes.
pub const GRAPH_NAME_BYTES: usize = 1024;
/// Labels of a device, at most.
pub const LABELS: usize = 64;
/// Groups of a fleet, at most.
pub const GROUPS: usize = 1024;
/// Waves of a rollout, at most.
pub const WAVES: usize = 32;
/// Variants of a model that a group remembers as proven or refused, at most; of more, the first are staged again.
pub const VERDICTS: usize = 256;
/// Devices of one coordinator, at most.
pub const DEVICES: usize = 100_000;
/// Models of one coordinator, at most.
pub const MODELS: usize = 1024;
/// Rungs of a ladder, those pruned on demand included, at most.
pub const RUNGS: usize = 64;
/// Reports kept in an agent's outbox while it is offline, at most.
pub const OUTBOX_REPORTS: usize = 256;
/// Expected values of a self-test probe, at most.
pub const PROBE_VALUES: usize = 4096;
/// A reason or error text that crosses the wire, at most, in bytes.
pub const TEXT_BYTES: usize = 1024;
/// A message of the control stream, at most, in bytes.
pub const MESSAGE_BYTES: usize = 1024 * 1024;
/// A message of a device, at most, in bytes: a hello with all its labels is a third of it.
pub const DEVICE_MESSAGE_BYTES: usize = 64 * 1024;
/// Calls at once on a device's connection, at most: its session, a download, and what a cut left behind.
pub const DEVICE_CALLS: u32 = 8;
/// Messages waiting for one device, at most.
pub const DEVICE_QUEUE: usize = 32;
/// A configuration or fleet file, at most, in bytes.
pub const CONFIG_BYTES: usize = 1024 * 1024;
/// The body of an inference request, at most, in bytes.
pub const SERVE_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Bodies of inference requests held at once, at most, in bytes.
pub const SERVE_BODIES_BYTES: usize = 32 * 1024 * 1024;
/// Samples of one inference request, at most.
pub const SERVE_ROWS: usize = 4096;
/// Inference requests that wait for the worker, at most.
pub const SERVE_QUEUE: usize = 128;
/// Inference requests that the worker takes together, at most.
pub const SERVE_TOGETHER: usize = 32;
/// Connections to one of the agent's inference addresses, at most; beyond, the longest silent gives way.
pub const SERVE_CONNECTIONS: usize = 64;
/// Calls at once on one gRPC connection, at most.
pub const SERVE_CALLS: usize = 8;
/// For a request's head, and for its body, seconds at most.
pub const SERVE_READ_S: u64 = 30;
/// Ids of answered requests that a label may still come for, at most.
pub const SERVE_LABELS: usize = 10_000;
