"""--metric module:function: a figure of the user's own, in Python."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgepack.data.samples import Boxes, Feed
from edgepack.errors import MetricError
from edgepack.metrics.base import Answer, Metric, Scorer, Truth

Function = Callable[[list[Feed], list[Any]], float]
# Each resample is a call of the function.
RESAMPLES = 100
Record = tuple[Feed, Any]


def own(name: str) -> Metric[Record]:
    """The metric `module:function`, the module looked for in the current directory first.

    `function(outputs: list[dict[str, np.ndarray]], labels: list) -> float` gets the outputs of each sample by name,
    batch axis included, and the labels of the same samples: entries of `y`, class numbers, or for --annotations
    dicts of `boxes` (x0, y0, x1, y1 in pixels of the model's input), `classes`, `ids` and `crowd`; None without
    labels. It returns percent; higher is better unless the function has an attribute `lower_is_better = True`.

    Raises:
        MetricError: there is no such function.
    """
    function = _load(name)

    def record(answer: Answer, truth: Truth) -> Record:
        return answer.outputs, _plain(truth)

    def scorer(records: Sequence[Record]) -> Scorer:
        return lambda weights: np.array([_resampled(function, name, records, row) for row in weights])

    return Metric(
        name=name,
        higher_is_better=not getattr(function, "lower_is_better", False),
        truth="any",
        record=record,
        scorer=scorer,
        resamples=RESAMPLES,
        keeps_outputs=True,
    )


def _load(name: str) -> Function:
    module, _, attribute = name.partition(":")
    here, writes = str(Path.cwd()), sys.dont_write_bytecode
    sys.path.insert(0, here)
    sys.dont_write_bytecode = True  # no __pycache__ in the user's folder
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise MetricError(f"--metric {name}: {_words(error)}", f"mend {module}.py") from error
        raise MetricError(
            f"--metric {name}: there is no module {module} here", f"put {module}.py into {here}, or install it"
        ) from error
    except AttributeError as error:
        raise MetricError(f"--metric {name}: {_words(error)}", f"define {attribute} in {module}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise MetricError(f"--metric {name}: importing it fails: {_words(error)}", f"mend {module}") from error
    finally:
        sys.path.remove(here)
        sys.dont_write_bytecode = writes
    if not callable(function):
        raise MetricError(f"--metric {name} is no function", "it should take outputs and labels, and return percent")
    return function  # type: ignore[no-any-return]


def _resampled(function: Function, name: str, records: Sequence[Record], weights: np.ndarray) -> float:
    """The figure where each record counts as often as its weight says; NaN where a resample cannot be judged."""
    whole = bool(np.all(weights == 1))
    chosen: list[int] = np.repeat(np.arange(len(records)), weights.astype(np.int64)).tolist()
    try:
        figure = function([records[place][0] for place in chosen], [records[place][1] for place in chosen])
        number = float(figure)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if not whole:  # such as one that lacks a class altogether
            return math.nan
        raise MetricError(
            f"--metric {name} fails: {_words(error)}",
            "it is called as function(outputs, labels) and should return a number; docs/metrics.md",
        ) from error
    if whole and not math.isfinite(number):
        raise MetricError(f"--metric {name} returned {number}", "it should return percent, a finite number")
    return number


def _plain(truth: Truth) -> Any:
    if isinstance(truth, Boxes):
        return {"boxes": truth.boxes, "classes": truth.classes, "ids": truth.ids, "crowd": truth.crowd}
    return truth


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
