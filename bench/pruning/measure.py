"""What a file is, by numpy, onnx and onnxruntime: multiply-accumulates, weights and accuracy."""
import numpy as np, onnx, onnxruntime as ort
from onnx import numpy_helper


def weights(model):
    """The constant weights of each convolution and product, by node name or first output."""
    constants = {t.name: t for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    return {n.output[0]: numpy_helper.to_array(constants[n.input[1]]) for n in layers if n.input[1] in constants}


def kept(model):
    """The share of the layers' weights that is not zero."""
    arrays = weights(model).values()
    return sum(np.count_nonzero(a) for a in arrays) / sum(a.size for a in arrays)


def macs(model):
    """Multiply-accumulates of one inference by nonzero weights of convolutions and products."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    del fixed.graph.value_info[:]
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    return sum(int(np.count_nonzero(w)) * int(np.prod(shapes[name][2:])) for name, w in weights(model).items())


def images(x):
    return x.astype(np.float32) / 255 if x.dtype == np.uint8 else x


def accuracy(model, data):
    """Per cent of right answers by onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 2
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name, right = session.get_inputs()[0].name, 0
    for start in range(0, len(data["y"]), 500):
        part = slice(start, start + 500)
        right += int((session.run(None, {name: images(data["x"][part])})[0].argmax(1) == data["y"][part]).sum())
    return 100 * right / len(data["y"])
