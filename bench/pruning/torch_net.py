"""An ONNX graph of the few operators of our models as a torch module whose layers Torch-Pruning can cut, and back."""
import numpy as np, onnx, torch
from onnx import numpy_helper
from torch import nn


class Net(nn.Module):
    """Runs the nodes in their order; each convolution and product is a layer of its own."""

    def __init__(self, model):
        super().__init__()
        self.model, self.layers = model, nn.ModuleDict()
        self.constants = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}
        for n in model.graph.node:
            if n.op_type == "Constant":
                self.constants[n.output[0]] = torch.tensor(numpy_helper.to_array(n.attribute[0].t))
        # Constants that several nodes share go by several names.
        self.aliases = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity" and n.input[0] in self.constants}
        self.constants |= {alias: self.constants[name] for alias, name in self.aliases.items()}
        for index, n in enumerate(model.graph.node):
            if n.op_type in ("Conv", "Gemm", "BatchNormalization"):
                self.layers[str(index)] = self.layer(n)

    def layer(self, n):
        w, b = [*(self.constants[name] for name in n.input[1:3]), None][:2]
        a = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        if n.op_type == "BatchNormalization":
            layer = nn.BatchNorm2d(len(w), eps=a["epsilon"], momentum=None)
            layer.running_mean, layer.running_var = (self.constants[name].clone() for name in n.input[3:5])
        elif n.op_type == "Gemm":
            assert a["transB"] == 1
            layer = nn.Linear(w.shape[1], w.shape[0])
        else:
            group = a["group"]
            assert a["pads"][:2] == a["pads"][2:]
            layer = nn.Conv2d(w.shape[1] * group, w.shape[0], a["kernel_shape"], a["strides"], a["pads"][:2], a["dilations"], group, b is not None)
        layer.weight.data = w.clone()
        if b is not None:
            layer.bias.data = b.clone()
        return layer

    def reestimate(self, images):
        """Takes the batch norms' means and variances anew."""
        norms = [layer for layer in self.layers.values() if isinstance(layer, nn.BatchNorm2d)]
        if norms:
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
            with torch.no_grad():
                for batch in images.split(512):
                    self(batch)
            self.eval()

    def forward(self, x):
        graph, values = self.model.graph, dict(self.constants)
        values[graph.input[0].name] = x
        for index, n in enumerate(graph.node):
            if n.op_type != "Constant" and n.output[0] not in self.aliases:
                values[n.output[0]] = self.run(index, n, [values[name] for name in n.input])
        return values[graph.output[0].name]

    def run(self, index, n, i):
        a = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        match n.op_type:
            case "Conv" | "Gemm" | "BatchNormalization": return self.layers[str(index)](i[0])
            case "Relu": return i[0].relu()
            case "Clip": return i[0].clamp(float(i[1]), float(i[2]))
            case "Add": return i[0] + i[1]
            case "Sub": return i[0] - i[1]
            case "Div": return i[0] / i[1]
            case "MaxPool": return nn.functional.max_pool2d(i[0], a["kernel_shape"], a["strides"])
            case "GlobalAveragePool": return nn.functional.adaptive_avg_pool2d(i[0], 1)
            case "Flatten": return torch.flatten(i[0], 1)
        raise NotImplementedError(n.op_type)

    def last(self):
        """The layer that makes the answers."""
        return [layer for layer in self.layers.values() if isinstance(layer, nn.Linear)][-1]

    def onnx(self):
        """The graph with the layers' weights as they are now."""
        model = onnx.ModelProto.FromString(self.model.SerializeToString())
        tensors = {t.name: t for t in model.graph.initializer}
        for index, layer in self.layers.items():
            n = model.graph.node[int(index)]
            values = [value for value in (layer.weight, layer.bias) if value is not None]
            if n.op_type == "BatchNormalization":
                values += [layer.running_mean, layer.running_var]
            for name, value in zip(n.input[1:], values):
                name = self.aliases.get(name, name)
                tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.detach().numpy()), name))
            for a in n.attribute:
                if a.name == "group":
                    a.i = layer.groups
        del model.graph.value_info[:]
        return model
