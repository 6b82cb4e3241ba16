"""A candidate: one precision of one model, written as a bundle, verified and measured."""

from __future__ import annotations

import datetime
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgepack._version import VERSION
from edgepack.building import on_board
from edgepack.building.plan import Plan
from edgepack.bundles import beside, bundle, golden, here, wheels
from edgepack.bundles.border import Border, Ports
from edgepack.data.ranges import Ranges
from edgepack.data.samples import Feed, Samples
from edgepack.data.states import without_states
from edgepack.device import available_cores
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.judge import Judge
from edgepack.metrics.merit import Quality, harness
from edgepack.model import Model
from edgepack.passes import PassResult, Step, told
from edgepack.passes.blocks import Layout
from edgepack.passes.dynamic import dynamic
from edgepack.passes.fit_format import fit_format
from edgepack.passes.half import half
from edgepack.passes.placement import integer_only
from edgepack.passes.quantize import quantize
from edgepack.passes.weight_only import store_in_4_bits, store_in_8_bits
from edgepack.quantization.half_range import Wide, halved, wide_nodes
from edgepack.quantization.preparation import prepare
from edgepack.quantization.settle import Settled, hold_back, settle
from edgepack.reference import Session
from edgepack.target import runner_here

# Below this the whole interval says slower than the original; between it and 1 nobody would notice.
SLOWER = 0.98
# A build is timed more briefly than `bench` does: it asks which form is faster, not by how much.
_TIMING = ("--build-machine", "--unchecked", "--accept-doubts", "--processes", "4", "--min-runs", "10")
# Called with what is being done, how much of it is done, and of how much (0: unknown).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What every candidate of one build is made from.

    `original` is the model as given, `shaped` the same with its dimensions fixed as far as they are known, `clean` that
    after clean-up; `judged` are the samples that quality is measured on, the calibration samples themselves where there
    is no evaluation set, and `judge` measures it.
    `references` are the original's answers to the `golden` feeds. `border` is what the bundle's file takes and gives.
    `steps` are the passes from `original` to `clean`, those up to `shaped` are `shaping`.
    """

    plan: Plan
    name: str
    version: str
    original: Model
    shaped: Model
    session: Session
    clean: Model
    data: Samples | None
    judged: Samples | None
    judge: Judge | None
    golden: list[Feed]
    references: list[Feed]
    synthetic: bool
    labels: list[str] | None
    wheels: bool
    border: Border
    shaping: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    # Filled by `settled`, so that candidates share one pass over the calibration samples.
    known: dict[str, Settled] = field(default_factory=dict)
    # What was pruned of `clean` (edgepack/building/pruned.py), for the manifest.
    pruning: dict[str, Any] | None = None
    # Lengths of open dimensions, by input, for a runtime that is built for them.
    ranges: Ranges = field(default_factory=dict)
    # True where two of every four weights are zero.
    sparse: bool = False
    # Filled by `_kept_wide`, by precision.
    wide: dict[str, Wide] = field(default_factory=dict)


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
    requirements = plan.requirements(images=_pictures(given) is not None)
    bundle.write_payload(folder, plan.target_name, requirements)
    if given.wheels:
        progress("fetching wheels", 0, 0)
        notes.append(wheels.fetch(requirements, plan.device, folder / wheels.FOLDER))
    notes += plan.differences(precision, images=_pictures(given) is not None)
    _write_golden(given, ports, folder / "golden", expected)
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
    manifest = _manifest(given, ports, precision, f"model/{file}", terms, versions, baseline)
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
    manifest["measured"] = _measured(folder, quality, original_bytes)
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


def settled(given: Ingredients, progress: Progress) -> Settled:
    """Ranges and rounded weights of the clean model, made once."""
    if "int8" not in given.known:
        assert given.data is not None
        scheme = given.plan.scheme
        progress("calibrating", 0, 0)
        samples, held = hold_back(given.data)
        ready = prepare(
            given.clean,
            scheme,
            samples,
            held=held if samples is not given.data else None,
            progress=lambda done, total: progress("calibrating", done, total),
        )
        given.known["int8"] = settle(
            ready, scheme, samples, held, lambda done, total: progress("settling ranges and biases", done, total)
        )
    return given.known["int8"]


def fitted_form(
    given: Ingredients, precision: str, progress: Progress, keep_float: frozenset[str] = frozenset()
) -> tuple[Model, list[str], list[Step]]:
    """The model in the given precision, in a format that the device's runtime reads; notes; and what was done."""
    model, note, steps = lowered_form(given, precision, progress, keep_float)
    fitted = fit_format(model, given.plan.reads, given.plan.runtime[0])
    steps = [*steps, *told([fitted.step("fit_format", model)])]
    model = fitted.model
    if given.plan.stand_in:
        wide = given.wide.get("int8" if precision == "int8" else "fp16")
        model = on_board.told(model, given.plan, sparse=given.sparse, ranges=given.ranges, wide=wide)
    return model, [line for line in (note, fitted.note) if line], steps


def lowered_form(
    given: Ingredients, precision: str, progress: Progress, keep_float: frozenset[str] = frozenset()
) -> tuple[Model, str, list[Step]]:
    """The clean model in the given precision, a line on how it came about, and the steps to it.

    Args:
        keep_float: weighted nodes that int8 leaves float, by the name of their output.
    """
    scheme = given.plan.scheme
    if precision == "fp16" and given.plan.multiplies_half:
        wide = _kept_wide(given, "fp16", given.clean)
        return _alone(given, "half_arithmetic", halved(given.clean, wide, given.clean, given.golden))
    if precision == "fp16":
        return _alone(given, "half", half(given.clean))
    if precision == "w8":
        return _alone(given, "weight_only", store_in_8_bits(given.clean, scheme))
    if precision == "w4":
        layout = Layout(bits=4, block=given.plan.block, symmetric=False)
        result = store_in_4_bits(given.clean, scheme, layout, int8_activations=given.plan.int8_blocks)
        return _alone(given, "weight_only", result)
    if precision == "dynamic":
        return _alone(given, "dynamic", dynamic(given.clean, scheme))
    if precision == "int8":
        assert given.data is not None
        form = settled(given, progress)
        keep_float = keep_float | form.ready.unseen
        layers = form.layers(keep_float, lambda done, total: progress("correcting biases", done, total))
        result = quantize(form.ready.model, scheme, form.ready.ranges, layers, keep_float)
        bits = ", 7-bit weights since this CPU adds products with saturation" if scheme.weight_bits == 7 else ""
        notes = [f"{result.note}{bits}", *form.ready.notes, f"{form.name}, from {given.data.count} samples"]
        if form.ready.unseen:
            notes.append(f"no sample reaches {', '.join(sorted(form.ready.unseen))}, so float")
        more = f"{bits}; {form.name}"
        steps = [*form.ready.steps, result.step("quantize", form.ready.model, more)]
        if given.plan.multiplies_half:
            wide = _kept_wide(given, "int8", form.ready.model)
            if given.plan.mixes_half:
                mixed = on_board.mixed(result.model, wide, given.clean, given.golden)
                steps.append(mixed.step("half_arithmetic", result.model))
                result, notes = mixed, [*notes, f"beside int8: {mixed.note}"]
        return result.model, "; ".join(notes), steps
    return given.clean, "", []


def _kept_wide(given: Ingredients, precision: str, model: Model) -> Wide:
    """What stays float32 in the float model that a precision is made from, found once."""
    if precision not in given.wide:
        given.wide[precision] = wide_nodes(model, given.data)
    return given.wide[precision]


def _alone(given: Ingredients, name: str, result: PassResult) -> tuple[Model, str, list[Step]]:
    return result.model, result.note, [result.step(name, given.clean)]


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


def _pictures(given: Ingredients) -> Samples | None:
    """The samples that the golden inputs are from, if they are images."""
    source = given.data or given.judged
    return source if source is not None and source.spec is not None else None


def _write_golden(given: Ingredients, ports: Ports, folder: Path, expected: list[Feed]) -> None:
    inputs = [ports.public(without_states(feed, ports.states)) for feed in given.golden]
    references = [ports.turned(answer) for answer in given.references]
    for name, feeds in (("inputs", inputs), ("expected", expected), ("reference", references)):
        bundle.write_arrays(folder / f"{name}.npz", golden.by_sample(feeds))
    pictures = _pictures(given)
    if pictures is not None and pictures.pixels is not None:
        bundle.write_arrays(folder / "pixels.npz", {"pixels": pictures.pixels(0)})


def _manifest(
    given: Ingredients,
    ports: Ports,
    precision: str,
    file: str,
    terms: list[dict[str, Any]],
    versions: dict[str, str],
    baseline: dict[str, str] | None,
) -> bundle.Manifest:
    plan = given.plan
    pictures = _pictures(given)
    spec = pictures.spec if pictures is not None else None
    return {
        "format": harness().FORMAT,
        "name": given.name,
        "version": given.version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "edgepack": VERSION,
        "device": plan.device.name,
        "target": plan.target_name,
        "runtime": versions,
        "precision": precision,
        "threads": plan.threads,
        "requires": {
            "arch": plan.device.arch,
            "python": plan.device.system.python if given.wheels else "3.8",
            "glibc": plan.device.system.glibc if given.wheels else "",
            "int8_dot_product": precision in ("int8", "dynamic")
            and plan.device.arch == "x86_64"
            and plan.scheme.weight_bits == 8
            and not plan.scheme.unsigned_weights,
        },
        "model": {"file": file},
        "baseline": baseline,
        "inputs": ports.entries("inputs"),
        "outputs": ports.entries("outputs"),
        "state": [state.entry() for state in ports.states],
        "metadata": dict(given.original.ir.metadata_props),
        "labels": given.labels,
        "preprocess": {**spec, "layout": ports.inputs[spec["input"]].layout or spec["layout"], "golden": True}
        if spec is not None
        else None,
        "pruning": given.pruning,
        "calibration": None if given.data is None else {"samples": given.data.count},
        "golden": {"synthetic": given.synthetic, "samples": len(given.golden), "outputs": terms},
    }


def _measured(folder: Path, quality: Quality | None, original_bytes: int) -> dict[str, Any]:
    """What the build found, for whoever has only the bundle."""
    return {
        "quality": None if quality is None else {k: v for k, v in asdict(quality).items() if k != "source"},
        "model_bytes": bundle.folder_bytes(folder / "model"),
        "original_bytes": original_bytes,
    }
