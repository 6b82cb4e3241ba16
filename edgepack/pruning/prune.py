"""Prune a model to a budget and repair it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from edgepack.data.samples import Feed, Samples
from edgepack.device import CHANNELS
from edgepack.errors import PruningError, UsageError
from edgepack.model import Model
from edgepack.progress import Progress
from edgepack.pruning.budget import Budget
from edgepack.pruning.distance import distance
from edgepack.pruning.groups import Dependencies, dependencies
from edgepack.pruning.importance import NAMES, Level
from edgepack.pruning.observed import observed_shapes
from edgepack.pruning.repair import Repaired, repair, with_ridges
from edgepack.pruning.spread import spread
from edgepack.pruning.surgery import Cut, untangled
from edgepack.pruning.survey import MOST, Survey, small, survey
from edgepack.reference import answers_to

# A model's latency as a share of the original's.
Ratio = Callable[[Model], float]
_LATENCY_TRIES = 6
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@dataclass(frozen=True, kw_only=True)
class PrunedGroup:
    """`layer` is the first layer (by output) that makes these channels; `error` what the output loses by this group
    alone, before repair (pruning/distance.py)."""

    layer: str
    before: int
    after: int
    error: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was pruned. Errors are pruning/distance.py's, on samples that statistics have not seen.

    `left_alone` says by layer why its output channels stay.
    """

    budget: str
    importance: str
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    groups: tuple[PrunedGroup, ...]
    left_alone: dict[str, str] = field(default_factory=dict)
    error_unrepaired: float
    error: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "groups": [asdict(group) for group in self.groups]}

    def __str__(self) -> str:
        narrowed = sum(group.after < group.before for group in self.groups)
        return (
            f"pruned to {self.macs_after / self.macs_before:.0%} of the MACs, "
            f"{self.parameters_after / self.parameters_before:.0%} of the parameters: "
            f"{narrowed} of {len(self.groups)} groups of channels narrowed by {self.importance}, "
            f"refitted on {self.samples} samples; error of the output {self.error:.2g}, "
            f"{self.error_unrepaired:.2g} without repair"
        )


@dataclass(frozen=True, kw_only=True)
class Pruned:
    model: Model
    report: Report


def find(model: Model, feed: Feed) -> tuple[Model, Dependencies]:
    """The model with constants of each layer's own, and its groups.

    Raises:
        PruningError: there are none; it says why.
    """
    whole = untangled(model)
    found = dependencies(whole, observed_shapes(whole, feed))
    if not found.groups:
        why = [f"{layer}: {reason}" for layer, reason in list(found.left_alone.items())[:3]]
        recurrent = sorted({node.op_type for node in whole.ir.graph} & _RECURRENT)
        why += [f"{' and '.join(recurrent)}: recurrent layers stay whole"] if recurrent else []
        inside = "its layers lie inside control flow" if model.has_control_flow else "it has no layers with weights"
        raise PruningError(f"nothing in the model can be pruned: {'; '.join(why) or inside}", "leave --prune out")
    return whole, found


def prune(
    model: Model,
    samples: Samples,
    budget: Budget,
    *,
    importance: str = "second-order",
    channels: tuple[int, int] = CHANNELS,
    ratio: Ratio | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Pruned:
    """The model with fewer channels, refitted.

    Args:
        model: float, cleaned up (edgepack/building/cleaning.py).
        samples: unlabelled ones, to fit to.
        importance: one of importance.NAMES.
        channels: what layers keep a multiple of, narrow and wide ones (Device.channels).
        ratio: times a model beside the original; only a budget of latency needs it.

    Raises:
        PruningError: nothing can be pruned, or not that far.
        UsageError: there is no such importance.
    """
    if importance not in NAMES:
        raise UsageError(f"no importance {importance!r}", f"one of {', '.join(NAMES)}")
    whole, found = find(model, samples.read(0))
    known = survey(
        whole, found, samples, importance, lambda done, total: progress("measuring groups of channels", done, total),
        channels=channels,
    )  # fmt: skip
    return pruned_to(known, budget, importance=importance, ratio=ratio, progress=progress)


def pruned_to(
    known: Survey,
    budget: Budget,
    *,
    importance: str = "second-order",
    ratio: Ratio | None = None,
    repaired: bool = True,
    progress: Progress = lambda what, done, total: None,
) -> Pruned:
    """A surveyed model at a budget.

    Args:
        repaired: False leaves the weights that remain as they were.
    """
    counts = _counts(known, budget, ratio)
    chosen = _chosen(known, counts)
    keep = np.ones(known.found.units, bool)
    for level in chosen:
        keep[level.gone] = False
    bare = small(known.model, known.found, chosen, refitted=False)
    feeds = list(known.held.batches(known.held.batch()))
    original = answers_to(feeds, known.model)
    error_bare = distance(original, answers_to(feeds, bare))
    final, error, used = bare, error_bare, 0
    best: Sequence[Repaired] = ()
    if repaired and chosen:
        single, what = small(known.model, known.found, chosen), Cut.of(known.found, keep)
        begun = small(known.model, known.found, chosen, but=known.approximated) if known.approximated else single
        steps = _steps(known, begun, what, progress)
        # What is best on samples that nothing was fitted to: layer upon layer, only the layers behind, or not at all.
        for taken, form in enumerate((single, *(step.model for step in steps))):
            found = distance(original, answers_to(feeds, form))
            if found < error:
                final, error, used, best = form, found, known.samples.count, steps[:taken]
        if best and known.everything.count < MOST:
            final, used = _on_all(known, begun, what, best, progress), known.everything.count
    size, widths = known.size, known.widths
    return Pruned(
        model=replace(final, source=known.model.source),
        report=Report(
            budget=str(budget),
            importance=importance,
            macs_before=round(size.macs(widths)),
            macs_after=round(size.macs(counts)),
            parameters_before=round(size.parameters(widths)),
            parameters_after=round(size.parameters(counts)),
            groups=tuple(
                PrunedGroup(
                    layer=group.name, before=group.width, after=int(count), error=float(curve.at([int(count)])[0])
                )
                for group, curve, count in zip(known.found.groups, known.curves, counts, strict=True)
            ),
            left_alone=dict(known.found.left_alone),
            error_unrepaired=error_bare,
            error=error,
            samples=used,
        ),
    )


def _steps(known: Survey, begun: Model, what: Cut, progress: Progress) -> list[Repaired]:
    """The model further and further repaired: layers that the survey only approximates, then all layers.

    Args:
        begun: with the former as they were. Weights fitted to the samples that ridges are chosen on are no prior.
    """

    def told(done: int, total: int) -> None:
        progress("refitting layers", done, total)

    some = known.approximated
    first = [repair(known.model, begun, what, known.samples, told, only=some)] if some else []
    done = first[0].ridges.keys() if first else ()
    begun = first[0].model if first else begun
    return [*first, repair(known.model, begun, what, known.samples, told, settled=done)]


def _on_all(known: Survey, begun: Model, what: Cut, steps: Sequence[Repaired], progress: Progress) -> Model:
    """The same repair, fitted to the samples that were held aside as well."""
    for step in steps:
        begun = repair(
            known.model, begun, what, known.everything,
            lambda done, total: progress("refitting layers", done, total),
            solve=with_ridges(step.ridges), only=step.ridges.keys(),
        ).model  # fmt: skip
    return begun


def _chosen(known: Survey, counts: np.ndarray) -> list[Level]:
    return [
        known.level(number, int(count))
        for number, (count, width) in enumerate(zip(counts, known.widths, strict=True))
        if count < width
    ]


def _counts(known: Survey, budget: Budget, ratio: Ratio | None) -> np.ndarray:
    """Channels left by group.

    Raises:
        PruningError: the budget cannot be met.
    """
    if budget.kind == "latency":
        assert ratio is not None
        return _within_latency(known, budget, ratio)
    size = known.size.macs if budget.kind == "macs" else known.size.parameters
    full = size(known.widths)
    counts = spread(known.curves, size, budget.share * full)
    if counts is None:
        least = size(np.array([curve.steps[-1] for curve in known.curves])) / full
        raise PruningError(
            f"the model can be pruned to {budget.kind}={least:.2g} at most: its other layers must stay",
            f"ask for --prune {budget.kind}={min(0.95, least + 0.1):.1g}, or leave it out",
        )
    return counts


def _within_latency(known: Survey, budget: Budget, ratio: Ratio) -> np.ndarray:
    """The most multiply-accumulates whose latency keeps the budget, by halving; refitting does not change latency."""
    full = known.size.macs(known.widths)
    low, high, best = 0.0, 1.0, None
    share, measured = budget.share, 1.0
    timed: dict[tuple[int, ...], float] = {}
    for _ in range(_LATENCY_TRIES):
        counts = spread(known.curves, known.size.macs, share * full)
        if counts is None:
            low = share
        else:
            key = tuple(int(count) for count in counts)
            if key not in timed:  # counts go in steps, so that several shares may come to the same
                bare = small(known.model, known.found, _chosen(known, counts), refitted=False)
                timed[key] = ratio(bare)
            measured = timed[key]
            if measured <= budget.share:
                low, best = share, counts
            else:
                high = share
        share = (low + high) / 2
        if high - low < 0.03:
            break
    if best is None:
        raise PruningError(
            f"no pruning keeps latency={budget.share:g} on this machine: the last one tried took {measured:.2g}",
            "ask for more latency, or for macs=0.5",
        )
    return best
