"""A candidate: one precision of one model, written as a bundle, verified and measured."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgepack.building import on_board
from edgepack.building.ingredients import Ingredients
from edgepack.building.manifest import manifest_of, measured, write_golden
from edgepack.building.precisions import fitted_form
from edgepack.bundles import beside, bundle, golden, here, wheels
from edgepack.data.states import without_states
from edgepack.device import available_cores
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import Quality
from edgepack.model import Model
from edgepack.passes import Step
from edgepack.passes.placement import integer_only
from edgepack.progress import Progress
from edgepack.target import runner_here

# Below this the whole interval says slower than the original; between it and 1 nobody would notice.
SLOWER = 0.98
# A build is timed more briefly than `bench` does: it asks which form is faster, not by how much.
_TIMING = ("--build-machine", "--unchecked", "--accept-doubts", "--processes", "4", "--min-runs", "10")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What became of one precision. `latency` is the harness's measurement on this machine.

    `steps` are the passes that made it; `forms` what was compared for int8: `form`, `sqnr_db`, `chosen` of each.
    """

    precision: str
    quality: Quality | None
    latency: dict[str, Any]
    check: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)


def make(
    given: Ingredients,
    precision: str,
    folder: Path,
    seconds: float,
    progress: Progress,
    keep_float: frozenset[str] = frozenset(),
) -> Candidate:
    """Write the bundle of one precision into the empty `folder`, check it in a fresh process, and time it.

    Raises:
        UnsupportedOperator: the precision or the runtime cannot do the model.
        WrongOutput, RunFailed: the bundle does not hold in a process with only what it pins.
    """
    plan = given.plan
    model, notes, steps = fitted_form(given, precision, progress, keep_float)
    progress("packaging", 0, 0)
    (folder / "model").mkdir()
    (folder / bundle.BASELINE).mkdir()
    bordered, ports = given.border.around(model, lambda names: _extents(given, names))
    file = plan.target.lower(bordered, folder / "model")
    original = given.border.floats(given.original).save(folder / bundle.BASELINE / "original.onnx")[0]
    original_bytes = bundle.folder_bytes(folder / bundle.BASELINE)
    runtime = runner_here(plan.target_name)
    threads = min(plan.threads, available_cores())
    run = runtime.load(str(folder / "model" / file), threads)
    loop = ports.loop(run)
    feeds = [ports.public(without_states(feed, ports.states)) for feed in given.golden]
    expected = [loop(feed) for feed in feeds]
    judged = on_board.rounded_run(plan, bordered, runtime, threads) or run
    others = None
    if runtime.load_other is not None and not plan.stand_in:
        other = ports.loop(runtime.load_other(str(folder / "model" / file), threads))
        others = [ports.own(other(feed)) for feed in feeds[: golden.OTHERS]]
    requirements = plan.requirements(images=given.pictures is not None)
    bundle.write_payload(folder, plan.target_name, requirements)
    if given.wheels:
        progress("fetching wheels", 0, 0)
        notes.append(wheels.fetch(requirements, plan.device, folder / wheels.FOLDER))
    notes += plan.differences(precision, images=given.pictures is not None)
    write_golden(given, ports, folder / "golden", expected)
    exact = precision == "int8" and plan.scheme.bit_exact and integer_only(model, plan.scheme)
    answers = [ports.own(answer) for answer in expected]
    there = [ports.own(ports.loop(judged)(feed)) for feed in feeds] if plan.stand_in else None
    terms = golden.terms(
        model,
        answers,
        given.references,
        precision,
        exact=exact,
        same_runtime=plan.runs_as_here,
        others=others,
        there=there,
    )
    forms = {"the original": given.shaped, "the original, cleaned up,": given.clean}
    forms = {what: given.border.floats(form) for what, form in forms.items()}
    feed = given.border.ports.public(given.golden[0])
    baseline, note = beside.baseline(plan, forms, folder / bundle.BASELINE / original, feed)
    notes.append(note)
    versions = dict([plan.runtime]) if plan.stand_in else runtime.versions()
    manifest = manifest_of(given, ports, precision, f"model/{file}", terms, versions, baseline)
    if plan.stand_in:
        manifest["checked_in"] = runtime.versions()
        notes.append(on_board.CHECKED_ELSEWHERE.format(target=plan.target_name))
    steps, settled_between = [*given.steps, *steps], _forms(given) if precision == "int8" else []
    bundle.seal(folder, manifest)

    progress("verifying in a fresh process", 0, 0)
    only = here.runtime_of(manifest, plan.stand_in or None)
    allowed = ["--allow-fallback", plan.stand_in] if plan.stand_in else []
    check = here.harness(folder, "check", "--build-machine", *allowed, only=only)
    quality = None
    if given.judge is not None:
        in_order = given.judged is not None and given.judged.in_order
        built = ports.looped(judged) if in_order else ports.behind(judged)
        quality = given.judge.judge(built, lambda done, total: progress("comparing with the original", done, total))
        del built
    del run, judged, loop
    latency: dict[str, Any] = {}
    if not plan.stand_in:
        progress("timing on this machine", 0, 0)
        latency = here.harness(folder, "bench", *_TIMING, "--seconds", str(seconds), only=only)
        manifest["requires"]["memory_mb"] = round(latency["models"]["model"]["peak_memory_mb"])
    manifest["measured"] = measured(folder, quality, original_bytes)
    manifest["measured"] |= {"steps": [asdict(step) for step in steps], "forms": settled_between}
    bundle.seal(folder, manifest)
    return Candidate(
        precision=precision,
        quality=quality,
        latency=latency,
        check=check,
        notes=[note for note in notes if note],
        steps=steps,
        forms=settled_between,
    )


def _forms(given: Ingredients) -> list[dict[str, Any]]:
    """The choices of ranges and of bias correction that int8 was settled between; dB are of held-back samples."""
    form = given.known["int8"]
    return [
        {"form": name, "sqnr_db": found if math.isfinite(found) else None, "chosen": name == form.name}
        for name, found in form.sqnr_db.items()
    ]


def make_tidy(
    given: Ingredients, precision: str, uncleaned: Model, folder: Path, seconds: float, progress: Progress
) -> Candidate:
    """Like `make`, but a float model that clean-up made slower is the user's own graph again.

    A runtime may fuse the untidy graph better.
    """
    candidate = make(given, precision, folder, seconds, progress)
    ratio = candidate.latency.get("ratio")
    if precision not in ("fp32", "fp16", "w8") or uncleaned is given.clean or ratio is None or ratio["high"] >= SLOWER:
        return candidate
    if not given.plan.measurable_here:
        return candidate
    empty(folder)
    plain = make(replace(given, clean=uncleaned, steps=given.shaping), precision, folder, seconds, progress)
    note = f"clean-up dropped: with it the model was {speed_words(ratio)}"
    return replace(plain, notes=[note, *plain.notes])


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def speed_words(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} times as fast here ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _extents(given: Ingredients, names: list[str]) -> dict[str, tuple[float, float]]:
    """The smallest and largest values of outputs over the calibration samples.

    Raises:
        UnsupportedOperator: there are none.
    """
    if given.data is None:
        raise UnsupportedOperator(
            f"the output {names[0]!r} is made in float, and no samples say how large it is", "add --data"
        )
    ends = dict.fromkeys(names, (0.0, 0.0))
    for feed in given.data:
        for name, array in given.session.run(feed, names).items():
            low, high = ends[name]
            ends[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return ends
