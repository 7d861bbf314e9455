"""The table of bench/inference: each engine on each model, alternating, on one core; medians of three rounds."""
import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import nets
import plot

ENGINES = ["ours", "onnxruntime", "tract", "openvino", "deepsparse"]
ROOT = pathlib.Path(__file__).resolve().parents[2]


def ours(path, runs, *flags):
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    start = time.perf_counter()
    command = [target / "release/secateur", "bench", path, "--runs", str(runs), "--json", *flags]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    memory = (found["memory_bytes"] or 0) / 1024  # weights as packed and activations; unknown on tract
    spent = found["latency_p50_us"] * 1e-6 * runs * 1.1
    return {"p50": found["latency_p50_us"], "p95": found["latency_p95_us"], "backend": found["backend"],
            "load_ms": max(0.0, time.perf_counter() - start - spent) * 1e3, "memory_kib": memory}


def peer(engine, path, runs):
    """Runs in a process of its own, so that memory is that engine's."""
    done = subprocess.run([sys.executable, __file__, "--peer", engine, path, str(runs)], capture_output=True, text=True)
    if done.returncode != 0:
        return {"failed": done.stderr.strip().splitlines()[-1:] or ["?"]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def loaded(engine, path, x):
    if engine == "onnxruntime":
        import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: x}
        return lambda: session.run(None, feed)
    if engine == "openvino":
        import openvino
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape(list(x.shape))
        config = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", config).create_infer_request()
        return lambda: request.infer({0: x})
    import deepsparse
    compiled = deepsparse.compile_model(path, batch_size=1, num_cores=1)
    return lambda: compiled.run([x])


def run_peer(engine, path, runs):
    import numpy as np
    import onnx
    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    x = np.random.default_rng(0).random([d.dim_value or 1 for d in dims], dtype=np.float32)
    start = time.perf_counter()
    infer = loaded(engine, path, x)
    infer()
    load = time.perf_counter() - start
    for _ in range(runs // 10):
        infer()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        infer()
        times.append((time.perf_counter() - start) * 1e6)
    times.sort()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"p50": times[len(times) // 2], "p95": times[len(times) * 95 // 100], "load_ms": load * 1e3, "memory_kib": peak * 1024}))


def cases(anchors, folder, quick):
    for model in ("resnet", "lenet5", "lenet300", "mobilenet"):
        dense = anchors / "pairs" / model / "dense.onnx"
        for variant in ("dense", "sparse90_tuned", "sparse95", "struct3x_tuned"):
            yield f"{model} {variant}", anchors / "pairs" / model / f"{variant}.onnx", dense
    builds = [("ResNet-20 32²", nets.resnet20, {}), ("MobileNetV1 32²", nets.mobilenet_v1, {"size": 32}),
              ("MobileNetV1 224²", nets.mobilenet_v1, {"size": 224})]
    for name, build, more in [] if quick else builds:
        dense = folder / f"{len(name)}-{name[-3]}-dense.onnx"
        build(dense, **more)
        yield f"{name} dense", dense, dense
        for share in (0.8, 0.9, 0.95):
            for rows in (1, 4):
                path = dense.with_name(f"{dense.stem}-{share}-{rows}.onnx")
                build(path, share=share, rows=rows, **more)
                kind = "single weights" if rows == 1 else "4×1 blocks"
                yield f"{name} {share:.0%} {kind}", path, dense


def measured(engine, path, runs, rounds):
    def one():
        if engine == "ours":
            return ours(path, runs)
        return ours(path, runs, "--engine", "tract") if engine == "tract" else peer(engine, str(path), runs)
    found = [one() for _ in range(rounds)]
    if any("failed" in one for one in found):
        return None
    return {key: statistics.median(one[key] for one in found) for key in ("p50", "p95", "load_ms", "memory_kib")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true", help="the trained models only")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, {0})
    if args.peer:
        return run_peer(args.peer[0], args.peer[1], int(args.peer[2]))
    anchors = pathlib.Path(os.environ.get("ANCHORS", ROOT.parent / "shared/anchors"))
    engines, rows = args.engines.split(","), []
    print("| model | " + " | ".join(f"{e} p50 · p95 µs" for e in engines) + " | ours / onnxruntime dense | ours KiB · load ms |")
    print("|---|" + "---|" * (len(engines) + 2))
    with tempfile.TemporaryDirectory() as folder:
        base = {}
        for name, path, dense in cases(anchors, pathlib.Path(folder), args.quick):
            runs = min(args.runs, 100) if "224" in name else args.runs
            found = {engine: measured(engine, path, runs, args.rounds) for engine in engines}
            if path == dense:
                base[dense] = found.get("onnxruntime")
            rows.append({"model": name, "engines": found})
            cell = lambda one: f"{one['p50']:.1f} · {one['p95']:.1f}" if one else "–"
            ratio = found["ours"]["p50"] / base[dense]["p50"] if base.get(dense) else float("nan")
            rows[-1]["ratio"] = ratio
            own = found["ours"]
            print(f"| {name} | " + " | ".join(cell(found[e]) for e in engines) + f" | {ratio:.2f} | {own['memory_kib']:.0f} · {own['load_ms']:.0f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.plot:
        args.plot.write_text(plot.svg(rows, engines))


if __name__ == "__main__":
    main()
