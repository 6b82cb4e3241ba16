"""Write calib.npz and eval.npz, the pieces of Fashion-MNIST that go with the demo model.

    python make_data.py --data /usr/share/datasets/fashion-mnist --out .

calib.npz: image uint8 [256,28,28], as many of each class as can be (25 or 26), drawn with a fixed
seed from the 2,000 training images that train.py holds out, so the network never saw them.
eval.npz: image uint8 [2000,28,28] and y int64 [2000], the first 2,000 of the official test set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from train import HELD_OUT, load

CALIBRATION = 256
EVALUATION = 2000


def balanced(labels: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Return `count` indices in random order, with class counts that differ by one at most."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(labels))  # the first ones get one more, if need be
    share, more = divmod(count, len(classes))
    chosen = [
        rng.choice(np.flatnonzero(labels == c), share + (rank < more), replace=False) for rank, c in enumerate(classes)
    ]
    return rng.permutation(np.concatenate(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder of the idx gz files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to")
    args = parser.parse_args()

    images, labels = load(args.data, "train")
    images, labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    index = balanced(labels, CALIBRATION)
    np.savez_compressed(args.out / "calib.npz", image=images[index])
    print("calibration images per class:", np.bincount(labels[index]).tolist())

    images, labels = load(args.data, "t10k")
    images, labels = images[:EVALUATION], labels[:EVALUATION]
    np.savez_compressed(args.out / "eval.npz", image=images, y=labels)
    print("evaluation images per class: ", np.bincount(labels).tolist())


if __name__ == "__main__":
    main()
