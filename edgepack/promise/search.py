"""Search: the fastest form of a model that loses no more than was promised.

All of int8 first. Where that loses too much, layers are raised to float along one ranking, first one, then twice as
many each time until the budget is kept, then as few of them as still keep it. Raising is not monotonic (a float layer
between int8 ones costs and changes what its neighbours round), so only what was tried counts. The forms that keep the
budget are timed beside float, turn by turn, and the fastest is taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from edgepack.errors import MetricError, UnsupportedOperator
from edgepack.metrics.merit import Quality
from edgepack.quantization.sensitivity import Injection

# A form has to be this much faster than float to be preferred to it.
FASTER = 1.02
# With most of the arithmetic in float there is nothing left to gain.
_MOST_FLOAT = 0.7
# What a float layer costs beyond its arithmetic, as a share of the model's: two conversions.
_CONVERSION = 0.02


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One form that was tried: which layers stayed float, what it lost on the search part, and its latency.

    `drop` and `margin` (one standard error) are in points of the metric; `ms` is None where it was not timed.
    """

    precision: str
    keep_float: tuple[str, ...]
    drop: float
    margin: float
    agreement: float | None
    sqnr_db: float | None
    keeps: bool
    ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the search ended with. `reason` says why in words; `finished` is False where the time ran out."""

    chosen: Trial
    trials: tuple[Trial, ...]
    reason: str
    finished: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Forms(Protocol):
    """What the search can do with a form; promise/trials.py does it for real."""

    def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
        """The form's quality on the search part, in the target's own runtime.

        Raises:
            UnsupportedOperator: the model has no such form.
        """

    def time(self, forms: Sequence[tuple[str, frozenset[str]]]) -> list[float] | None:
        """Milliseconds of each form, measured turn by turn; None where this machine is not like the device."""

    def rank(self) -> list[Injection]:
        """The layers by what their rounding does alone, worst first."""


def search(
    forms: Forms,
    budget: float,
    *,
    shares: Mapping[str, float],
    fallback: bool,
    believed: bool = False,
    plain: str = "fp32",
    others: Sequence[str] = (),
    seconds: float = float("inf"),
    known: Sequence[Trial] = (),
    tried: Callable[[Trial], None] = lambda trial: None,
) -> Choice:
    """Find the fastest form that loses at most `budget` points.

    Args:
        shares: each layer's share of the model's multiply-accumulates.
        fallback: whether float may be the answer.
        believed: whether int8 counts as faster than float where that cannot be measured.
        plain: what float means: fp32, or fp16 where the device multiplies that.
        others: precisions that are tried too, such as dynamic.
        seconds: after which no new form is tried.
        known: trials of an interrupted search, which are not repeated.
        tried: called with each new trial, so that it can be kept.
    """
    run = _Search(
        forms, budget, shares, fallback, believed, plain, others, time.monotonic() + seconds, list(known), tried
    )
    return run.run()


class _Search:
    def __init__(
        self,
        forms: Forms,
        budget: float,
        shares: Mapping[str, float],
        fallback: bool,
        believed: bool,
        plain: str,
        others: Sequence[str],
        deadline: float,
        trials: list[Trial],
        tried: Callable[[Trial], None],
    ) -> None:
        self.forms, self.budget, self.shares, self.fallback = forms, budget, shares, fallback
        self.believed, self.plain, self.others, self.deadline = believed, plain, others, deadline
        self.trials, self.tried = trials, tried
        self.finished = True
        self.why_not = ""

    def run(self) -> Choice:
        whole = self.trial("int8", frozenset())
        slow = whole is None or (self.fallback and not self.faster(whole))
        if whole is not None and not slow and not whole.keeps:
            self.raise_layers()
        for precision in self.others if self.fallback else ():
            if not self.late():
                self.trial(precision, frozenset())
        keeping = [trial for trial in self.trials if trial.keeps and not (slow and trial.precision == "int8")]
        if keeping:
            return self.fastest(keeping)
        if self.fallback:
            why = self.why_not if slow else f"no int8 form that was tried keeps {self.budget:g} points"
            return self.end(self.float_form(), why)
        best = min(self.trials, key=lambda trial: trial.drop)
        return self.end(best, f"no form that was tried keeps {self.budget:g} points; this one loses least")

    def trial(self, precision: str, keep_float: frozenset[str]) -> Trial | None:
        """What became of a form; None where the model has no such form."""
        names = tuple(sorted(keep_float))
        for trial in self.trials:
            if trial.precision == precision and trial.keep_float == names:
                return trial
        try:
            quality = self.forms.judge(precision, keep_float)
        except UnsupportedOperator as error:
            if not self.fallback:
                raise
            if precision == "int8":
                self.why_not = error.message
            return None
        trial = judged(precision, names, quality, self.budget)
        self.trials.append(trial)
        self.tried(trial)
        return trial

    def keeps(self, keep_float: frozenset[str]) -> bool:
        trial = self.trial("int8", keep_float)
        return trial is not None and trial.keeps

    def float_form(self) -> Trial:
        return Trial(
            precision=self.plain, keep_float=(), drop=0.0, margin=0.0, agreement=100.0, sqnr_db=None, keeps=True
        )

    def faster(self, trial: Trial) -> bool:
        """Whether a form beats float."""
        measured = self.forms.time([("int8", frozenset(trial.keep_float)), (self.plain, frozenset())])
        if measured is None:
            self.why_not = "whether int8 is faster there cannot be measured here; --precision int8 builds it"
            return self.believed
        self.why_not = f"int8 is no faster here than float: {measured[0]:.3g} against {measured[1]:.3g} ms"
        return measured[0] * FASTER < measured[1]

    def raise_layers(self) -> None:
        """Twice as many layers in float each time until the budget is kept, then as few as still keep it."""
        steps = ladder(self.forms.rank(), self.shares)
        low, high = 0, 1
        while high <= len(steps):
            if self.late():
                return
            if self.keeps(steps[high - 1]):
                break
            low, high = high, min(2 * high, len(steps)) if high < len(steps) else high + 1
        else:
            return
        while high - low > 1 and not self.late():
            middle = (low + high) // 2
            if self.keeps(steps[middle - 1]):
                high = middle
            else:
                low = middle

    def late(self) -> bool:
        if time.monotonic() > self.deadline:
            self.finished = False
        return not self.finished

    def fastest(self, keeping: Sequence[Trial]) -> Choice:
        plain = [self.float_form()] if self.fallback else []
        contenders = [*keeping, *plain]
        measured = self.forms.time([(trial.precision, frozenset(trial.keep_float)) for trial in contenders])
        if measured is None:
            least = min(keeping, key=lambda trial: sum(self.shares.get(layer, 0.0) for layer in trial.keep_float))
            return self.end(least, f"of {len(keeping)} that keep {self.budget:g} points the one with least float")
        timed = [replace(trial, ms=ms) for trial, ms in zip(contenders, measured, strict=True)]
        for trial in timed:
            self.trials = [trial if _same(trial, old) else old for old in self.trials]
        best = min((trial for trial in timed if trial.precision != self.plain), key=lambda trial: trial.ms or 0.0)
        if plain and (best.ms or 0.0) * FASTER >= (timed[-1].ms or 0.0):
            return self.end(timed[-1], "no form that keeps the promise is faster here than float")
        which = f"the fastest of {len(keeping)} that keep {self.budget:g} points"
        return self.end(best, which + floats(best.keep_float))

    def end(self, chosen: Trial, reason: str) -> Choice:
        late = "" if self.finished else "; the time ran out before all was tried"
        return Choice(chosen=chosen, trials=tuple(self.trials), reason=reason + late, finished=self.finished)


def judged(precision: str, keep_float: tuple[str, ...], quality: Quality, budget: float) -> Trial:
    """A trial from its quality. One standard error is kept in hand, but at most half the budget."""
    drop, low, high = loss(quality)
    margin = 0.0 if low is None or high is None else (high - low) / 3.92
    return Trial(
        precision=precision,
        keep_float=keep_float,
        drop=drop,
        margin=margin,
        agreement=quality.agreement,
        sqnr_db=quality.sqnr_db,
        keeps=drop + min(margin, budget / 2) <= budget + 1e-9,
    )


def loss(quality: Quality) -> tuple[float, float | None, float | None]:
    """What is held against the budget, with its interval: the metric's drop, or answers that differ, in points.

    Raises:
        MetricError: there is neither.
    """
    if quality.drop is not None:
        return quality.drop, quality.drop_low, quality.drop_high
    if quality.agreement is None:
        raise unmeasurable()
    share = 1 - quality.agreement / 100
    error = 100 * math.sqrt(share * (1 - share) / max(quality.count, 1))
    return 100 * share, 100 * share - 1.96 * error, 100 * share + 1.96 * error


def unmeasurable() -> MetricError:
    return MetricError(
        "--max-drop has nothing to hold against: no metric, and the answers are no scores",
        "add labels to --eval and --metric (docs/metrics.md)",
    )


def ladder(ranking: Sequence[Injection], shares: Mapping[str, float]) -> list[frozenset[str]]:
    """Growing sets of layers to raise, never all: first those that take most noise away for what they cost."""

    def worth(injection: Injection) -> float:
        return float(10.0 ** (-injection.both_db / 10) / (shares.get(injection.layer, 0.0) + _CONVERSION))

    steps: list[frozenset[str]] = []
    raised: list[str] = []
    for injection in sorted(ranking, key=worth, reverse=True)[: len(ranking) - 1]:
        raised.append(injection.layer)
        if sum(shares.get(layer, 0.0) for layer in raised) > _MOST_FLOAT:
            break
        steps.append(frozenset(raised))
    return steps


def floats(layers: Collection[str]) -> str:
    return f", {len(layers)} layer{'s' if len(layers) > 1 else ''} in float" if layers else ""


def _same(one: Trial, other: Trial) -> bool:
    return one.precision == other.precision and one.keep_float == other.keep_float
