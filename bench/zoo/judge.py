"""What a file is, by numpy, onnx and onnxruntime: nothing here trusts the project's own words."""
import collections

import numpy as np, onnx, onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SIZES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def opset(path):
    sets = onnx.load(str(path), load_external_data=False).opset_import
    return next((s.version for s in sets if s.domain in ("", "ai.onnx")), 0)


def inputs(path, shapes, batch=2):
    """Random values for each input; a free first axis is the batch, other free axes come from `shapes`."""
    graph = onnx.load(str(path)).graph
    constants, random, found = {t.name for t in graph.initializer}, np.random.default_rng(7), {}
    for i in (i for i in graph.input if i.name not in constants):
        dims = [d.dim_value or (batch if axis == 0 else shapes[d.dim_param])
                for axis, d in enumerate(i.type.tensor_type.shape.dim)]
        kind = SIZES[i.type.tensor_type.elem_type]
        if kind == np.float32:
            found[i.name] = random.standard_normal(dims).astype(kind)
        else:
            found[i.name] = random.integers(0, 2, dims).astype(kind)
    return found


def run(model, values):
    """Outputs of a file, or of its bytes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, values)


def macs(path, shapes=None):
    """Multiply-accumulates for one sample of convolutions and products by a constant, at the shapes that onnxruntime
    finds; None where it cannot run the file. Free axes that `shapes` does not name are 128 long, as `inspect` takes them."""
    model = onnx.load(str(path))
    graph = model.graph
    values = inputs(path, shapes or collections.defaultdict(lambda: 128), batch=1)
    const = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for n in graph.node:
        if n.op_type == "Constant":
            const |= {n.output[0]: numpy_helper.to_array(a.t) for a in n.attribute if a.name == "value"}
        if n.op_type == "Identity" and n.input[0] in const:
            const[n.output[0]] = const[n.input[0]]
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    weights = {n.output[0]: next((const[i] for i in n.input[:2] if i in const and const[i].ndim > 1), None) for n in layers}
    layers = [n for n in layers if weights[n.output[0]] is not None]
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(n.output[0], TensorProto.FLOAT, None) for n in layers)
    if not layers:
        return 0
    try:
        outs = run(model.SerializeToString(), values)
    except Exception:
        return None
    total = 0
    for n, out in zip(layers, outs):
        w = weights[n.output[0]]
        if n.op_type == "Conv":
            total += w.size * int(np.prod(out.shape[2:]))
        else:
            total += out.size * summed(n, w, left=n.input[0] in const)
    return total


def summed(node, weights, left):
    """The length of the axis that a product by `weights` sums over."""
    flag = next((a.i for a in node.attribute if a.name == ("transA" if left else "transB")), 0)
    return weights.shape[-1 if left != bool(flag) else -2]
