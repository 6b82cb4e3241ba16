"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models

Run = Callable[..., "subprocess.CompletedProcess[str]"]

# A shell starts what it runs in the background with Ctrl-C ignored, and the processes that tests interrupt inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cli() -> Run:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "edgepack", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]

    return run


@pytest.fixture(scope="session")
def convnet_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, calib.npz (64 samples) and eval.npz (64 others, labelled by the model itself)."""
    import onnxruntime

    folder = tmp_path_factory.mktemp("convnet")
    proto = models.convnet()
    onnx.save(proto, folder / "model.onnx")
    np.savez(folder / "calib.npz", x=models.images(64, seed=1))
    evaluation = models.images(64, seed=2)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = session.run(None, {"x": evaluation})[0].argmax(1)
    np.savez(folder / "eval.npz", x=evaluation, y=labels)
    return folder
