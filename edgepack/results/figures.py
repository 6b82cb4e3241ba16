"""Figures of results that can be compared: what each is called, its value, and what its processes said."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol, cast

from edgepack import _root
from edgepack.results import BUILD, BUNDLE, Result

Interval = tuple[float, float, float]


class Estimates(Protocol):
    """targets/device/edgepack_device/estimates.py, which the device shares."""

    def interval(self, values: Sequence[float]) -> Interval: ...

    def verdict(self, middle: float, low: float, high: float, equivalence: float) -> str: ...


@lru_cache
def estimates() -> Estimates:
    path = _root.TARGETS / "device" / "edgepack_device" / "estimates.py"
    return cast(Estimates, _root.load("edgepack.targets.estimates", path))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is compared: its title, unit and direction.

    `better` and `worse` are the words of a verdict. Where `points` is true a change is a difference, else a ratio.
    Where `timed` is true the figure depends on the machine and on the settings.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool = False
    better: str = "faster"
    worse: str = "slower"
    points: bool = False
    timed: bool = True


_ALL = (
    Metric(name="median", title="median latency", unit="ms"),
    Metric(name="p90", title="p90", unit="ms"),
    Metric(name="p95", title="p95", unit="ms"),
    Metric(name="p99", title="p99", unit="ms"),
    Metric(name="mean", title="mean latency", unit="ms"),
    Metric(name="throughput", title="throughput", unit="/s", higher_is_better=True),
    Metric(name="load", title="load time", unit="ms"),
    Metric(name="first", title="first inference", unit="ms"),
    Metric(name="memory", title="peak memory", unit="MB", better="less", worse="more"),
    Metric(name="energy", title="energy an inference", unit="mJ", better="less", worse="more"),
    Metric(name="size", title="model size", unit="MB", better="smaller", worse="larger", timed=False),
    Metric(name="archive", title="archive size", unit="MB", better="smaller", worse="larger", timed=False),
    Metric(
        name="accuracy", title="accuracy", unit="%", higher_is_better=True, better="better", worse="worse",
        points=True, timed=False,
    ),
    Metric(
        name="agreement", title="same answer as the original", unit="%", higher_is_better=True, better="better",
        worse="worse", points=True, timed=False,
    ),
    Metric(
        name="sqnr", title="SQNR to the original", unit="dB", higher_is_better=True, better="better", worse="worse",
        points=True, timed=False,
    ),
)  # fmt: skip
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
# Other names for the same figure.
ALIASES = {"p50": "median", "latency": "median", "p50_ms": "median"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value, with its 95 % interval where there are several processes, and each process's own."""

    value: float
    low: float | None = None
    high: float | None = None
    processes: tuple[float, ...] = ()


def of_part(part: Mapping[str, Any], batch: int) -> dict[str, Figure]:
    """The figures of a measured model, by metric: of its typical process, since the process is the unit.

    Args:
        part: `models.PART` of a measurement.
        batch: samples a run.
    """
    found = {}
    for name, of_process in _PROCESS.items():
        values = [of_process(facts, batch) for facts in part["processes"]]
        if values and all(value is not None and value > 0 and math.isfinite(value) for value in values):
            found[name] = typical([float(cast(float, value)) for value in values])
    return found


def typical(values: Sequence[float]) -> Figure:
    """The middle of positive figures, one a process, and its interval, both on a log scale."""
    middle, low, high = (math.exp(value) for value in estimates().interval([math.log(value) for value in values]))
    several = len(values) > 1
    return Figure(
        value=middle, low=low if several else None, high=high if several else None, processes=tuple(values)
    )  # fmt: skip


def _runs(facts: Mapping[str, Any]) -> list[float]:
    return list(chain.from_iterable(facts["rounds_ms"]))


def _percentile(percent: float) -> Callable[[Mapping[str, Any], int], float]:
    def of_process(facts: Mapping[str, Any], batch: int) -> float:
        import numpy as np

        return float(np.percentile(_runs(facts), percent))

    return of_process


def _mean(facts: Mapping[str, Any], batch: int) -> float:
    runs = _runs(facts)
    return sum(runs) / len(runs)


def _throughput(facts: Mapping[str, Any], batch: int) -> float:
    return batch * len(_runs(facts)) / float(sum(facts["rounds_s"]))


def _energy(facts: Mapping[str, Any], batch: int) -> float | None:
    if not facts.get("rounds_j"):
        return None
    return 1000 * float(sum(facts["rounds_j"])) / len(_runs(facts)) / batch


_PROCESS: Mapping[str, Callable[[Mapping[str, Any], int], float | None]] = {
    "median": _percentile(50),
    "p90": _percentile(90),
    "p95": _percentile(95),
    "p99": _percentile(99),
    "mean": _mean,
    "throughput": _throughput,
    "load": lambda facts, batch: facts.get("load_ms"),
    "first": lambda facts, batch: facts.get("first_inference_ms"),
    "memory": lambda facts, batch: facts.get("peak_memory_mb"),
    "energy": _energy,
}


def still(result: Result) -> dict[str, Figure]:
    """What does not depend on where it runs: the sizes and the quality of a build or a bundle, by metric."""
    bytes_ = {"size": _size(result), "archive": _archive(result)}
    found = {name: Figure(value=count / 1e6) for name, count in bytes_.items() if count is not None}
    judged = quality(result)
    if judged is None:
        return found
    for name, key in (("accuracy", "built"), ("agreement", "agreement"), ("sqnr", "sqnr_db")):
        if judged.get(key) is not None:
            found[name] = Figure(value=float(judged[key]))
    return found


def quality(result: Result) -> Mapping[str, Any] | None:
    """How a build or a bundle was judged."""
    if result.kind == BUILD:
        return cast("Mapping[str, Any] | None", result.data["quality"])
    if result.kind == BUNDLE:
        return cast("Mapping[str, Any] | None", result.data["manifest"].get("measured", {}).get("quality"))
    return None


def _size(result: Result) -> int | None:
    if result.kind == BUILD:
        return int(result.data["sizes"]["model"])
    return int(result.data["model_bytes"]) if result.kind == BUNDLE else None


def _archive(result: Result) -> int | None:
    if result.kind == BUILD:
        return int(result.data["sizes"]["archive"])
    return result.data["archive_bytes"] if result.kind == BUNDLE else None
