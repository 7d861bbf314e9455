"""What a file is, by numpy, onnx and onnxruntime: nothing here trusts the project's own words."""
import numpy as np, onnx, onnxruntime as ort
from onnx import numpy_helper

SIZES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def opset(path):
    sets = onnx.load(str(path), load_external_data=False).opset_import
    return next((s.version for s in sets if s.domain in ("", "ai.onnx")), 0)


def inputs(path, shapes, batch=2):
    """Random values for each input; a free first axis is the batch, other free axes come from `shapes`."""
    graph = onnx.load(str(path)).graph
    constants, random, found = {t.name for t in graph.initializer}, np.random.default_rng(7), {}
    for i in (i for i in graph.input if i.name not in constants):
        dims = [d.dim_value or (shapes or {}).get(d.dim_param) or (batch if axis == 0 else None)
                for axis, d in enumerate(i.type.tensor_type.shape.dim)]
        kind = SIZES[i.type.tensor_type.elem_type]
        if kind == np.float32:
            found[i.name] = random.standard_normal(dims).astype(kind)
        else:
            found[i.name] = random.integers(0, 2, dims).astype(kind)
    return found


def run(path, values):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, values)


def macs(path, values):
    """Multiply-accumulates for one sample of convolutions and products by a constant; None where shapes are not known."""
    model = onnx.load(str(path))
    graph = model.graph
    const = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for n in graph.node:
        if n.op_type == "Constant":
            const |= {n.output[0]: numpy_helper.to_array(a.t) for a in n.attribute if a.name == "value"}
        if n.op_type == "Identity" and n.input[0] in const:
            const[n.output[0]] = const[n.input[0]]
    for i in (i for i in graph.input if i.name in values):
        free = not i.type.tensor_type.shape.dim[0].dim_value if i.type.tensor_type.shape.dim else False
        for axis, (d, v) in enumerate(zip(i.type.tensor_type.shape.dim, values[i.name].shape)):
            d.Clear()
            d.dim_value = 1 if axis == 0 and free else int(v)
    for o in graph.output:
        o.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    total = 0
    for n in graph.node:
        w = next((const[i] for i in n.input[:2] if i in const and const[i].ndim > 1), None)
        if n.op_type not in ("Conv", "Gemm", "MatMul") or w is None:
            continue
        out = shapes.get(n.output[0])
        if not out or 0 in out:
            return None
        if n.op_type == "Conv":
            total += w.size * int(np.prod(out[2:]))
        else:
            total += int(np.prod(out)) * summed(n, w, left=n.input[0] in const)
    return total


def summed(node, weights, left):
    """The length of the axis that a product by `weights` sums over."""
    flag = next((a.i for a in node.attribute if a.name == ("transA" if left else "transB")), 0)
    return weights.shape[-1 if left != bool(flag) else -2]
