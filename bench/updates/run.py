#!/usr/bin/env python3
"""Updates of ours against those of the peers, on the pairs of variants in ../shared/anchors/pairs:

    bench/updates/run.py [--pairs FOLDER] [--models lenet300,lenet5] [--coders secateur,NNCodec] [--json FILE] [--markdown FILE]

Peers: zstd -19, zstd -19 --patch-from, xz -9e, bsdiff, xdelta3 -9 (Debian: zstd xz-utils bsdiff xdelta3), lossless, on the ONNX
files; NNCodec 2.1.3 (PyPI), at the same error, in full and with the base as context (tca). What cannot be installed is
named as not run. Every result is decoded and judged here from its weights: its digest, where it must be exact; else the error
of each tensor of over 64 elements, and the number of nonzeros. NNCodec is held to the error over all of them together, ours to
that of each, which is more to ask where tensors differ in scale. Times are of whole processes, the best of three, and for ours and
NNCodec also without start and files (`inner`); memory is a process's peak."""
import argparse, hashlib, json, os, pathlib, shlex, shutil, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VENV = pathlib.Path(os.environ.get("SECATEUR_BENCH_VENV", pathlib.Path(tempfile.gettempdir()) / "secateur-bench-updates"))
NMSE = 2e-3
EXACT = [("dense", "sparse90"), ("sparse90", "sparse95"), ("dense", "struct3x"), ("dense", "sparse90_tuned")]
LOSSY = [("dense", "sparse90_tuned"), ("sparse90", "sparse90_tuned"), ("dense", "struct3x_tuned"), ("", "sparse90"), ("", "dense")]
FILES = {  # encode, decode; {o} old, {n} new, {u} update, {d} decoded
    "zstd -19": ("zstd -19 -qf {n} -o {u}", "zstd -dqf {u} -o {d}"),
    "zstd -19 --patch-from": ("zstd -19 --long=27 -qf --patch-from {o} {n} -o {u}", "zstd -dqf --long=27 --patch-from {o} {u} -o {d}"),
    "xz -9e": ("sh -c 'xz -9e -c {n} > {u}'", "sh -c 'xz -dc {u} > {d}'"),
    "bsdiff": ("bsdiff {o} {n} {u}", "bspatch {o} {d} {u}"),
    "xdelta3 -9": ("xdelta3 -9 -f -e -s {o} {n} {u}", "xdelta3 -f -d -s {o} {u} {d}"),
}


def enter_venv():
    """Goes on under a Python that has numpy, onnx and, where it can be had, NNCodec."""
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix).resolve() == VENV.resolve():
        return
    if not (VENV / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnx"], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "nncodec==2.1.3"])
        (VENV / "ready").touch()
    os.execv(python, [python, *sys.argv])


def run(command, times=3):
    """The best wall time in ms, the peak memory in KiB, and what it said."""
    best, peak, out = float("inf"), 0, ""
    for _ in range(times):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[0]}: {error.strip()[-200:]}")
        best, peak = min(best, (time.perf_counter() - start) * 1e3), max(peak, usage.ru_maxrss)
    return round(best, 1), peak, out


def weights(path):
    import onnx
    from onnx import numpy_helper
    if str(path).endswith(".npz"):
        import numpy
        return dict(numpy.load(path))
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer if t.data_type == 1}


def digest(params):
    hasher = hashlib.sha256()
    for name, values in sorted(params.items()):
        hasher.update(f"{name} {values.shape}".encode() + values.tobytes())
    return hasher.hexdigest()[:16]


def judge(row, decoded, target, exact):
    """Puts into `row` what the decoded weights are worth."""
    large = [name for name in target if target[name].size > 64]
    error = max(float(((target[k] - decoded[k]) ** 2).sum() / max((target[k] ** 2).sum(), 1e-30)) for k in large)
    whole = sum(float(((target[k] - decoded[k]) ** 2).sum()) for k in large) / sum(float((target[k] ** 2).sum()) for k in large)
    decoded = {name: decoded[name] for name in target}  # ours turns constants of nodes into weights: more names
    count = lambda params: sum(int((params[k] != 0).sum()) for k in large)
    row |= {"digest": digest(decoded), "nmse": whole, "nmse_worst": error, "nonzeros_more": count(decoded) - count(target)}
    row["sound"] = row["digest"] == digest(target) if exact else whole <= 1.01 * NMSE


def cut_alike(old, new, like):
    """`old` cut to the shapes of `new`, by the rows and columns in which it equals `like`: NNCodec cannot do it itself."""
    import numpy as np
    result = {}
    for name in new:
        values = old[name]
        for axis, (have, want) in enumerate(zip(values.shape, like[name].shape)):
            if have != want:
                slices, wanted = np.moveaxis(values, axis, 0), np.moveaxis(like[name], axis, 0)
                kept, at = [], 0
                for slice_ in wanted:
                    while not np.isin(slice_, slices[at]).all():
                        at += 1
                    kept.append(at)
                    at += 1
                values = np.take(values, kept, axis)
        result[name] = np.ascontiguousarray(values)
    return result


class Bench:
    def __init__(self, coders, tmp, done):
        self.coders, self.tmp, self.done, self.rows, self.missing = coders, tmp, done, [], []
        self.target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        build = ["cargo", "build", "--release", "-q", "-p"]
        subprocess.run([*build, "secateur-cli"], check=True, cwd=ROOT)
        subprocess.run([*build, "secateur-update", "--example", "pairs"], check=True, cwd=ROOT)
        self.nncodec = subprocess.run([sys.executable, "-c", "import nncodec.nnc"], capture_output=True).returncode == 0
        self.tools = {name for name, (encode, _) in FILES.items() if shutil.which(name.split()[0])}
        self.missing += sorted(set(FILES) - self.tools) + ([] if self.nncodec else ["NNCodec 2.1.3"])

    def row(self, model, old, new, coder, error, make):
        if not any(coder.startswith(name) for name in self.coders):
            return
        row = {"model": model, "old": old or None, "new": new, "coder": coder, "error": error}
        try:
            row |= make()
        except Exception as problem:  # a peer's failure is a result
            row |= {"failed": str(problem)[-200:], "sound": False}
        self.rows.append(row)
        print(json.dumps(row), file=sys.stderr)
        self.done(self)

    def ours(self, folder, old, new, error):
        update, out = self.tmp / "update", self.tmp / "decoded.onnx"
        cli, base = self.target / "secateur", ["--from", folder / f"{old}.onnx"] if old else []
        kind = ["--exact"] if error == 0 else ["--max-error", str(error)]
        encode, encode_kib, _ = run([cli, "update", "make", *base, "--to", folder / f"{new}.onnx", *kind, "-o", update, "--json"])
        decode, decode_kib, said = run([cli, "update", "apply", *base, update, "-o", out, "--json"])
        pair = [folder / f"{old}.onnx" if old else "-", folder / f"{new}.onnx", str(error)]
        inner = json.loads(run([self.target / "examples/pairs", *pair], times=1)[2])
        row = {"bytes": update.stat().st_size, "encode_ms": encode, "decode_ms": decode, "encode_kib": encode_kib, "decode_kib": decode_kib,
               "inner_encode_ms": inner["encode_ms"], "inner_publish_ms": inner["publish_ms"], "inner_decode_ms": inner["decode_ms"],
               "variant": json.loads(said)["target"]}
        judge(row, weights(out), weights(folder / f"{new}.onnx"), error == 0)
        return row

    def file(self, folder, old, new, tool):
        update, out = self.tmp / "update", self.tmp / "decoded.onnx"
        paths = {"o": folder / f"{old}.onnx", "n": folder / f"{new}.onnx", "u": update, "d": out}
        commands = [shlex.split(command.format(**paths)) for command in FILES[tool]]
        encode, encode_kib, _ = run(commands[0])
        decode, decode_kib, _ = run(commands[1])
        row = {"bytes": update.stat().st_size, "encode_ms": encode, "decode_ms": decode, "encode_kib": encode_kib, "decode_kib": decode_kib}
        judge(row, weights(out), weights(folder / f"{new}.onnx"), True)
        return row

    def peer(self, folder, old, new, mode):
        import numpy as np
        target, out, files = weights(folder / f"{new}.onnx"), self.tmp / "decoded.npz", []
        for name, params in (("old", self.base(folder, old, new, target) if mode != "full" else None), ("new", target)):
            files.append("-" if params is None else self.tmp / f"{name}.npz")
            if params is not None:
                np.savez(files[-1], **params)
        _, kib, said = run([sys.executable, HERE / "nncodec_peer.py", mode, *files, str(NMSE), out], times=1)
        said = json.loads(said.strip().splitlines()[-1])
        row = {"bytes": said["bytes"], "inner_encode_ms": round(said["encode_ms"], 1), "inner_decode_ms": round(said["decode_ms"], 1), "encode_kib": kib, "decode_kib": kib}
        judge(row, weights(out), target, False)
        return row

    def base(self, folder, old, new, target):
        base = weights(folder / f"{old}.onnx")
        if all(base[name].shape == target[name].shape for name in target):
            return {name: base[name] for name in target}
        return cut_alike(base, target, weights(folder / "struct3x.onnx"))

    def model(self, folder):
        name = folder.name
        for old, new in EXACT:
            self.row(name, old, new, "secateur", 0, lambda: self.ours(folder, old, new, 0))
            for tool in FILES:
                if tool in self.tools:
                    self.row(name, old, new, tool, 0, lambda: self.file(folder, old, new, tool))
        for old, new in LOSSY:
            self.row(name, old, new, "secateur", NMSE, lambda: self.ours(folder, old, new, NMSE))
            for mode in ["full", "tca"] if old else ["full"]:
                if self.nncodec:
                    self.row(name, old, new, f"NNCodec {mode}", NMSE, lambda: self.peer(folder, old, new, mode))


def table(rows, missing):
    """The rows as Markdown."""
    lines = ["| model | update | error, worst tensor's | coder | bytes | of ours | encode ms | decode ms | MiB | nonzeros | sound |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    ours = {(r["model"], r["old"], r["new"], r["error"]): r.get("bytes") for r in rows if r["coder"] == "secateur"}
    for r in rows:
        update = f"{r['old'] or 'nothing'} → {r['new']}"
        if "failed" in r:
            lines.append(f"| {r['model']} | {update} | {r['error']} | {r['coder']} | failed: {r['failed']} | | | | | | |")
            continue
        times = [f"{r.get(f'{what}_ms', '–')}" + (f" ({r[f'inner_{what}_ms']})" if f"inner_{what}_ms" in r else "") for what in ("encode", "decode")]
        own = ours.get((r["model"], r["old"], r["new"], r["error"]))
        ratio = f"{r['bytes'] / own:.2f}" if own else "–"
        lines.append(f"| {r['model']} | {update} | {r['nmse']:.1e}, {r['nmse_worst']:.1e} | {r['coder']} | {r['bytes']:,} | {ratio} | {times[0]} | {times[1]} "
                     f"| {max(r['encode_kib'], r['decode_kib']) / 1024:.0f} | {r['nonzeros_more']:+d} | {'yes' if r['sound'] else 'NO'} |")
    return "\n".join(lines + ["", "Not run: " + (", ".join(missing) or "none") + "."]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=pathlib.Path, default=ROOT / "../shared/anchors/pairs")
    parser.add_argument("--models", default="lenet300,lenet5,resnet,mobilenet")
    parser.add_argument("--coders", default="secateur,zstd,xz,bsdiff,xdelta3,NNCodec", help="those whose names begin so")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--markdown", type=pathlib.Path)
    arguments = parser.parse_args()
    enter_venv()

    def done(bench):
        """Writes what there is so far: a bench that is stopped has not run in vain."""
        if arguments.json:
            arguments.json.write_text(json.dumps({"rows": bench.rows, "not_run": bench.missing}, indent=1) + "\n")
        if arguments.markdown:
            arguments.markdown.write_text(table(bench.rows, bench.missing))

    with tempfile.TemporaryDirectory() as tmp:
        bench = Bench(arguments.coders.split(","), pathlib.Path(tmp), done)
        for model in arguments.models.split(","):
            bench.model(arguments.pairs / model)
    print(table(bench.rows, bench.missing))
    sys.exit(not all(row["sound"] for row in bench.rows if row["coder"] == "secateur"))


main()
