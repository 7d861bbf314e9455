"""Cuts the bundled data out of the Fashion-MNIST archives: python make.py FOLDER_WITH_NPZ (needs numpy).

FOLDER holds fashion_calibration.npz, fashion_val.npz and fashion_test.npz with `x` uint8 [N,1,28,28] and `y` int64 [N].
"""
import pathlib, sys
import numpy as np

source, here = pathlib.Path(sys.argv[1]), pathlib.Path(__file__).parent
DEVICES, PER_DEVICE = 6, 400

calibration = np.load(source / "fashion_calibration.npz")
np.savez_compressed(here / "calibration.npz", x=calibration["x"][:1024])

validation = np.load(source / "fashion_val.npz")
np.savez_compressed(here / "validation.npz", x=validation["x"][:800], y=validation["y"][:800])

test = np.load(source / "fashion_test.npz")
(here / "shards").mkdir(exist_ok=True)
for device in range(DEVICES):
    part = slice(device * PER_DEVICE, (device + 1) * PER_DEVICE)
    np.savez_compressed(here / "shards" / f"{device + 1}.npz", x=test["x"][part], y=test["y"][part])
