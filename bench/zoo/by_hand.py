"""Files as other exporters write them, old operator sets, and what must be frozen or refused: built node by node."""
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper


class File:
    """A graph under construction. Weights are initializers, or Constant nodes where `constants` says so."""
    def __init__(self, opset, constants=False):
        self.opset, self.constants, self.nodes, self.init, self.infos, self.count = opset, constants, [], [], [], 0
        self.random = np.random.default_rng(3)

    def name(self, stem="v"):
        self.count += 1
        return f"{stem}{self.count}"

    def const(self, value):
        value = np.asarray(value)
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        tensor = numpy_helper.from_array(value, self.name("c"))
        if self.constants:
            self.nodes.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
        else:
            self.init.append(tensor)
        return tensor.name

    def weights(self, *shape):
        fan = max(int(np.prod(shape[1:])), 1)
        return self.const(self.random.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan)))

    def vector(self, n, low=-0.3, high=0.3):
        return self.const(self.random.uniform(low, high, n).astype(np.float32))

    def node(self, op, *inputs, outputs=1, **attributes):
        names = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, a, b, k=3, group=1, bias=True, stride=1):
        inputs = [x, self.weights(b, a // group, k, k)] + ([self.vector(b)] if bias else [])
        return self.node("Conv", *inputs, kernel_shape=[k, k], pads=[k // 2] * 4, group=group, strides=[stride] * 2)

    def norm(self, x, n):
        return self.node("BatchNormalization", x, self.vector(n, 0.5, 1.5), self.vector(n), self.vector(n), self.vector(n, 0.5, 1.5), epsilon=1e-3)

    def save(self, path, inputs, outputs):
        info = lambda name, shape, kind=TensorProto.FLOAT: helper.make_tensor_value_info(name, kind, shape)
        graph = helper.make_graph(self.nodes, "zoo", [info(*i) for i in inputs], [info(*o) for o in outputs], self.init, value_info=self.infos)
        domains = [helper.make_opsetid("", self.opset), helper.make_opsetid("zoo", 1)]
        onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=3 if self.opset < 9 else 8), str(path))


def tensorflow(path):
    """As tf2onnx writes Keras: channels last outside, transposes about what needs them first, biases added apart."""
    f = File(13)
    x = "x"
    for a, b in ((3, 16), (16, 24)):
        x = f.node("Transpose", x, perm=[0, 3, 1, 2])
        x = f.node("Conv", x, f.weights(b, a, 3, 3), auto_pad=b"SAME_UPPER", strides=[2, 2], kernel_shape=[3, 3])
        x = f.node("Transpose", x, perm=[0, 2, 3, 1])
        x = f.node("Relu", f.node("Add", x, f.vector(b)))
    x = f.node("Transpose", x, perm=[0, 3, 1, 2])
    x = f.norm(f.conv(x, 24, 24, group=24, bias=False), 24)
    x = f.node("Clip", x, f.const(np.float32(0)), f.const(np.float32(6)))
    x = f.node("Transpose", x, perm=[0, 2, 3, 1])
    x = f.node("Reshape", x, f.const(np.array([-1, 8 * 8 * 24])))
    x = f.node("Relu", f.node("Add", f.node("MatMul", x, f.weights(8 * 8 * 24, 32)), f.vector(32)))
    x = f.node("Softmax", f.node("Add", f.node("MatMul", x, f.weights(32, 10)), f.vector(10)), axis=-1)
    f.save(path, [("x", ["n", 32, 32, 3])], [(x, ["n", 10])])


def paddle(path):
    """As paddle2onnx writes: all weights Constant nodes, hard-swish in pieces, elementwise with reshaped biases."""
    f = File(11, constants=True)
    def swish(x):
        gate = f.node("Clip", f.node("Add", x, f.const(np.array([3], np.float32))), f.const(np.float32(0)), f.const(np.float32(6)))
        return f.node("Div", f.node("Mul", x, gate), f.const(np.array([6], np.float32)))
    def squeeze(x, n):
        s = f.node("GlobalAveragePool", x)
        s = f.node("Relu", f.node("Add", f.conv(s, n, n // 4, 1, bias=False), f.node("Reshape", f.vector(n // 4), f.const(np.array([1, n // 4, 1, 1])))))
        s = f.node("Add", f.conv(s, n // 4, n, 1, bias=False), f.node("Reshape", f.vector(n), f.const(np.array([1, n, 1, 1]))))
        return f.node("Mul", x, f.node("HardSigmoid", s, alpha=0.2, beta=0.5))
    x = swish(f.norm(f.conv("x", 3, 16, stride=2, bias=False), 16))
    x = swish(f.norm(f.conv(x, 16, 16, group=16, bias=False), 16))
    x = f.norm(f.conv(squeeze(x, 16), 16, 32, 1, bias=False), 32)
    x = f.node("Add", x, f.norm(f.conv(swish(x), 32, 32, bias=False), 32))
    x = f.node("Reshape", f.node("GlobalAveragePool", x), f.const(np.array([0, -1])))
    x = f.node("Add", f.node("MatMul", x, f.weights(32, 10)), f.vector(10))
    f.save(path, [("x", ["n", 3, 32, 32])], [(f.node("Softmax", x, axis=1), ["n", 10])])


def opset7(path):
    """Upsample and Pad with attributes, no Clip inputs, initializers listed as inputs (IR version 3)."""
    f = File(7)
    x = f.node("Relu", f.norm(f.conv("x", 3, 16, stride=2), 16))
    y = f.node("Upsample", x, mode=b"nearest", scales=[1.0, 1.0, 2.0, 2.0])
    y = f.node("Pad", y, mode=b"reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1])
    y = f.node("Conv", y, f.weights(8, 16, 3, 3), kernel_shape=[3, 3])
    y = f.node("LeakyRelu", f.node("Concat", y, f.conv("x", 3, 8), axis=1), alpha=0.1)
    out = f.conv(y, 16, 4, 1)
    inputs = [("x", [1, 3, 16, 16])] + [(t.name, list(t.dims)) for t in f.init]
    f.save(path, inputs, [(out, [1, 4, 16, 16])])


def splits(opset):
    def write(path):
        """Uneven and even splits, with an attribute or an input, of channels; a slice with steps; a gather."""
        f = File(opset)
        x = f.node("Relu", f.conv("x", 3, 24))
        if opset < 13:
            a, b, c = f.node("Split", x, outputs=3, axis=1, split=[4, 8, 12])
        else:
            a, b, c = f.node("Split", x, f.const(np.array([4, 8, 12])), outputs=3, axis=1)
        b = f.conv(f.node("Concat", a, b, axis=1), 12, 12)
        x = f.conv(f.node("Add", b, c), 12, 16)
        p, q = f.node("Split", x, outputs=2, axis=1, **({"num_outputs": 2} if opset >= 18 else {}))
        x = f.conv(f.node("Mul", p, f.node("Sigmoid", q)), 8, 16)
        if opset >= 10:
            x = f.node("Slice", x, f.const(np.array([2])), f.const(np.array([-2])), f.const(np.array([1])))
        else:
            x = f.node("Slice", x, starts=[2], ends=[-2], axes=[1])
        x = f.node("GlobalMaxPool", f.node("Relu", f.conv(x, 12, 20)))
        f.save(path, [("x", [1, 3, 12, 12])], [(f.conv(x, 20, 6, 1), [1, 6, 1, 1])])
    return write


def gathered(path):
    """A channel shuffle by a constant index, and a single channel picked."""
    f = File(13)
    x = f.node("Relu", f.conv("x", 3, 16))
    y = f.node("Relu", f.conv(f.node("Gather", x, f.const(np.array([*range(0, 16, 2), *range(1, 16, 2)])), axis=1), 16, 24))
    one = f.node("Gather", y, f.const(np.array(3)), axis=1)
    y = f.node("Mul", f.conv(y, 24, 16), f.node("Unsqueeze", one, f.const(np.array([1]))))
    f.save(path, [("x", [1, 3, 12, 12])], [(f.conv(y, 16, 4), [1, 4, 12, 12])])


def aliased(path):
    """Weights through Identity, one weight used twice, one bias for three, a branch that is also an output."""
    f = File(13)
    w, b = f.weights(16, 16, 3, 3), f.vector(16)
    x = f.node("Relu", f.conv("x", 3, 16))
    for _ in range(2):
        x = f.node("Relu", f.node("Conv", x, f.node("Identity", w), b, pads=[1] * 4))
    out = f.node("Conv", x, w, b, pads=[1] * 4)
    z = f.node("Relu", f.conv(out, 16, 32))
    z = f.node("Flatten", f.node("GlobalAveragePool", f.conv(z, 32, 24)))
    z = f.node("Gemm", z, f.weights(24, 8), f.const(np.ones((1, 8), np.float32)), alpha=0.5)
    f.save(path, [("x", ["n", 3, 12, 12])], [(z, ["n", 8]), (out, ["n", 16, 12, 12])])


def affine(path):
    """Channel scales and shifts as constants of every shape, products with the constant on the left, Gemm with transA."""
    f = File(17)
    x = f.conv("x", 3, 16, bias=False)
    x = f.node("Add", f.node("Mul", x, f.const(f.random.uniform(0.5, 1.5, (16, 1, 1)).astype(np.float32))), f.const(f.random.uniform(-1, 1, (1, 16, 1, 1)).astype(np.float32)))
    x = f.node("PRelu", x, f.const(f.random.uniform(0, 0.5, (16, 1, 1)).astype(np.float32)))
    x = f.node("Sub", x, f.const(np.float32(0.1)))
    x = f.node("ReduceMean", f.node("Relu", f.conv(x, 16, 24)), axes=[2, 3], keepdims=0)
    x = f.node("Relu", f.node("Gemm", x, f.weights(32, 24), f.vector(32), transB=1))
    x = f.node("Transpose", x, perm=[1, 0])
    x = f.node("Relu", f.node("MatMul", f.weights(20, 32), x))
    x = f.node("Gemm", x, f.weights(20, 6), transA=1)
    f.save(path, [("x", ["n", 3, 12, 12])], [(x, ["n", 6])])


def conv3d(path):
    """Video: convolutions over three axes."""
    f = File(13)
    layer = lambda x, a, b: f.node("Relu", f.node("Conv", x, f.weights(b, a, 3, 3, 3), f.vector(b), pads=[1] * 6))
    x = f.node("MaxPool", layer("x", 3, 8), kernel_shape=[1, 2, 2], strides=[1, 2, 2])
    x = f.node("GlobalAveragePool", layer(x, 8, 16))
    f.save(path, [("x", [1, 3, 4, 12, 12])], [(f.node("Gemm", f.node("Flatten", x), f.weights(16, 5)), [1, 5])])


def unknown(path):
    """An operator of nobody in the middle, with the shape of its result in the file."""
    f = File(13)
    x = f.node("Relu", f.conv("x", 3, 16))
    x = f.node("Relu", f.conv(x, 16, 24))
    f.nodes.append(helper.make_node("Riddle", [x], ["riddle"], domain="zoo"))
    f.infos.append(helper.make_tensor_value_info("riddle", TensorProto.FLOAT, [1, 24, 12, 12]))
    x = f.node("Relu", f.conv("riddle", 24, 32))
    f.save(path, [("x", [1, 3, 12, 12])], [(f.conv(x, 32, 4), [1, 4, 12, 12])])


def branch(path):
    """An If whose branches read outer values, and a Loop."""
    f = File(13)
    x = f.node("Relu", f.conv("x", 3, 16))
    x = f.node("Relu", f.conv(x, 16, 24))
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    side = lambda op, name: helper.make_graph([helper.make_node(op, [x], [name])], name, [], [info(name)])
    flag = f.node("Greater", f.node("ReduceMean", "x", keepdims=0), f.const(np.float32(0)))
    f.nodes.append(helper.make_node("If", [flag], ["chosen"], then_branch=side("Relu", "t"), else_branch=side("Neg", "e")))
    f.infos.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1, 24, 12, 12]))
    x = f.node("Relu", f.conv("chosen", 24, 32))
    f.save(path, [("x", [1, 3, 12, 12])], [(f.conv(x, 32, 4), [1, 4, 12, 12])])


def quantised(path):
    """8-bit weights behind DequantizeLinear, activations through QuantizeLinear and back."""
    f = File(13)
    def quantised_conv(x, a, b):
        w = f.const(f.random.integers(-127, 127, (b, a, 3, 3)).astype(np.int8))
        w = f.node("DequantizeLinear", w, f.const(np.full(b, 0.01, np.float32)), f.const(np.zeros(b, np.int8)), axis=0)
        x = f.node("Relu", f.node("Conv", x, w, f.vector(b), pads=[1] * 4))
        scale, zero = f.const(np.float32(0.05)), f.const(np.uint8(0))
        return f.node("DequantizeLinear", f.node("QuantizeLinear", x, scale, zero), scale, zero)
    x = quantised_conv(quantised_conv(quantised_conv("x", 3, 16), 16, 24), 24, 16)
    f.save(path, [("x", [1, 3, 12, 12])], [(f.conv(x, 16, 4), [1, 4, 12, 12])])


def nothing(path):
    """No layer at all."""
    f = File(13)
    f.save(path, [("x", [1, 3, 4, 4])], [(f.node("Softmax", f.node("Relu", "x"), axis=1), [1, 3, 4, 4])])


def one_layer(path):
    """One layer, straight from the input to the output: nothing can go."""
    f = File(17)
    f.save(path, [("x", ["n", 16])], [(f.node("Gemm", "x", f.weights(16, 4), f.vector(4)), ["n", 4])])


def nets():
    refused, blind = {"prunable": False}, {"prunable": False, "runnable": False}
    return [("tensorflow_like", tensorflow, {}), ("paddle_like", paddle, {}), ("opset7_upsample", opset7, {}),
            ("splits_opset9", splits(9), {}), ("splits_opset11", splits(11), {}), ("splits_opset13", splits(13), {}), ("splits_opset18", splits(18), {}),
            ("splits_opset21", splits(21), {}), ("gathered", gathered, {}), ("aliased", aliased, {}), ("affine", affine, {}), ("conv3d", conv3d, {}),
            ("unknown_operator", unknown, blind), ("if_branch", branch, blind), ("quantised", quantised, {}),
            ("nothing", nothing, refused), ("one_layer", one_layer, refused)]
