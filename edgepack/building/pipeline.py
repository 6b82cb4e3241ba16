"""`build`: from a trained model to a verified bundle, in one straight line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgepack import device as devices
from edgepack import inputs
from edgepack.building.candidate import Candidate
from edgepack.building.choice import choose
from edgepack.building.cleaning import cleaned, refuse_undefined, shaped, shaped_as
from edgepack.building.flags import refuse_flags, refuse_idle, refuse_ranges
from edgepack.building.ingredients import Ingredients
from edgepack.building.plan import AS_IS, plan
from edgepack.building.precisions import settled
from edgepack.building.pruned import (
    PATTERN,
    Pruning,
    faster_or_whole,
    kept_or_whole,
    made_sparse,
    pruned,
    refuse_pattern,
    refuse_unprunable,
)
from edgepack.building.result import Build, doubts
from edgepack.building.sets import audited, image_layout, read_samples
from edgepack.bundles import bundle, golden
from edgepack.bundles.border import border
from edgepack.data import states as recorded
from edgepack.data.annotations import attach
from edgepack.data.labels import read_classes
from edgepack.data.ranges import ShapeRange, Spanned, ends, refuse_unfit, spanned
from edgepack.data.split import split
from edgepack.errors import DataNeeded
from edgepack.metrics.judge import judge_for, metric_for
from edgepack.model import Model
from edgepack.passes import told
from edgepack.progress import Progress
from edgepack.promise.keep import Promised, keep_promise, refuse_unmeasurable
from edgepack.promise.trials import refuse_foreign, resumable
from edgepack.pruning.budget import budget
from edgepack.quantization.eight_bits import eight_bits
from edgepack.reference import Session


def build(
    model: str | Path,
    output: str | Path,
    *,
    device: str = "host",
    target: str = "auto",
    precision: str = "auto",
    data: str | Path | None = None,
    eval: str | Path | None = None,
    preprocess: str | None = None,
    labels: str | Path | None = None,
    metric: str | None = None,
    annotations: str | Path | None = None,
    decode: str | None = None,
    max_drop: float | None = None,
    time_budget: float | None = None,
    on: str | None = None,
    input_shape: Mapping[str, tuple[int, ...] | ShapeRange] | None = None,
    io_layout: str | None = None,
    io_dtype: str = "float",
    state: Mapping[str, str] | None = None,
    name: str | None = None,
    version: str = "1",
    threads: int | None = None,
    block: int | None = None,
    prune: str | None = None,
    prune_importance: str = "second-order",
    seconds: float = 2.0,
    wheels: bool = False,
    devices_file: str | Path | None = None,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Build:
    """Quantize, package and verify a model for a device.

    Args:
        model: an .onnx or .pt2 file.
        output: the bundle's folder; its archive lies beside it.
        data: calibration samples; `eval` are (labelled) ones that calibration has not seen.
        preprocess: how images become tensors: a preset, a YAML file or key=value pairs.
        labels: a file of class names (of characters, for a recognizer), one a line.
        metric: what answers are judged by: top1, top5, map50, map, miou, cer, wer, or module:function; top1 if not
            given and labels are class numbers (docs/metrics.md).
        annotations: boxes for the samples that are judged, a COCO JSON file or a folder of YOLO files.
        decode: how outputs become boxes, text or maps, such as "yolov8,iou=0.7".
        max_drop: the points of the metric that may be lost. The fastest form that keeps it is searched on one half
            of the evaluation samples; the other half reports.
        time_budget: seconds after which the search tries no new form.
        on: the device on which the search for `max_drop` measures latency, such as ssh://pi@raspberrypi.local; this
            machine if not given.
        input_shape: lengths for open dimensions, by input name; for tensorrt also ranges of them.
        io_layout: nchw or nhwc, for the inputs and outputs with four axes; the model's own if not given.
        io_dtype: float, or int8 or uint8 for integers with a scale and a zero point (tflite in int8).
        state: outputs that are the next call's inputs, by the input; the bundle then keeps them between calls.
        block: how many weights share a scale in w4: 16, 32, 64 or 128.
        prune: what is to be left, such as macs=0.7, params=0.6 or latency=0.8: channels are removed and the others
            refitted on `data` (docs/pruning.md); 2:4 for zeros in a pattern where the device skips them.
        prune_importance: which channels go: second-order, taylor (the torch extra), l2 or l1.
        threads: threads on the device; all its cores if not given.
        wheels: put the wheels of the requirements into the bundle, for a board without network.
        devices_file: a device file that adds boards to edgepack's own, or replaces them.
        seconds: how long each model is timed on this machine.

    Raises:
        EdgepackError: one of edgepack.errors; nothing is left at `output` then, and what was there stays.
    """
    output, path = Path(output), Path(model)
    refuse_flags(seconds=seconds, max_drop=max_drop, time_budget=time_budget, on=on, io_dtype=io_dtype)
    bundle.check_output(output, force)
    journal = output.with_name(f"{output.name}.search.json")
    if max_drop is not None:
        refuse_foreign(journal)
    board = devices.find(device, Path(devices_file) if devices_file is not None else None)
    progress("reading the model", 0, 0)
    original = inputs.load(path)
    decision = plan(
        board,
        target=target,
        precision=precision,
        has_data=data is not None,
        is_quantized=original.is_quantized,
        threads=threads,
        block=block,
        measured=max_drop is not None and on not in (None, "local"),
    )
    pattern = prune == PATTERN
    if pattern:
        refuse_pattern(decision, has_data=data is not None)
    wanted = budget(prune) if prune is not None and not pattern else None
    if wanted is not None:
        refuse_unprunable(
            wanted, precision=decision.precision, has_data=data is not None, on=on, here=decision.measurable_here
        )
    asked_border = border(original, decision, layout=io_layout, dtype=io_dtype, state=state)
    integers = decision.precision not in ("fp32", "fp16", AS_IS)
    ranges = {name: shapes for name, shapes in (input_shape or {}).items() if isinstance(shapes, ShapeRange)}
    if ranges:
        refuse_ranges(decision, ranges)
        refuse_unfit(original, ranges)
    fixed = {name: one.fixed if isinstance(one, ShapeRange) else one for name, one in (input_shape or {}).items()}
    untidy, shaping = shaped(original, fixed, int8=integers)

    progress("reading the samples", 0, 0)
    classes = read_classes(Path(labels)) if labels is not None else None
    asked = metric_for(
        original, metric, decode=decode, annotations=annotations is not None, labels=Path(labels) if labels else None
    )
    if data is None and eval is None:
        refuse_idle({"--preprocess": preprocess, "--metric": metric})
    truth = asked.truth if asked is not None else "classes"
    states = asked_border.states
    session = Session(original) if states else None
    reads = partial(recorded.read, states=states, session=session)
    calibration, evaluation = read_samples(reads, untidy, data, eval, preprocess, classes, truth)
    if decision.target.FIXED_SHAPES:
        sets = [samples for samples in (calibration, evaluation) if samples is not None]
        untidy, more = shaped_as(untidy, sets, decision.target_name)
        shaping += more
    warnings = audited(untidy, calibration, evaluation, classes if truth == "classes" else None)
    judged = evaluation or calibration
    if judged is not None and annotations is not None:
        judged = attach(judged, Path(annotations), classes)
    span = Spanned()
    if decision.target.SHAPE_RANGES:
        span = spanned(untidy, ranges, [one for one in (calibration, evaluation) if one is not None])
    feeds, synthetic = golden.feeds(
        calibration or evaluation,
        recorded.without(untidy, states),
        in_order=bool(states),
        also=span.places,
        shapes=ends(span.ranges),
    )
    searched = None
    if max_drop is not None:
        if evaluation is None or judged is None:
            raise DataNeeded("--max-drop is judged on samples of their own", "add --eval with a few hundred or more")
        searched, judged = split(judged)

    progress("cleaning up", 0, 0)
    session = session or Session(original)
    if states:
        feeds = list(recorded.unrolled(session, untidy, states, feeds))
    references = [session.run(feed) for feed in feeds]
    refuse_undefined(original, references)
    judge = judge_for(session, judged, asked, references[0], keep=decision.on_trial)
    if max_drop is not None and judge is not None:
        refuse_unmeasurable(judge, references[0])
    clean, tidied = cleaned(untidy, session, feeds[:2], references[0])
    given = Ingredients(
        plan=decision,
        name=name or path.stem,
        version=version,
        original=original,
        shaped=untidy,
        session=session,
        clean=clean,
        data=calibration,
        judged=judged,
        judge=judge,
        golden=feeds,
        references=references,
        synthetic=synthetic,
        labels=classes,
        wheels=wheels,
        border=asked_border.seen(clean, image_layout(calibration, judged)),
        ranges=span.ranges,
        shaping=told(shaping),
        steps=told([*shaping, *tidied]),
    )
    if pattern:
        given = made_sparse(given, progress)
    whole, pruning = given, None
    if wanted is not None:
        given, pruning = pruned(whole, wanted, prune_importance, progress)
    promised = None
    if max_drop is not None:
        search_judge = judge_for(session, searched, asked, references[0], keep=True)
        assert search_judge is not None and searched is not None
        promised = Promised(
            budget=max_drop,
            seconds=time_budget,
            judge=search_judge,
            samples=searched,
            decode=decode,
            on=None if on == "local" else on,
        )
    with bundle.atomic_folder(output) as folder:
        made = _chosen(whole, given, pruning, promised, untidy, folder, journal, seconds, progress)
        chosen, given, pruning, promise = made.candidate, made.given, made.pruning, made.promise
        emulated = _with_eight_bits(given, chosen, progress)
        sizes = {
            "original": bundle.read_manifest(folder)["measured"]["original_bytes"],
            "model": bundle.folder_bytes(folder / "model"),
            "archive": bundle.pack(folder).stat().st_size,
        }
    return Build(
        bundle=output,
        archive=bundle.archive_path(output),
        name=given.name,
        version=version,
        device=board.name,
        target=decision.target_name,
        precision=chosen.precision,
        reason=made.reason,
        sizes=sizes,
        quality=chosen.quality,
        latency=chosen.latency,
        check=chosen.check,
        notes=[note for note in (*(step.note for step in whole.steps), *made.tried, *chosen.notes, emulated) if note],
        warnings=warnings + doubts(given, chosen) + ([] if promise is None else promise["warnings"]),
        promise=promise,
        pruning=given.pruning if pattern else None if pruning is None else pruning.to_json(),
        steps=chosen.steps,
        forms=chosen.forms,
    )


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What became the bundle, of which ingredients, and why; `tried` are notes on what did not."""

    candidate: Candidate
    reason: str
    tried: list[str]
    given: Ingredients
    pruning: Pruning | None
    promise: dict[str, Any] | None


def _chosen(
    whole: Ingredients,
    given: Ingredients,
    pruning: Pruning | None,
    promised: Promised | None,
    untidy: Model,
    folder: Path,
    journal: Path,
    seconds: float,
    progress: Progress,
) -> _Chosen:
    """Fill the folder: with the fastest form that keeps what is promised, or with what the device is asked for.

    Args:
        whole: the ingredients before pruning, which `given` are where nothing was pruned.
        untidy: the model before clean-up.
    """
    cut = None if given is whole else pruning

    def plain(form: Ingredients) -> Model:
        return untidy if form is whole else form.clean

    if promised is None:

        def choose_of(form: Ingredients, place: Path) -> tuple[Candidate, str, list[str]]:
            return choose(form, plain(form), place, seconds, progress)

        if cut is None:
            candidate, reason, tried = choose_of(given, folder)
        else:
            candidate, reason, tried, given, pruning = faster_or_whole(given, whole, cut, folder, choose_of, progress)
        return _Chosen(candidate=candidate, reason=reason, tried=tried, given=given, pruning=pruning, promise=None)

    def keep(form: Ingredients, place: Path) -> tuple[Candidate, dict[str, Any]]:
        return keep_promise(form, promised, plain(form), place, journal, seconds, progress)

    with resumable(journal):
        if cut is None:
            candidate, promise = keep(given, folder)
        else:
            candidate, promise, given, pruning = kept_or_whole(given, whole, cut, folder, keep)
    reason = promise["reason"]
    return _Chosen(candidate=candidate, reason=reason, tried=[], given=given, pruning=pruning, promise=promise)


def _with_eight_bits(given: Ingredients, chosen: Candidate, progress: Progress) -> str:
    """Why the weights have 7 bits, where they do and that can be emulated."""
    scheme = given.plan.scheme
    if chosen.precision != "int8" or scheme.weight_bits == 8 or not scheme.unsigned_weights:
        return ""
    progress("emulating a CPU that saturates", 0, 0)
    found = eight_bits(settled(given, progress).ready, scheme, given.golden, given.session)
    return "" if found is None else str(found)
