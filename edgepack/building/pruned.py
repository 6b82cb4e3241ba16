"""`--prune` within a build: the clean model pruned and repaired, kept only if it is faster where that is measured."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepack.building.candidate import Candidate, empty
from edgepack.building.ingredients import Ingredients
from edgepack.building.plan import AS_IS, Plan
from edgepack.building.precisions import lowered_form
from edgepack.data.samples import Feed, subset
from edgepack.data.samples import spread as places
from edgepack.errors import DataNeeded, UnfitDevice, UnsupportedOperator, UsageError
from edgepack.model import Model
from edgepack.passes import PassResult
from edgepack.passes.fit_format import fit_format
from edgepack.passes.quantize import quantize
from edgepack.progress import Progress
from edgepack.promise.search import FASTER
from edgepack.promise.trials import interleaved
from edgepack.pruning.budget import Budget
from edgepack.pruning.prune import Ratio, Report, prune
from edgepack.pruning.sparse import two_of_four
from edgepack.quantization.preparation import Steps, prepare

# Two zeros in every four weights.
PATTERN = "2:4"
# Ranges of int8 forms that are only timed come from so many samples.
_FEW = 8
_SECONDS = 1.0
_TIMED = Steps(equalize=False, smooth=False, swish=False, rounding=False, bias=False)
# Builds and judges what the ingredients make, in a folder.
Make = Callable[[Ingredients, Path], tuple[Candidate, dict[str, Any]]]
# The same, with the reason for its precision and notes of what was tried.
Choose = Callable[[Ingredients, Path], tuple[Candidate, str, list[str]]]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What `--prune` came to. `ratio` is the pruned model's latency as a share of the unpruned one's in the same
    precision, None where it cannot be measured here; `declined` says why the model was left whole, empty if it was not.
    """

    report: Report
    ratio: float | None
    declined: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**self.report.to_json(), "ratio": self.ratio, "declined": self.declined}


def refuse_unprunable(budget: Budget, *, precision: str, has_data: bool, on: str | None, here: bool) -> None:
    """
    Raises:
        UsageError, DataNeeded: before anything is read.
    """
    _refuse_without_floats(precision, has_data)
    if budget.kind == "latency" and not here:
        raise UsageError(
            "--prune latency= is measured, and this machine is not of the device's kind", "take --prune macs=0.7"
        )
    if budget.kind == "latency" and on not in (None, "local"):
        raise UsageError("--prune latency= is measured on this machine, not by --on", "take --prune macs=0.7")


def refuse_pattern(plan: Plan, *, has_data: bool) -> None:
    """`--prune 2:4` is for a runtime on a GPU that skips such zeros.

    Raises:
        UnfitDevice, UsageError, DataNeeded.
    """
    device, gpu = plan.device, plan.device.gpu
    if gpu is not None and gpu.sparsity and plan.multiplies_half:
        _refuse_without_floats(plan.precision, has_data)
        return
    why = (
        f"the GPU of {device.name} skips 2:4 zeros, {plan.target_name} does not: --target tensorrt"
        if gpu is not None and gpu.sparsity
        else f"2:4 gains nothing: {plan.target_name} on {device.name} multiplies zeros as slowly as other numbers"
    )
    raise UnfitDevice(why, "take --prune macs=0.7, which removes whole channels")


def _refuse_without_floats(precision: str, has_data: bool) -> None:
    if precision == AS_IS:
        raise UsageError("the model is already quantized and cannot be pruned", "start from the float model")
    if not has_data:
        raise DataNeeded("--prune refits weights to samples", "add --data with a few hundred real inputs")


def made_sparse(given: Ingredients, progress: Progress) -> Ingredients:
    """The ingredients with two of every four weights zero, and the others refitted.

    Raises:
        PruningError: no layer can have them.
    """
    assert given.data is not None
    made = two_of_four(given.clean, given.data, progress=lambda done, total: progress("pruning to 2:4", done, total))
    step = PassResult(model=made.model, note=str(made.report)).step("two_of_four", given.clean)
    told = {"pattern": PATTERN, **made.report.to_json()}
    return given.with_model(made.model, sparse=True, pruning=told, steps=(*given.steps, step))


def pruned(given: Ingredients, budget: Budget, importance: str, progress: Progress) -> tuple[Ingredients, Pruning]:
    """The ingredients with the model pruned; as they were where the pruned one is no faster.

    Raises:
        PruningError: nothing can be pruned, or not that far.
    """
    assert given.data is not None
    with timed_beside(given, given.clean, progress) as latency:
        found = prune(
            given.clean,
            given.data,
            budget,
            importance=importance,
            channels=given.plan.device.channels,
            ratio=latency,
            progress=progress,
        )
        precision, ratio = given.plan.precision, None
        if given.plan.measurable_here:
            try:
                ratio = latency(found.model)
            except UnsupportedOperator:
                if not given.plan.on_trial:
                    raise
                precision = given.plan.plain  # which takes the place of what was tried
    if precision != given.plan.precision:
        plain = replace(given, plan=replace(given.plan, precision=precision))
        with timed_beside(plain, given.clean, progress) as latency:
            ratio = latency(found.model)
    if ratio is not None and ratio * FASTER > 1:
        return given, Pruning(report=found.report, ratio=ratio, declined=_slower(ratio, precision))
    told = Pruning(report=found.report, ratio=ratio)
    step = PassResult(model=found.model, note="channels pruned").step("prune", given.clean)
    return given.with_model(found.model, pruning=told.to_json(), steps=(*given.steps, step)), told


@contextlib.contextmanager
def timed_beside(given: Ingredients, whole: Model, progress: Progress) -> Iterator[Ratio]:
    """Gives a model's latency as a share of the whole one's, in the planned precision and the target's runtime.

    The whole model is prepared once, when it is first needed, and stays loaded.
    """
    feed = given.border.ports.public(given.golden[0])
    other: list[Callable[[Feed], Feed]] = []
    with tempfile.TemporaryDirectory() as scratch:

        def ratio(model: Model) -> float:
            progress("timing the pruned model", 0, 0)
            if not other:
                other.append(_loaded(given, whole, Path(scratch)))
            with tempfile.TemporaryDirectory() as folder:
                one = _loaded(given, model, Path(folder))
                times = interleaved([one, *other], feed, _SECONDS)
                del one
            return times[0] / times[1]

        yield ratio
        other.clear()


def _loaded(given: Ingredients, model: Model, folder: Path) -> Callable[[Feed], Feed]:
    plan = given.plan
    if plan.precision == "int8":
        assert given.data is not None
        few = subset(given.data, places(given.data.count, _FEW))
        ready = prepare(model, plan.scheme, few, steps=_TIMED)
        form = quantize(ready.model, plan.scheme, ready.ranges, ready.layers, ready.unseen).model
    else:
        form = lowered_form(given.with_model(model), plan.precision, lambda what, done, total: None)[0]
    fitted = fit_format(form, plan.reads, plan.runtime[0]).model
    file = plan.target.lower(given.border.floats(fitted), folder)
    return plan.load(folder / file)


def faster_or_whole(
    given: Ingredients, whole: Ingredients, told: Pruning, folder: Path, choose: Choose, progress: Progress
) -> tuple[Candidate, str, list[str], Ingredients, Pruning]:
    """The pruned model, unless another precision than planned came out of it, in which it is no faster."""
    candidate, reason, tried = choose(given, folder)
    if told.ratio is None or candidate.precision == given.plan.precision:
        return candidate, reason, tried, given, told
    timed = replace(given, plan=replace(given.plan, precision=candidate.precision))
    with timed_beside(timed, whole.clean, progress) as latency:
        ratio = latency(given.clean)
    if ratio * FASTER <= 1:
        return candidate, reason, tried, given, replace(told, ratio=ratio)
    empty(folder)
    declined = _slower(ratio, candidate.precision)
    return *choose(whole, folder), whole, replace(told, ratio=ratio, declined=declined)


def _times(*kept: tuple[Candidate, dict[str, Any]]) -> list[float]:
    """Milliseconds of each, where they were measured on a machine that tells; nothing if they were not."""
    if any(promise["latency_on"] != "this machine" for _, promise in kept):
        return []
    return [candidate.latency["models"]["model"]["p50_ms"] for candidate, _ in kept if candidate.latency]


def _slower(ratio: float, precision: str) -> str:
    return f"pruning declined: the pruned model takes {ratio:.2f} times as long here in {precision}"


def kept_or_whole(
    given: Ingredients, whole: Ingredients, told: Pruning, folder: Path, make: Make
) -> tuple[Candidate, dict[str, Any], Ingredients, Pruning]:
    """Under `--max-drop`: the pruned model, unless it misses the promise, or had to give up its precision and is no
    faster then than the whole one with the same promise."""
    candidate, promise = make(given, folder)
    if promise["kept"] and candidate.precision == given.plan.precision and not promise["float_layers"]:
        return candidate, promise, given, told
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-whole-") as scratch:
        other, kept = make(whole, Path(scratch))
        times = _times((candidate, promise), (other, kept))
        if promise["kept"] and (not kept["kept"] or not times or times[0] * FASTER < times[1]):
            return candidate, promise, given, told
        empty(folder)
        for path in Path(scratch).iterdir():
            path.rename(folder / path.name)
    why = (
        f"pruning declined: with the same promise the whole model takes {times[1]:.3g} ms here, the pruned one "
        f"{times[0]:.3g}"
        if promise["kept"]
        else f"pruning declined: pruned, it lost {promise['drop']:.2f} points of {promise['metric']}"
    )
    return other, kept, whole, replace(told, declined=why)
