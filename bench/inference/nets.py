"""Nets with random weights, for speed only: ResNet-20 (He et al. 2015, CIFAR), MobileNetV1 (Howard et al. 2017)."""
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph written layer by layer. `share` of the weights of each convolution but the first and depthwise are zero:
    single ones, or blocks of `rows` output channels."""

    def __init__(self, shape, share, rows):
        self.rng, self.share, self.rows = np.random.default_rng(0), share, rows
        self.shape, self.nodes, self.constants = shape, [], []

    def constant(self, values):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, op, inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def masked(self, weights):
        rows = weights.shape[0] // self.rows
        mask = self.rng.random((rows,) + weights.shape[1:]) >= self.share
        return weights * np.repeat(mask, self.rows, axis=0)

    def conv(self, x, inputs, outputs, kernel, stride=1, group=1, relu=True, prune=True):
        fan = inputs // group * kernel * kernel
        weights = self.rng.standard_normal((outputs, inputs // group, kernel, kernel)) * (2 / fan) ** 0.5
        if prune and group == 1:
            weights = self.masked(weights)
        bias = self.constant(self.rng.standard_normal(outputs) * 0.1)
        pads = [kernel // 2] * 4
        y = self.node("Conv", [x, self.constant(weights), bias], kernel_shape=[kernel] * 2,
                      strides=[stride] * 2, pads=pads, group=group)
        return self.node("Relu", [y]) if relu else y

    def head(self, x, channels, classes):
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        weights = self.constant(self.rng.standard_normal((classes, channels)) * 0.1)
        return self.node("Gemm", [x, weights, self.constant(np.zeros(classes))], transB=1)

    def save(self, output, path):
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, "net", [value("x", self.shape)], [value(output, None)], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(onnx.shape_inference.infer_shapes(model), path)


def resnet20(path, share=0.0, rows=1):
    net = Net([1, 3, 32, 32], share, rows)
    x, channels = net.conv("x", 3, 16, 3, prune=False), 16
    for outputs in (16, 32, 64):
        for block in range(3):
            stride = 2 if outputs != channels else 1
            y = net.conv(x, channels, outputs, 3, stride)
            y = net.conv(y, outputs, outputs, 3, relu=False)
            if stride != 1:
                x = net.conv(x, channels, outputs, 1, stride, relu=False)
            x, channels = net.node("Relu", [net.node("Add", [y, x])]), outputs
    net.save(net.head(x, 64, 10), path)


def mobilenet_v1(path, size=224, share=0.0, rows=1):
    net = Net([1, 3, size, size], share, rows)
    x, channels = net.conv("x", 3, 32, 3, 2 if size == 224 else 1, prune=False), 32
    for outputs, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)):
        x = net.conv(x, channels, channels, 3, stride, group=channels)
        x, channels = net.conv(x, channels, outputs, 1), outputs
    net.save(net.head(x, 1024, 1000 if size == 224 else 10), path)
