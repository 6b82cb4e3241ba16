"""What the scripts of the peers share: requests, feeds, answers. Needs numpy only."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def request() -> dict[str, Any]:
    return json.loads(Path(sys.argv[1]).read_text())


def feeds(path: str) -> list[dict[str, np.ndarray]]:
    """The rows of an .npz as feeds; rows carry the batch axis."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files if key != "y"}
    count = len(next(iter(arrays.values())))
    return [{key: array[index] for key, array in arrays.items()} for index in range(count)]


def answer(asked: dict[str, Any], start: float, file: str | Path, **more: Any) -> None:
    """Write the answer: the file, seconds since `start`, and the peak of memory of this process in MB."""
    facts = {"file": str(file), "seconds": time.perf_counter() - start, "peak_mb": peak_mb(), **more}
    Path(asked["answer"]).write_text(json.dumps(facts, default=str))


def skip(asked: dict[str, Any], reason: str) -> None:
    Path(asked["answer"]).write_text(json.dumps({"skipped": reason}))


def peak_mb() -> float:
    """Peak resident memory of this process or of its largest child, in MB.

    ru_maxrss of a fresh process still remembers the parent it was forked from, VmHWM does not.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    try:
        status = Path("/proc/self/status").read_text()
        own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return max(own, children)
