"""Random weights that show a wrong cut, and PyTorch's exporter with its many switches."""
import warnings

import torch

torch.backends.mha.set_fastpath_enabled(False)  # the exporter knows only the slow one


def randomise(module, seed=0):
    """Statistics and affine parameters as training leaves them: no two channels alike, signals neither die nor explode."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in module.modules():
            if getattr(m, "running_mean", None) is not None:
                m.running_mean.copy_(0.2 * torch.randn(m.running_mean.shape, generator=g))
                m.running_var.copy_(0.5 + torch.rand(m.running_var.shape, generator=g))
            if "Norm" in type(m).__name__ and getattr(m, "weight", None) is not None:
                m.weight.copy_(0.5 + torch.rand(m.weight.shape, generator=g))
                if getattr(m, "bias", None) is not None:
                    m.bias.copy_(0.2 * torch.randn(m.bias.shape, generator=g))
            elif isinstance(m, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Linear)) and m.bias is not None:
                m.bias.copy_(0.1 * torch.randn(m.bias.shape, generator=g))
            if isinstance(m, torch.nn.Linear) and not m.weight.any():  # heads that begin at 0
                m.weight.copy_(torch.randn(m.weight.shape, generator=g) / m.in_features**0.5)
            for name in ("gamma", "gamma_1", "layer_scale", "scale"):  # layer scales begin near 0: their branches must count
                scale = getattr(m, name, None)
                if isinstance(scale, torch.nn.Parameter):
                    scale.copy_(0.5 + torch.rand(scale.shape, generator=g))
    return module.eval()


def export(build, shape, opset=17, folded=True, free=None, inputs=None, dynamo=False):
    """An exporter: `build` makes the module, `shape` is that of its input, `free` names axes that stay free."""
    def write(path):
        torch.manual_seed(0)
        module = randomise(build())
        example = inputs() if inputs else (torch.randn(*shape),)
        names = ["x"] + [f"x{i}" for i in range(1, len(example))]
        axes = {names[0]: free} if free else None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if dynamo:
                torch.onnx.export(module, example, str(path), input_names=names, opset_version=opset, dynamo=True,
                                  external_data=False, verbose=False, optimize=folded)
            else:
                mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
                torch.onnx.export(module, example, str(path), input_names=names, output_names=None, opset_version=opset,
                                  dynamo=False, do_constant_folding=folded, training=mode, dynamic_axes=axes,
                                  keep_initializers_as_inputs=opset < 9 or None)
    return write
