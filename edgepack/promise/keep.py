"""`--max-drop`: search for the fastest form that keeps the promise, build it, and report on samples it has not seen."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepack.building.candidate import Candidate, make, make_tidy
from edgepack.building.ingredients import Ingredients
from edgepack.bundles import bundle
from edgepack.cost import layer_shares
from edgepack.data.samples import Feed, Samples
from edgepack.metrics.base import first_float
from edgepack.metrics.judge import Judge
from edgepack.metrics.merit import Quality, holds_scores, too_few
from edgepack.model import Model
from edgepack.progress import Progress
from edgepack.promise.search import Choice, Trial, loss, search, unmeasurable
from edgepack.promise.trials import Journal, Trials, code_of, fingerprint
from edgepack.quantization.sensitivity import Injection

# Share of the multiply-accumulates in MatMul, Gemm and recurrent layers from which dynamic is tried.
_MANY_PRODUCTS = 0.3


@dataclass(frozen=True, kw_only=True)
class Promised:
    """What was promised: `budget` points; and what the search has: seconds, and the samples that it may look at.

    `decode` is how the judge reads outputs, as it was asked for; `on` the host whose latency counts, None this machine.
    """

    budget: float
    seconds: float | None
    judge: Judge
    samples: Samples
    decode: str | None = None
    on: str | None = None


def refuse_unmeasurable(judge: Judge, answers: Feed) -> None:
    """Before anything is built: is there a metric, or do the answers hold scores that can agree?

    Raises:
        MetricError: neither.
    """
    _, scores = first_float(answers)
    if judge.metric_name is None and (scores is None or not holds_scores(scores)):
        raise unmeasurable()


def keep_promise(
    given: Ingredients,
    promised: Promised,
    uncleaned: Model,
    folder: Path,
    journal: Path,
    seconds: float,
    progress: Progress,
) -> tuple[Candidate, dict[str, Any]]:
    """Search, build what was found in `folder`, and hold it against the budget on the reporting samples.

    Args:
        journal: where trials are kept until the search is done.

    Returns:
        The candidate and the promise: `kept`, `reason`, `trials`, `float_layers` and `warnings`.
    """
    decision = given.plan
    if decision.precision == "int8":
        choice, ranking, notes = _search(given, promised, journal, progress)
    else:
        choice, ranking, notes = _only(decision.precision, decision.reason), [], None
    form = choice.chosen
    if form.precision == "int8":
        candidate = make(given, "int8", folder, seconds, progress, frozenset(form.keep_float))
    else:
        candidate = make_tidy(given, form.precision, uncleaned, folder, seconds, progress)
    quality = candidate.quality
    assert quality is not None
    drop, low, high = loss(quality)
    kept = drop <= promised.budget + 1e-9
    hurts = {injection.layer: injection for injection in ranking}
    promise = {
        "max_drop": promised.budget,
        "metric": quality.metric or "agreement",
        "kept": kept,
        "drop": drop,
        "drop_low": low,
        "drop_high": high,
        "search_samples": promised.samples.count,
        "report_samples": quality.count,
        "reason": choice.reason,
        "latency_on": promised.on or ("this machine" if decision.measurable_here else None),
        "finished": choice.finished,
        "float_layers": [_layer(name, hurts.get(name)) for name in form.keep_float],
        "trials": [asdict(trial) for trial in choice.trials],
        "warnings": _warnings(promised, quality, form, kept),
    }
    bundle.add_to_manifest(folder, {"promise": {"state": "kept" if kept else "missed", **promise}})
    if notes is not None:
        notes.remove()
    return candidate, promise


def _search(
    given: Ingredients, promised: Promised, path: Path, progress: Progress
) -> tuple[Choice, list[Injection], Journal]:
    decision = given.plan
    assert given.data is not None
    journal = Journal(
        path,
        {
            "model": given.original.digest(),
            "calibration": fingerprint(given.data),
            "search": fingerprint(promised.samples),
            "inputs": [str(tensor) for tensor in given.clean.inputs],
            "budget": promised.budget,
            "target": decision.target_name,
            "device": decision.device.name,
            "weight_bits": decision.scheme.weight_bits,
            "threads": decision.threads,
            "metric": promised.judge.metric_name,
            "metric_code": code_of(promised.judge.metric_name),
            "decode": promised.decode,
            "fallback": decision.on_trial,
            "on": promised.on,
            "pruned": None if given.pruning is None else given.clean.digest(),
            "border": [given.border.layout, *(state.entry() for state in given.border.states)],
        },
    )
    shapes = {name: array.shape for name, array in given.golden[0].items()}
    shares = layer_shares(given.clean, shapes)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as scratch:
        trials = Trials(
            given=given, judge_=promised.judge, scratch=Path(scratch), seconds=1.0, progress=progress, on=promised.on
        )
        choice = search(
            trials,
            promised.budget,
            shares=shares,
            others=_others(given, shares),
            fallback=decision.on_trial,
            plain=decision.plain,
            believed=decision.device.int8_gain == "expected",
            seconds=promised.seconds if promised.seconds is not None else float("inf"),
            known=journal.trials,
            tried=journal.add,
        )
        ranking = trials.rank() if choice.chosen.keep_float else []
    return choice, ranking, journal


def _others(given: Ingredients, shares: Mapping[str, float]) -> list[str]:
    """dynamic, where products of matrices are much of the work and the device runs it."""
    decision = given.plan
    products = sum(
        shares.get(str(node.outputs[0].name), 0.0)
        for node in given.clean.ir.graph
        if node.op_type in ("MatMul", "Gemm", "LSTM", "GRU")
    )
    able = "dynamic" in decision.target.PRECISIONS and "dynamic" in decision.device.targets[decision.target_name]
    return ["dynamic"] if able and products > _MANY_PRODUCTS else []


def _only(precision: str, reason: str) -> Choice:
    """No search: one precision was asked for, or is all there is."""
    trial = Trial(precision=precision, keep_float=(), drop=0.0, margin=0.0, agreement=None, sqnr_db=None, keeps=True)
    return Choice(chosen=trial, trials=(), reason=reason, finished=True)


def _layer(name: str, injection: Injection | None) -> dict[str, Any]:
    return {
        "layer": name,
        "operator": injection.operator if injection is not None else None,
        "sqnr_alone_db": round(injection.both_db, 2) if injection is not None else None,
    }


def _warnings(promised: Promised, quality: Quality, form: Trial, kept: bool) -> list[str]:
    found = []
    if not kept and form.keeps and form.precision == "int8":
        found.append(f"on the samples that were searched on it lost {form.drop:.2f} points, and kept the promise")
    if form.precision != "fp32" and quality.drop is not None:
        short = too_few(quality, promised.budget)
        if short:
            found.append(short)
    return found
