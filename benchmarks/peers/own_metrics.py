"""What `edgepack build --max-drop` optimizes where the metric is none of its own: `--metric own_metrics:r2`."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from comparison import metrics

Feed = dict[str, np.ndarray]


def _own(name: str) -> Callable[[list[Feed], list[Any]], float]:
    """The benchmark's metric as edgepack calls a user's: outputs and labels of all samples in, points out.

    A bootstrap calls it again and again with the same outputs, so their records are kept as long as they are.
    """
    metric = metrics.METRICS[name]
    known: dict[int, np.ndarray] = {}

    def record(outputs: Feed, truth: Any) -> np.ndarray:
        arrays = list(outputs.values())
        key = id(arrays[0])
        if key not in known:
            known[key] = metric.record(arrays, truth)
            weakref.finalize(arrays[0], known.pop, key, None)
        return known[key]

    def function(outputs: list[Feed], labels: list[Any]) -> float:
        rows = np.stack([record(*pair) for pair in zip(outputs, labels, strict=True)])
        return metric.value(rows, np.ones(len(rows)))

    function.lower_is_better = not metric.higher_is_better  # type: ignore[attr-defined]
    return function


r2, map50 = _own("r2"), _own("map50")
