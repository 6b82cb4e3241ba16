"""Trials for real: forms of one build, lowered by the target, judged on samples and timed in the target's runtime."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgepack._version import VERSION
from edgepack.candidate import Ingredients, Progress, lowered_form, prepared
from edgepack.device import available_cores
from edgepack.judge import Judge
from edgepack.metric import Quality
from edgepack.passes.fit_format import fit_format
from edgepack.samples import Feed, Samples
from edgepack.search import Trial
from edgepack.sensitivity import Injection, inject
from edgepack.target import runner

# Feeds that layers are ranked on.
_RANKED = 8
_ROUNDS = 20

Form = tuple[str, frozenset[str]]


@dataclass(kw_only=True)
class Trials:
    """The search's hands (edgepack.search.Forms). Files go to `scratch`, a form that is lowered stays there."""

    given: Ingredients
    judge_: Judge | None
    scratch: Path
    seconds: float
    progress: Progress
    files: dict[Form, Path] = field(default_factory=dict)
    ranking: list[Injection] = field(default_factory=list)

    def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
        assert self.judge_ is not None
        model = self.load((precision, keep_float))
        raised = f", {len(keep_float)} layers in float" if keep_float else ""
        return self.judge_.judge(model, lambda done, total: self.progress(f"trying {precision}{raised}", done, total))

    def time(self, forms: Sequence[Form]) -> list[float] | None:
        if not self.given.plan.measurable_here:
            return None
        self.progress("timing what keeps the promise", 0, 0)
        return interleaved([self.load(form) for form in forms], self.given.golden[0], self.seconds)

    def rank(self) -> list[Injection]:
        if not self.ranking:
            assert self.given.data is not None
            ready = prepared(self.given, self.progress)
            self.ranking = inject(
                ready.model,
                self.given.plan.scheme,
                ready,
                self.given.data.first(_RANKED),
                progress=lambda done, total: self.progress("ranking layers", done, total),
            )
        return self.ranking

    def load(self, form: Form) -> Callable[[Feed], Feed]:
        plan = self.given.plan
        if form not in self.files:
            model, _ = lowered_form(self.given, form[0], self.progress, form[1])
            fitted = fit_format(model, plan.reads, " ".join(plan.target.REQUIREMENTS)).model
            folder = self.scratch / str(len(self.files))
            folder.mkdir()
            self.files[form] = folder / plan.target.lower(fitted, folder)
        return runner(plan.target_name).load(str(self.files[form]), min(plan.threads, available_cores()))


def interleaved(models: Sequence[Callable[[Feed], Feed]], feed: Feed, seconds: float) -> list[float]:
    """Median milliseconds of each model on one feed, each of many rounds running every model once."""
    for model in models:
        model(feed)
    times: list[list[float]] = [[] for _ in models]
    start = time.perf_counter()
    while len(times[0]) < _ROUNDS or time.perf_counter() - start < seconds:
        for model, spent in zip(models, times, strict=True):
            before = time.perf_counter()
            model(feed)
            spent.append(1000 * (time.perf_counter() - before))
        if time.perf_counter() - start > 20 * max(seconds, 1.0):
            break
    return [statistics.median(spent) for spent in times]


class Journal:
    """The trials of a search in a file beside the output, so that an interrupted one goes on."""

    def __init__(self, path: Path, key: dict[str, object]) -> None:
        """
        Args:
            key: all that a trial depends on; trials of another key are not taken up.
        """
        self.path, self.key = path, {**key, "edgepack": VERSION}
        self.trials = self._read()

    def _read(self) -> list[Trial]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if found["key"] != json.loads(json.dumps(self.key)):
                return []
            return [Trial(**{**entry, "keep_float": tuple(entry["keep_float"])}) for entry in found["trials"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        text = json.dumps({"key": self.key, "trials": [asdict(trial) for trial in self.trials]}, indent=1)
        draft = self.path.with_name(f".{self.path.name}.part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def fingerprint(samples: Samples) -> str:
    """A hash of all samples, in order."""
    return hashlib.sha256("".join(samples.digest(index) for index in range(samples.count)).encode()).hexdigest()
