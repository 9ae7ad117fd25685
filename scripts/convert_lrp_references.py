"""Turns iNNvestigate's stored references of single layers into one small npz that tests read; computes nothing itself.

Usage: git clone https://github.com/albermax/innvestigate && python scripts/convert_lrp_references.py innvestigate
It needs h5py. Of the eight inputs of each file two are kept, which is what makes it small.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

TARGET = Path(__file__).parent.parent / "tests" / "methods" / "references"
ROWS = 2
WEIGHTED = ("Dense", "Conv2D")
POOLING = ("AveragePooling2D", "MaxPooling2D")
FILES = {
    "LRPZ": (*WEIGHTED, *POOLING),
    "LRPZIgnoreBias": WEIGHTED,
    "LRPEpsilon": (*WEIGHTED, *POOLING),
    "LRPEpsilonIgnoreBias": WEIGHTED,
    "LRPZPlus": WEIGHTED,
    "LRPAlpha1Beta0": WEIGHTED,
    "LRPAlpha1Beta0IgnoreBias": WEIGHTED,
    "LRPAlpha2Beta1": WEIGHTED,
    "LRPAlpha2Beta1IgnoreBias": WEIGHTED,
    "LRPFlat": WEIGHTED,
    "LRPWSquare": WEIGHTED,
    "LRPZ_boxed_input_layer_rule": WEIGHTED,
    "LRPZ_Flat_input_layer_rule": WEIGHTED,
    "DeepTaylor": (*WEIGHTED, "Conv2D_relu"),
    "BoundedDeepTaylor": WEIGHTED,
}


def main(checkout: Path) -> None:
    """Write the npz and copy the licence beside it."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    for name, layers in FILES.items():
        with h5py.File(checkout / "tests" / "references" / "layer" / f"{name}.hdf5") as stored:
            arrays[f"{name}/input"] = np.asarray(stored["input"])[:ROWS]
            for layer in layers:
                for weight in stored[layer]["weights"].values():
                    kind = "bias" if weight.ndim == 1 else "weight"
                    arrays[f"{name}/{layer}/{kind}"] = np.asarray(weight)
                arrays[f"{name}/{layer}/attribution"] = np.asarray(stored[layer]["attribution"])[:ROWS]
    TARGET.mkdir(exist_ok=True)
    np.savez_compressed(TARGET / "innvestigate_layers.npz", **arrays)
    shutil.copyfile(checkout / "LICENSE", TARGET / "innvestigate_LICENSE")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
