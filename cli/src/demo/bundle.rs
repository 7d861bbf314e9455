//! The model and the data that the demo runs on, bundled in the program.

/// LeNet-5, trained on Fashion-MNIST.
pub(super) const MODEL: &[u8] = include_bytes!("../../../examples/lenet5.onnx");
/// 1,024 inputs without labels.
pub(super) const CALIBRATION: &[u8] = include_bytes!("../../../examples/calibration.npz");
/// 800 inputs with labels: the coordinator's.
pub(super) const VALIDATION: &[u8] = include_bytes!("../../../examples/validation.npz");
/// 400 inputs with labels each: the devices' own.
pub(super) const SHARDS: [&[u8]; 6] = [
    include_bytes!("../../../examples/shards/1.npz"),
    include_bytes!("../../../examples/shards/2.npz"),
    include_bytes!("../../../examples/shards/3.npz"),
    include_bytes!("../../../examples/shards/4.npz"),
    include_bytes!("../../../examples/shards/5.npz"),
    include_bytes!("../../../examples/shards/6.npz"),
];
