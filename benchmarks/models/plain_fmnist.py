"""A plain residual convolutional net on Fashion-MNIST: the network of `edgepack demo`."""

from pathlib import Path

import numpy as np
from sources import fashion, normalised, write

DEMO = Path(__file__).resolve().parents[2] / "edgepack" / "demo"

with np.load(DEMO / "calib.npz") as archive:
    calibration = normalised(archive["image"])[:, None]
images, labels = fashion("t10k")
write(
    "plain_fmnist",
    (DEMO / "fashion_resnet.onnx").read_bytes(),
    {"image": calibration},
    {"image": normalised(images)[:, None], "y": labels},
    metric="top1",
    family="plain convolutions",
    source="edgepack/demo; Fashion-MNIST's test images (Debian's dataset-fashion-mnist)",
)
