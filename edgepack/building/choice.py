"""Which precision is built where none was asked for: int8 on trial, beside float."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgepack.building.candidate import Candidate, empty, make, make_tidy, speed_words
from edgepack.building.ingredients import Ingredients
from edgepack.building.plan import Plan
from edgepack.bundles import bundle
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import Quality
from edgepack.model import Model
from edgepack.progress import Progress
from edgepack.promise.search import FASTER
from edgepack.promise.trials import Form, Trials
from edgepack.reference import Session

# What int8 may cost where it was not asked for: points of the metric, else percent of equal answers, else decibels.
LARGEST_DROP = 1.0
SMALLEST_AGREEMENT = 95.0
SMALLEST_SQNR_DB = 15.0


def choose(
    given: Ingredients, uncleaned: Model, folder: Path, seconds: float, progress: Progress
) -> tuple[Candidate, str, list[str]]:
    """Make the planned candidate in `folder`; where int8 is on trial and fails, float takes its place."""
    decision = given.plan
    if not decision.on_trial:
        return make_tidy(given, decision.precision, uncleaned, folder, seconds, progress), decision.reason, []
    notes: list[str] = []
    try:
        candidate = make(given, decision.precision, folder, seconds, progress)
    except UnsupportedOperator as error:
        reason = error.message
    else:
        # int8 answers for what it does, not for what pruning did before it.
        pruned = given.judge.judge(Session(given.clean).run) if given.pruning and given.judge else None
        reason, passed = try_int8(decision, candidate, pruned)
        if passed and decision.measurable_here:
            reason, passed = _beside_clean_float(given, folder, reason, progress)
        if passed:
            return candidate, reason, []
        notes = candidate.notes
    empty(folder)
    return make_tidy(given, decision.plain, uncleaned, folder, seconds, progress), reason, notes


def _beside_clean_float(given: Ingredients, folder: Path, reason: str, progress: Progress) -> tuple[str, bool]:
    """Whether int8 is faster than float after clean-up too, which may itself be faster than the original."""
    with tempfile.TemporaryDirectory() as scratch:
        trials = Trials(given=given, judge_=given.judge, scratch=Path(scratch), seconds=1.0, progress=progress)
        forms: list[Form] = [("int8", frozenset()), ("fp32", frozenset())]
        trials.files[forms[0]] = folder / bundle.read_manifest(folder)["model"]["file"]
        measured = trials.time(forms)
    if measured is None or measured[0] * FASTER < measured[1]:
        return reason, True
    return f"float, cleaned up, is faster here than int8: {measured[1]:.3g} against {measured[0]:.3g} ms", False


def try_int8(decision: Plan, candidate: Candidate, pruned: Quality | None = None) -> tuple[str, bool]:
    """Whether int8 is good and fast enough to be chosen unasked, and the reason in words.

    Args:
        pruned: how the pruned model answers in float, where int8 is of that and not of the original.
    """
    too_far = "" if candidate.quality is None else _too_far(candidate.quality, pruned)
    if too_far:
        return too_far, False
    ratio = candidate.latency.get("ratio")
    if decision.measurable_here and ratio is not None:
        if ratio["low"] > 1.0:
            return f"int8 is {speed_words(ratio)}", True
        return f"int8 is no faster: {speed_words(ratio)}", False
    if decision.device.int8_gain == "expected":
        return decision.reason, True
    return f"{decision.reason}, and that cannot be measured here; --precision int8 builds it all the same", False


def _too_far(quality: Quality, pruned: Quality | None) -> str:
    """Why int8 answers too differently from the original, or from the pruned model; empty if it does not."""
    if quality.drop is not None:
        drop = quality.drop - (pruned.drop or 0.0 if pruned is not None else 0.0)
        beside = "" if pruned is None else " more than pruning alone"
        words = f"int8 loses {drop:.2f} points of {quality.metric}{beside}, the most is {LARGEST_DROP:g}"
        return words if drop > LARGEST_DROP else ""
    if quality.agreement is not None:
        agreed = pruned.agreement or 100.0 if pruned is not None else 100.0
        words = f"int8 agrees with the original on only {quality.agreement:.1f} % of the samples"
        words += "" if pruned is None else f", without it {agreed:.1f}"
        return words if quality.agreement + 100.0 - agreed < SMALLEST_AGREEMENT else ""
    if quality.sqnr_db is not None:
        least = SMALLEST_SQNR_DB
        if pruned is not None and pruned.sqnr_db:
            least = min(least, pruned.sqnr_db - 3)
        return f"int8 is only {quality.sqnr_db:.1f} dB from the original" if quality.sqnr_db < least else ""
    return ""
