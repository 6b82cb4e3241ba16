"""Trials for real: forms of one build, lowered by the target, judged on samples and timed in the target's runtime."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgepack._version import VERSION
from edgepack.building.candidate import make
from edgepack.building.ingredients import Ingredients
from edgepack.building.precisions import fitted_form, settled
from edgepack.data.samples import Feed, Samples
from edgepack.errors import Interrupted, UsageError
from edgepack.measuring.benchmark import bench
from edgepack.metrics.judge import Judge
from edgepack.metrics.merit import Quality
from edgepack.passes.half_emulation import emulated
from edgepack.progress import Progress
from edgepack.promise.search import Trial, floats
from edgepack.quantization.sensitivity import Injection, inject

# Feeds that layers are ranked on.
_RANKED = 8
_ROUNDS = 20

Form = tuple[str, frozenset[str]]


@dataclass(kw_only=True)
class Trials:
    """The search's hands (promise/search.py, Forms). Files go to `scratch`, a form that is lowered stays there."""

    given: Ingredients
    judge_: Judge | None
    scratch: Path
    seconds: float
    progress: Progress
    # Where forms are timed: None is this machine, in the runtime alone.
    on: str | None = None
    files: dict[Form, Path] = field(default_factory=dict)
    there: dict[Form, float] = field(default_factory=dict)
    ranking: list[Injection] = field(default_factory=list)

    def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
        assert self.judge_ is not None
        model = self.load((precision, keep_float))
        what = f"trying {precision}{floats(keep_float)}"
        return self.judge_.judge(model, lambda done, total: self.progress(what, done, total))

    def time(self, forms: Sequence[Form]) -> list[float] | None:
        if self.on is not None:
            return [self._time_on(form, self.on) for form in forms]
        if not self.given.plan.measurable_here:
            return None
        self.progress("timing what keeps the promise", 0, 0)
        feed = self.given.border.ports.public(self.given.golden[0])
        return interleaved([self._loaded(form) for form in forms], feed, self.seconds)

    def _time_on(self, form: Form, host: str) -> float:
        """Milliseconds (p50) of a form as a bundle on a device."""
        if form not in self.there:
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            make(replace(self.given, judge=None), form[0], folder, 0.1, self.progress, form[1])
            result = bench(
                folder,
                on=host,
                seconds=self.seconds,
                processes=5,
                min_runs=10,
                accept_doubts=True,
                progress=self.progress,
            )
            self.there[form] = float(result["models"]["model"]["p50_ms"])
        return self.there[form]

    def rank(self) -> list[Injection]:
        if not self.ranking:
            assert self.given.data is not None
            ready = settled(self.given, self.progress).ready
            self.ranking = inject(
                ready.model,
                self.given.plan.scheme,
                ready,
                self.given.data.first(_RANKED),
                progress=lambda done, total: self.progress("ranking layers", done, total),
            )
        return self.ranking

    def load(self, form: Form) -> Callable[[Feed], Feed]:
        """A form that takes and gives what the model itself does."""
        return self.given.border.ports.behind(self._loaded(form))

    def _loaded(self, form: Form) -> Callable[[Feed], Feed]:
        plan = self.given.plan
        if form not in self.files:
            model, *_ = fitted_form(self.given, form[0], self.progress, form[1])
            if plan.stand_in:
                model = emulated(model)
            folder = Path(tempfile.mkdtemp(dir=self.scratch))
            self.files[form] = folder / plan.target.lower(self.given.border.floats(model), folder)
        return plan.load(self.files[form])


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


# How a journal begins, by which it is told from a file of the user's of that name.
_KIND = "edgepack search"


def refuse_foreign(path: Path) -> None:
    """
    Raises:
        UsageError: a file lies where the journal is to be, and it is no journal.
    """
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as file:
            begin = "".join(file.read(200).split())
    except (OSError, UnicodeDecodeError):
        begin = "?"
    if begin and not begin.startswith(f'{{"kind":"{_KIND}"'.replace(" ", "")):
        raise UsageError(
            f"{path} is not edgepack's, and the search would keep its trials there", "move it, or choose another -o"
        )


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
            return [_trial(entry) for entry in found["trials"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def add(self, trial: Trial) -> None:
        self.trials.append(trial)
        text = json.dumps(
            {"kind": _KIND, "key": self.key, "trials": [asdict(trial) for trial in self.trials]}, indent=1
        )
        draft = self.path.with_name(f".{self.path.name}.part")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _trial(entry: dict[str, Any]) -> Trial:
    """
    Raises:
        TypeError, KeyError: the entry is no trial.
    """
    trial = Trial(**{**entry, "keep_float": tuple(entry["keep_float"])})
    numbers = [trial.drop, trial.margin, *(n for n in (trial.agreement, trial.sqnr_db, trial.ms) if n is not None)]
    names = [trial.precision, *trial.keep_float]
    if not all(isinstance(n, int | float) for n in numbers) or not all(isinstance(name, str) for name in names):
        raise TypeError(entry)
    return trial


@contextmanager
def resumable(journal: Path) -> Iterator[None]:
    """An interrupt says that what was tried is not lost.

    Raises:
        Interrupted: there is a journal to go on from.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not journal.exists():
            raise
        raise Interrupted("interrupted", f"the same command goes on from {journal}") from None


def fingerprint(samples: Samples) -> str:
    """A hash of all samples in order, of how they are preprocessed, and of what they are judged by."""
    found = hashlib.sha256("".join(samples.digest(index) for index in range(samples.count)).encode())
    found.update(repr(samples.spec).encode())
    if samples.labels is not None:
        found.update(f"{samples.labels.dtype}{samples.labels.shape}".encode() + samples.labels.tobytes())
    for boxes in samples.boxes or ():
        for array in (boxes.boxes, boxes.classes, boxes.ids, boxes.crowd):
            found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def code_of(metric: str | None) -> str | None:
    """A hash of the file that holds the user's own metric; None for another one."""
    module = sys.modules.get((metric or "").partition(":")[0]) if ":" in (metric or "") else None
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file is not None and Path(file).is_file() else None
