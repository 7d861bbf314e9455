"""What others make of a model: Torch-Pruning and onnxsim for channels, onnxsim for single weights.

A peer is a function of (dense model, targets, calibration inputs, labelled data) that yields a model for each target."""
import measure


def torch_pruning(importance, everywhere, labels=False):
    """Iterative ranking over all layers (`everywhere`) or within each; the first step at which the MACs hold. Then batch norms
    are estimated anew on the calibration inputs, where the net has some."""
    def run(dense, targets, calibration, labelled):
        import torch, torch_pruning as tp
        from torch_net import Net
        torch.set_num_threads(1)  # small layers: a second thread only waits
        net, most = Net(dense).eval(), measure.macs(dense)
        images = torch.tensor(calibration[:1])
        score = getattr(tp.importance, importance)()
        pruner = tp.pruner.BasePruner(
            net, images, score, global_pruning=everywhere, pruning_ratio=0.97, max_pruning_ratio=0.97,
            iterative_steps=100, ignored_layers=[net.last()])
        batch = torch.tensor(measure.images(labelled["x"][:512])), torch.tensor(labelled["y"][:512])
        for target in targets:
            while measure.macs(model := net.onnx()) > target * most:
                if pruner.current_step >= pruner.iterative_steps:
                    raise RuntimeError(f"ends at {100 * measure.macs(model) / most:.1f} % of the MACs")
                if labels:
                    net.zero_grad()
                    torch.nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
                pruner.step()
            net.reestimate(torch.tensor(calibration))
            yield net.onnx()
    return run


def batches(dense, calibration):
    name = dense.graph.input[0].name
    return [{name: calibration[start:start + 256]} for start in range(0, min(len(calibration), 2048), 256)]


def onnxsim_channels(function, refit, **options):
    """Bisects the sparsity for the least at which the MACs hold."""
    def run(dense, targets, calibration, _):
        import onnxsim
        data, most = batches(dense, calibration), measure.macs(dense)
        given = {"calibration_data": data} if "wanda" in function else {}
        def at(sparsity):
            return getattr(onnxsim, function)(dense, sparsity=sparsity, **given, **options)
        for target in targets:
            low, high, best = 0.0, 0.99, None
            for _ in range(9):
                middle = (low + high) / 2
                model = at(middle)
                if measure.macs(model) <= target * most:
                    high, best = middle, model
                else:
                    low = middle
            if best is None:
                raise RuntimeError(f"ends at {100 * measure.macs(at(0.99)) / most:.1f} % of the MACs")
            yield onnxsim.apply_pruning_finetune(dense, best, calibration_data=data) if refit else best
    return run


def onnxsim_weights(function, **options):
    """Keeps a share of the weights."""
    def run(dense, targets, calibration, _):
        import onnxsim
        given = {} if "magnitude" in function else {"calibration_data": batches(dense, calibration)}
        for target in targets:
            yield getattr(onnxsim, function)(dense, sparsity=1 - target, **given, **options)
    return run


CHANNELS = {
    "Torch-Pruning L2, global": torch_pruning("MagnitudeImportance", True),
    "Torch-Pruning L2, local": torch_pruning("MagnitudeImportance", False),
    "Torch-Pruning Taylor, global (uses labels)": torch_pruning("TaylorImportance", True, labels=True),
    "onnxsim L2": onnxsim_channels("apply_structured_pruning", False),
    "onnxsim L2 + its least squares": onnxsim_channels("apply_structured_pruning", True),
    "onnxsim Wanda + its least squares": onnxsim_channels("apply_structured_wanda_pruning", True),
}
WEIGHTS = {
    "onnxsim magnitude, global": onnxsim_weights("apply_magnitude_pruning", global_sparsity=True),
    "onnxsim Wanda": onnxsim_weights("apply_wanda_pruning"),
    "onnxsim SparseGPT": onnxsim_weights("apply_sparsegpt_pruning"),
}
