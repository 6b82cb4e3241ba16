"""The demo: a small residual network trained on Fashion-MNIST, with real images to calibrate and judge by.

README.md beside this file says how it was trained and under which licence the images are.
"""

from __future__ import annotations

from pathlib import Path

from edgepack.building.pipeline import build
from edgepack.building.result import Build
from edgepack.progress import Progress

HERE = Path(__file__).parent
MODEL = HERE / "fashion_resnet.onnx"
CALIBRATION = HERE / "calib.npz"
EVALUATION = HERE / "eval.npz"
LABELS = HERE / "labels.txt"
PREPROCESS = "color=gray,size=28x28,scale=255,mean=0.2860,std=0.3530"


def run(
    output: Path,
    *,
    target: str = "onnxruntime",
    seconds: float = 2.0,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Build:
    """Build the demo's bundle for this machine."""
    return build(
        MODEL,
        output,
        target=target,
        precision="int8",
        data=CALIBRATION,
        eval=EVALUATION,
        preprocess=PREPROCESS,
        labels=LABELS,
        force=force,
        seconds=seconds,
        progress=progress,
    )
