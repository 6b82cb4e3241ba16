"""`compare --fail-if`: conditions such as `p90>+3%`, held against a comparison."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgepack.errors import DoubtfulMeasurement, NotComparable, UsageError
from edgepack.results.comparison import Comparison, Pair, Row
from edgepack.results.figures import ALIASES, METRICS

_CONDITION = re.compile(
    r"\s*([a-z]\w*)\s*([<>])\s*([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z%/µ]*)\s*", re.ASCII | re.I
)
# Units by what they are multiples of.
_UNITS = {
    "ms": {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3},
    "MB": {"": 1.0, "mb": 1.0, "kb": 1e-3, "b": 1e-6, "gb": 1e3},
    "mJ": {"": 1.0, "mj": 1.0, "j": 1e3},
    "/s": {"": 1.0, "/s": 1.0},
    "%": {"": 1.0, "points": 1.0, "point": 1.0},
    "dB": {"": 1.0, "db": 1.0},
}
VALUE, CHANGE, PERCENT = "value", "change", "percent"
_EXAMPLES = (
    "write it as 'p90>+3%' (a change), 'size>+100kB' (likewise), 'p90>20ms' (the figure) or 'accuracy<-0.5' (points)"
)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """`kind`: the new figure itself (`value`), its change in the metric's unit, or its change in percent."""

    text: str
    metric: str
    above: bool
    threshold: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a condition came to at one setting."""

    condition: str
    failed: bool
    words: str


def conditions(texts: Sequence[str]) -> list[Condition]:
    """
    Raises:
        UsageError: one of them cannot be read.
    """
    return [_condition(text) for text in texts]


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise UsageError(f"--fail-if '{text}' is not understood", _EXAMPLES)
    word, sign, number, unit = found[1].lower(), found[3], found[4], found[5].lower().replace("µ", "u")
    metric = METRICS.get(ALIASES.get(word, word))
    if metric is None:
        raise UsageError(f"--fail-if '{text}': no figure is called {word}", f"there are p50, {', '.join(METRICS)}")
    value = float(f"{sign}{number}")
    kind, scale = CHANGE if sign else VALUE, 1.0
    if unit == "%" and (sign or metric.unit != "%"):
        if metric.points or not sign:
            what = f"changes of it count in points: '{word}<-0.5'" if metric.points else f"write '{word}>+{number}%'"
            raise UsageError(f"--fail-if '{text}': percent of what is not clear", what)
        kind = PERCENT
    elif unit != "%":
        units = _UNITS[metric.unit]
        if unit not in units:
            raise UsageError(f"--fail-if '{text}': {word} is not counted in {found[5]}", f"it is in {metric.unit}")
        scale = units[unit]
    return Condition(text=text.strip(), metric=metric.name, above=found[2] == ">", threshold=value * scale, kind=kind)


def judge(comparison: Comparison, asked: Sequence[Condition], *, significant: bool = False) -> list[Judged]:
    """Hold each condition against each setting that was compared.

    Args:
        significant: fail only where the whole 95 % interval is beyond the threshold, not the figure alone.

    Raises:
        NotComparable: a figure is missing, has no interval where one is asked for, or was not taken under the same
            circumstances.
        DoubtfulMeasurement: a time is asked for, and a measurement is not valid.
    """
    return [judged for condition in asked for judged in _everywhere(comparison, condition, significant)]


def _everywhere(comparison: Comparison, condition: Condition, significant: bool) -> list[Judged]:
    found = [(pair, row) for pair in comparison.pairs for row in pair.rows if row.metric == condition.metric]
    if not found:
        why = next(
            (note for note in comparison.notes if "not compared" in note and METRICS[condition.metric].points), ""
        )
        raise NotComparable(
            f"--fail-if '{condition.text}' cannot be judged: {why or f'{condition.metric} is not in both results'}",
            "times are in what `bench` and `build --json` write, sizes and accuracy in bundles and builds",
        )
    several = len({(pair.threads, pair.batch) for pair, _ in found}) > 1
    return [_judged(pair, row, condition, significant, named=several) for pair, row in found]


def _judged(pair: Pair, row: Row, condition: Condition, significant: bool, *, named: bool) -> Judged:
    if METRICS[row.metric].timed:
        _refuse_meaningless(pair, condition)
    value, low, high = _figure(row, condition.kind)
    if significant and (low is None or high is None):
        raise NotComparable(
            f"--fail-if '{condition.text}' cannot be judged by its interval: {row.metric} has none",
            "measure with more --processes, or leave out --significant",
        )
    tested = value if not significant else low if condition.above else high
    assert tested is not None
    failed = tested > condition.threshold if condition.above else tested < condition.threshold
    where = f"{pair.threads} threads, batch {pair.batch}: " if named else ""
    return Judged(
        condition=condition.text,
        failed=failed,
        words=f"{where}{row.title} {_words(row, condition.kind, value, low, high)}",
    )


def _refuse_meaningless(pair: Pair, condition: Condition) -> None:
    if pair.invalid:
        raise DoubtfulMeasurement(
            f"--fail-if '{condition.text}' cannot be judged: not valid: {'; '.join(pair.invalid)}", "measure again"
        )
    if pair.differences and condition.kind != VALUE:
        raise NotComparable(
            f"--fail-if '{condition.text}' cannot be judged: not the same {'; '.join(pair.differences)}",
            "measure both on the same machine with the same settings",
        )


Limits = tuple[float, float | None, float | None]


def _figure(row: Row, kind: str) -> Limits:
    """What a condition is held against: in percent, in the metric's unit, or in points where better is positive."""
    exact = row.exact
    if kind == VALUE:
        return row.after, row.after if exact else row.after_low, row.after if exact else row.after_high
    low, high = (row.change, row.change) if exact else (row.low, row.high)
    ends = (row.change, low, high)
    if row.points:
        if row.higher_is_better:
            return ends
        return -row.change, None if high is None else -high, None if low is None else -low
    scale = 100.0 if kind == PERCENT else row.before
    found = [None if end is None else scale * (end - 1) for end in ends]
    assert found[0] is not None
    return found[0], found[1], found[2]


def _words(row: Row, kind: str, value: float, low: float | None, high: float | None) -> str:
    signed = "" if kind == VALUE else "+"
    unit = " %" if kind == PERCENT else " points" if kind == CHANGE and row.points else f" {row.unit}"
    digits = ".2f" if kind == PERCENT or row.points else ".4g"
    limits = "" if low is None or high is None or row.exact else f" ({low:{signed}{digits}} to {high:{signed}{digits}})"
    better = " better" if kind == CHANGE and row.points and not row.higher_is_better else ""
    return f"{value:{signed}{digits}}{unit}{better}{limits}"


def to_json(judged: Sequence[Judged], *, significant: bool) -> dict[str, Any]:
    """Whether all conditions passed, and each with its words."""
    return {
        "passed": not any(one.failed for one in judged),
        "significant": significant,
        "conditions": [asdict(one) for one in judged],
    }
