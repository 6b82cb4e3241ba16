"""`compare`: two results, figure by figure, with intervals and verdicts; `gate.py` beside it judges conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepack.errors import NotComparable
from edgepack.measuring.measurement import each
from edgepack.results import BUILD, BUNDLE, LAYERS, MEASURED, PROFILE, Result, read, understood
from edgepack.results.figures import METRICS, Figure, Metric, estimates, of_part, quality, still, typical

BETTER, WORSE, SAME, UNCLEAR = "better", "worse", "same", "unclear"
# What must be equal for times to mean the same; threads and batch also say which parts of sweeps belong together.
_SETTINGS = ("threads", "batch", "concurrency", "input_shapes")
_MACHINE = ("machine", "cpu", "cores", "board", "affinity", "emulated", "power_mode")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure before and after.

    `change` is after over before, or after less before where the metric counts in points; `low` and `high` are its
    95 % interval, None where nothing tells it. `exact` figures need none. `verdict` is better, worse, same or unclear,
    `words` the same in the metric's own words: faster, smaller, more.
    """

    metric: str
    title: str
    unit: str
    higher_is_better: bool
    before: float
    after: float
    after_low: float | None
    after_high: float | None
    change: float
    low: float | None
    high: float | None
    exact: bool
    verdict: str
    words: str

    @property
    def points(self) -> bool:
        return METRICS[self.metric].points


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What was compared at one setting: `differences` are what makes changes of timed figures meaningless."""

    threads: int | None
    batch: int | None
    interleaved: bool
    rows: tuple[Row, ...]
    differences: tuple[str, ...]
    invalid: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`before` is what `after` is held against."""

    before: str
    after: str
    equivalence: float
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"kind": "comparison", "format": 1, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """A model as it was timed at one setting."""

    part: Mapping[str, Any]
    measurement: Mapping[str, Any]

    @property
    def setting(self) -> tuple[int, int]:
        return self.measurement["settings"]["threads"], self.measurement["settings"]["batch"]

    def figures(self) -> dict[str, Figure]:
        return of_part(self.part, self.measurement["settings"]["batch"])


def compare(before: str | Path, after: str | Path | None = None, *, equivalence: float = 0.02) -> Comparison:
    """Two results, or the two sides of one measurement.

    Args:
        before: a measurement, a sweep or a build (JSON), or a bundle.
        after: another; if not given, `before` is a measurement of two models, which is held against its other one.
        equivalence: what counts as the same, 0.02 is 2 %.

    Raises:
        UnreadableResult, BrokenBundle: one of them cannot be read.
        NotComparable: they have no figure in common.
    """
    first = read(before)
    if after is None:
        with understood(first.path):
            return _of_one(first, equivalence)
    second = read(after)
    for result in (first, second):
        if result.kind in (LAYERS, PROFILE):
            raise NotComparable(
                f"{result.path} is a {'diagnosis' if result.kind == LAYERS else 'profile'}: it is not compared",
                "`edgepack report` shows it; compare takes measurements, builds and bundles",
            )
    with understood(f"{first.path} or {second.path}"):
        return _of_two(first, second, equivalence)


def _of_one(result: Result, equivalence: float) -> Comparison:
    """The other part of each measurement beside its model: these ran turn by turn."""
    measured = each(result.data) if result.kind in MEASURED else []
    pairs = []
    for one in measured:
        other = one.get("ratio", {}).get("to")
        if other is None:
            break
        sides = [_Timed(part=one["models"][part], measurement=one) for part in (other, "model")]
        pairs.append(_pair(sides[0], sides[1], one["ratio"], equivalence))
    if not pairs:
        raise NotComparable(
            f"{result.path} alone holds nothing to compare",
            "give two results, or a measurement of `edgepack bench BUNDLE --against OTHER --output FILE`",
        )
    models = measured[0]["models"]
    other = measured[0]["ratio"]["to"]
    return Comparison(
        before=_about(models[other]["bundle"], other),
        after=_about(models["model"]["bundle"], "model"),
        equivalence=equivalence,
        pairs=tuple(pairs),
        notes=tuple(_software(measured[0], measured[0], other)),
    )


def _of_two(before: Result, after: Result, equivalence: float) -> Comparison:
    notes: list[str] = []
    settled, why = _still_rows(before, after, equivalence)
    notes += why
    olds, news = ({side.setting: side for side in _timed(result)} for result in (before, after))
    # Single measurements belong together whatever their settings, which are then said to differ.
    if len(olds) == len(news) == 1:
        olds = dict(zip(news, olds.values(), strict=True))
    pairs = [_pair(olds[setting], news[setting], None, equivalence) for setting in news if setting in olds]
    lonely = [setting for setting in [*olds, *news] if (setting in olds) != (setting in news)]
    if lonely and pairs:
        words = ", ".join(f"{threads} threads and batch {batch}" for threads, batch in dict.fromkeys(lonely))
        notes.append(f"only one of them was measured with {words}")
    if pairs:
        notes += _software(next(iter(olds.values())).measurement, next(iter(news.values())).measurement)
        notes.append(
            "not interleaved: what changed on the machine between the two measurements is in the difference too; "
            "`edgepack bench A --against B` times both turn by turn"
        )
    elif BUNDLE in (before.kind, after.kind):
        notes.append("latency is not in a bundle: `edgepack bench A --against B` times both turn by turn")
    if settled:
        pairs = [
            *pairs,
            Pair(threads=None, batch=None, interleaved=False, rows=tuple(settled), differences=(), invalid=()),
        ]
    if not pairs:
        raise NotComparable(
            f"{before.path} and {after.path} have no figure in common", "compare what the same command wrote"
        )
    return Comparison(
        before=_title(before), after=_title(after), equivalence=equivalence, pairs=tuple(pairs), notes=tuple(notes)
    )


def _timed(result: Result) -> list[_Timed]:
    if result.kind in MEASURED:
        measured = each(result.data)
    else:
        measured = [result.data["latency"]] if result.kind == BUILD and result.data.get("latency") else []
    return [_Timed(part=one["models"]["model"], measurement=one) for one in measured]


def _pair(before: _Timed, after: _Timed, ratio: Mapping[str, Any] | None, equivalence: float) -> Pair:
    """`ratio` is that of a measurement in which both ran turn by turn."""
    olds, news = before.figures(), after.figures()
    rows = []
    for name in (name for name in METRICS if name in olds and name in news):
        change = _paired(olds[name], news[name]) if ratio is not None else _apart(olds[name], news[name])
        if ratio is not None and name == "median":
            change = 1 / ratio["median"], 1 / ratio["high"], 1 / ratio["low"]
            if ratio["processes"] < 2:
                change = change[0], None, None
        rows.append(_row(METRICS[name], olds[name], news[name], change, equivalence, exact=False))
    invalid = {
        f"{doubt['words']}": None
        for side in (before, after)
        for doubt in side.measurement["doubts"]
        if doubt["severity"] == "invalid"
    }
    threads, batch = after.setting
    return Pair(
        threads=threads,
        batch=batch,
        interleaved=ratio is not None,
        rows=tuple(rows),
        differences=tuple(_differences(before.measurement, after.measurement)) if ratio is None else (),
        invalid=tuple(invalid),
    )


Change = tuple[float, float | None, float | None]


def _paired(before: Figure, after: Figure) -> Change:
    """After over before, pair of processes by pair of processes, which ran turn by turn."""
    pairs = [new / old for old, new in zip(before.processes, after.processes, strict=True)]
    found = typical(pairs)
    return found.value, found.low, found.high


def _apart(before: Figure, after: Figure) -> Change:
    """After over before of two separate measurements.

    The interval is made of both intervals on a log scale: each end lies as far from the difference as the root of the
    squared distances of the ends that push it there (Zou and Donner, Construction of confidence limits about effect
    measures, Statistics in Medicine 27, 2008). Of the two it assumes only that they are independent.
    """
    value = after.value / before.value
    if None in (before.low, before.high, after.low, after.high):
        return value, None, None
    logs = [tuple(math.log(end) for end in (side.value, side.low, side.high) if end) for side in (before, after)]
    low, high = _difference(*logs)
    return value, math.exp(low), math.exp(high)


def _difference(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, float]:
    """The interval of after less before, from (middle, low, high) of both."""
    middle = after[0] - before[0]
    low = middle - math.hypot(after[0] - after[1], before[2] - before[0])
    high = middle + math.hypot(after[2] - after[0], before[0] - before[1])
    return low, high


def _row(metric: Metric, before: Figure, after: Figure, change: Change, equivalence: float, *, exact: bool) -> Row:
    verdict = _verdict(metric, change, equivalence, exact=exact)
    return Row(
        metric=metric.name,
        title=metric.title,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        before=before.value,
        after=after.value,
        after_low=after.low,
        after_high=after.high,
        change=change[0],
        low=change[1],
        high=change[2],
        exact=exact,
        verdict=verdict,
        words={BETTER: metric.better, WORSE: metric.worse}.get(verdict, verdict),
    )


def _verdict(metric: Metric, change: Change, equivalence: float, *, exact: bool) -> str:
    value, low, high = (change[0], change[0], change[0]) if exact else change
    if low is None or high is None:
        return UNCLEAR
    if metric.points:
        if low <= 0 <= high:
            return SAME if low == high else UNCLEAR
        return BETTER if (low > 0) == metric.higher_is_better else WORSE
    # As for speed: how many times as much.
    word = estimates().verdict(value, low, high, equivalence)
    if word in (SAME, UNCLEAR):
        return word
    return BETTER if (word == "faster") == metric.higher_is_better else WORSE


def _still_rows(before: Result, after: Result, equivalence: float) -> tuple[list[Row], list[str]]:
    """Sizes and quality, and why the quality is not compared where it cannot be."""
    olds, news = still(before), still(after)
    judged = [quality(result) for result in (before, after)]
    rows, notes = [], []
    for name in (name for name in METRICS if name in olds and name in news):
        metric, exact = METRICS[name], not METRICS[name].points
        change: Change = (news[name].value / olds[name].value if olds[name].value else math.inf, None, None)
        if metric.points:
            assert judged[0] is not None and judged[1] is not None
            why = _other_samples(judged[0], judged[1], name)
            if why:
                notes.append(why)
                continue
            metric = _named(metric, judged[1]) if name == "accuracy" else metric
            change = (news[name].value - olds[name].value, *_limits(judged[0], judged[1], name))
        rows.append(_row(metric, olds[name], news[name], change, equivalence, exact=exact))
    return rows, list(dict.fromkeys(notes))


def _other_samples(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str:
    if before["count"] != after["count"]:
        return (
            f"answers are not compared: one was judged on {before['count']:,} samples, the other on {after['count']:,}"
        )
    if name == "accuracy" and before["metric"] != after["metric"]:
        return f"accuracy is not compared: one was judged by {before['metric']}, the other by {after['metric']}"
    return ""


def _named(metric: Metric, judged: Mapping[str, Any]) -> Metric:
    """Accuracy as what it is: top1, or an error rate, which is better when it is lower."""
    return Metric(
        name=metric.name, title=judged["metric"], unit=metric.unit, higher_is_better=judged["higher_is_better"],
        better=metric.better, worse=metric.worse, points=True, timed=False,
    )  # fmt: skip


def _limits(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> tuple[float | None, float | None]:
    """The interval of a change of accuracy, from what each lost to the same original on the same samples.

    The two losses are taken as independent. Both are of the same samples, so they are not, and the interval is wider
    than it need be.
    """
    ends = [one.get(key) for one in (before, after) for key in ("drop", "drop_low", "drop_high")]
    if name != "accuracy" or None in ends or before["original"] != after["original"]:
        return None, None
    lost = [tuple(float(one[key]) for key in ("drop", "drop_low", "drop_high")) for one in (before, after)]
    low, high = _difference(lost[0], lost[1])
    return (-high, -low) if after["higher_is_better"] else (low, high)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for key in _SETTINGS:
        values = [one["settings"][key] for one in (before, after)]
        if values[0] != values[1]:
            found.append(f"{key.replace('_', ' ')} {values[0]} and {values[1]}")
    for key in _MACHINE:
        values = [one["environment"].get(key) for one in (before, after)]
        if values[0] != values[1]:
            found.append(f"{key.replace('_', ' ')} {values[0]} and {values[1]}")
    return found


def _software(before: Mapping[str, Any], after: Mapping[str, Any], part: str = "model") -> list[str]:
    """What else differs, and may be meant to: versions, governors."""
    found = []
    old, new = before["models"][part]["versions"], after["models"]["model"]["versions"]
    found += [f"{name} {old[name]} and {new[name]}" for name in old if name in new and old[name] != new[name]]
    governors = [sorted(set(one["environment"]["after"]["governors"].values())) for one in (before, after)]
    if governors[0] != governors[1]:
        found.append(f"governor {', '.join(governors[0]) or 'unknown'} and {', '.join(governors[1]) or 'unknown'}")
    for key in ("system", "python"):
        if before["environment"].get(key) != after["environment"].get(key):
            found.append(f"{key} {before['environment'].get(key)} and {after['environment'].get(key)}")
    return [f"not the same: {words}" for words in found]


def _title(result: Result) -> str:
    if result.kind in (BUILD, BUNDLE):
        about = result.data if result.kind == BUILD else result.data["manifest"]
    else:
        about = each(result.data)[0]["bundle"]
    return f"{Path(result.path).name}: {_about(about, 'model')}"


def _about(about: Mapping[str, Any], part: str) -> str:
    precision = "float original" if part == "baseline" else about["precision"]
    return f"{about['name']} {about['version']}, {about['target']}, {precision}"
