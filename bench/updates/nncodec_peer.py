"""One update by NNCodec (ISO/IEC 15938-17), at an error of at most the one given; prints a line of JSON.
nncodec_peer.py full|tca OLD.npz NEW.npz NMSE DECODED.npz

full        without a base
tca         temporal context adaptation: the base, quantised alike on both sides, is the coder's context; the new weights
            themselves are coded (which needs the stream to be marked a difference; coding differences costs far more,
            148,819 B where this costs 25 kB)
The largest quantisation parameter (of 2^(1/16) steps) that keeps the error is searched; times are those of that one."""
import contextlib, copy, io, json, sys, time
import numpy as np
from nncodec import nnc

DENSITY = 4  # steps of 2^(1/16); the default is 2^(1/4), too coarse to compare at equal error
FINE = -176  # of biases and the like: steps of 2^-11, about as fine as ours, which hold them to a thousandth of the error


def compress(params, qp, base=None, tca=False):
    with contextlib.redirect_stdout(io.StringIO()):
        return nnc.compress(copy.deepcopy(params), bitstream_path="/dev/null", qp=qp, qp_density=DENSITY, nonweight_qp=FINE,
                            use_dq=True, row_skipping=True, tca=tca, compress_differences=tca, approx_param_base=base, update_base_param=base is not None,
                            return_bitstream=True)


def decompress(stream, base=None):
    with contextlib.redirect_stdout(io.StringIO()):
        return nnc.decompress(stream, approx_param_base=base, update_base_param=base is not None)


def held(old, qp):
    """What both sides know of the base: it, coded with the same parameter."""
    base = {"parameters": {}, "put_node_depth": {}, "device_id": 0, "parameter_id": {}}
    compress(old, qp, base)
    return base


def code(mode, old, new, qp):
    """Bytes, decoded weights, seconds to encode and to decode."""
    bases = [held(old, qp), held(old, qp)] if mode == "tca" else [None, None]
    start = time.perf_counter()
    stream = compress(new, qp, bases[0], mode == "tca")
    encoded = time.perf_counter()
    decoded = decompress(stream, bases[1])
    return len(stream), decoded, encoded - start, time.perf_counter() - encoded


def nmse(new, decoded):
    large = [k for k in new if new[k].size > 64]
    return sum(float(((new[k] - decoded[k]) ** 2).sum()) for k in large) / sum(float((new[k] ** 2).sum()) for k in large)


def main():
    mode, old, new, limit, out = sys.argv[1:]
    load = lambda path: dict(sorted(np.load(path).items()))  # tensors are numbered in this order on both sides
    old, new = None if old == "-" else load(old), load(new)
    low, high = -220, -40  # errors are monotone in the parameter, nearly
    while high - low > 1:
        middle = (low + high) // 2
        if nmse(new, code(mode, old, new, middle)[1]) <= float(limit):
            low = middle
        else:
            high = middle
    size, decoded, encode, decode = code(mode, old, new, low)
    np.savez(out, **decoded)
    print(json.dumps({"bytes": size, "qp": low, "encode_ms": encode * 1e3, "decode_ms": decode * 1e3}))


main()
