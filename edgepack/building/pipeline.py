"""`build`: from a trained model to a verified bundle, in one straight line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgepack import device as devices
from edgepack import inputs
from edgepack.building.candidate import (
    SLOWER,
    Candidate,
    Ingredients,
    Progress,
    settled,
)
from edgepack.building.choice import choose
from edgepack.building.cleaning import cleaned, refuse_undefined, shaped, shaped_as
from edgepack.building.plan import AS_IS, Plan, plan
from edgepack.building.pruned import (
    PATTERN,
    faster_or_whole,
    kept_or_whole,
    made_sparse,
    pruned,
    refuse_pattern,
    refuse_unprunable,
)
from edgepack.bundles import bundle, golden
from edgepack.bundles.border import border
from edgepack.data import preprocess as preprocessing
from edgepack.data import states as recorded
from edgepack.data.annotations import attach
from edgepack.data.audit import audit, refuse_overlap
from edgepack.data.labels import read_classes
from edgepack.data.ranges import Ranges, ShapeRange, Spanned, ends, refuse_unfit, spanned
from edgepack.data.samples import Samples
from edgepack.data.split import split
from edgepack.errors import DataNeeded, LabelsError, UsageError
from edgepack.metrics.judge import judge_for, metric_for
from edgepack.metrics.merit import Quality
from edgepack.model import Model
from edgepack.passes import Step, told
from edgepack.promise.keep import Promised, keep_promise, refuse_unmeasurable
from edgepack.promise.trials import refuse_foreign, resumable
from edgepack.pruning.budget import budget
from edgepack.quantization.eight_bits import eight_bits
from edgepack.reference import Session


@dataclass(frozen=True, kw_only=True)
class Build:
    """What `build` made, and what was measured on the way.

    `sizes` are bytes: of the original model, of the built one, of the archive. `latency` is the harness's
    measurement on this machine. `notes` say what was done, `warnings` what to look at. `promise` is how `max_drop`
    was kept or missed (docs/metrics.md), None where none was given; `pruning` what was pruned, or why it was declined.
    `steps` are the passes that made what was chosen, with sizes before and after; `forms` what int8 was settled between
    (`form`, `sqnr_db`, `chosen`).
    """

    bundle: Path
    archive: Path
    name: str
    version: str
    device: str
    target: str
    precision: str
    reason: str
    sizes: dict[str, int]
    quality: Quality | None
    latency: dict[str, Any]
    check: dict[str, Any]
    notes: list[str]
    warnings: list[str]
    promise: dict[str, Any] | None = None
    pruning: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)
    forms: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "build", "format": 1, **asdict(self), "bundle": str(self.bundle), "archive": str(self.archive)}


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
    if not 0 <= seconds < float("inf"):
        raise UsageError("--seconds should be positive", "2 is the default")
    if max_drop is not None and not 0 <= max_drop < 100:
        raise UsageError(f"--max-drop {max_drop:g} is no number of points", "0.5 allows half a point of the metric")
    if time_budget is not None and (max_drop is None or not 0 < time_budget < float("inf")):
        raise UsageError("--time-budget is the seconds that a search for --max-drop may take", "add --max-drop 0.5")
    if on is not None and (max_drop is None or on.startswith("qemu:")):
        raise UsageError(
            "--on is where the search for --max-drop measures latency"
            + (", and an emulated board's means nothing" if on.startswith("qemu:") else ""),
            "add --max-drop 0.5, and ssh://user@host of a real device",
        )
    if io_dtype != "float" and max_drop is not None:
        raise UsageError(
            "--max-drop may leave any layer float, and --io-dtype wants integers at the border",
            "leave one of the two out",
        )
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
        _refuse_ranges(decision, ranges)
        refuse_unfit(original, ranges)
    fixed = {name: one.fixed if isinstance(one, ShapeRange) else one for name, one in (input_shape or {}).items()}
    untidy, shaping = shaped(original, fixed, int8=integers)

    progress("reading the samples", 0, 0)
    classes = read_classes(Path(labels)) if labels is not None else None
    asked = metric_for(
        original, metric, decode=decode, annotations=annotations is not None, labels=Path(labels) if labels else None
    )
    if data is None and eval is None:
        _refuse_idle({"--preprocess": preprocess, "--metric": metric})
    truth = asked.truth if asked is not None else "classes"
    states = asked_border.states
    session = Session(original) if states else None
    reads = partial(recorded.read, states=states, session=session)
    calibration, evaluation = _samples(reads, untidy, data, eval, preprocess, classes, truth)
    if decision.target.FIXED_SHAPES:
        sets = [samples for samples in (calibration, evaluation) if samples is not None]
        untidy, more = shaped_as(untidy, sets, decision.target_name)
        shaping += more
    warnings = _audit(untidy, calibration, evaluation, classes if truth == "classes" else None)
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
        border=asked_border.seen(clean, _image_layout(calibration, judged)),
        ranges=span.ranges,
        shaping=told(shaping),
        steps=told([*shaping, *tidied]),
    )
    if pattern:
        given = made_sparse(given, progress)
    whole, pruning, promise = given, None, None
    if wanted is not None:
        given, pruning = pruned(whole, wanted, prune_importance, progress)
    with bundle.atomic_folder(output) as folder:
        if max_drop is None:

            def chosen_of(form: Ingredients, place: Path) -> tuple[Candidate, str, list[str]]:
                return choose(form, untidy if form is whole else form.clean, place, seconds, progress)

            if given is whole or pruning is None:
                chosen, reason, tried = chosen_of(given, folder)
            else:
                chosen, reason, tried, given, pruning = faster_or_whole(
                    given, whole, pruning, folder, chosen_of, progress
                )
        else:
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

            def keep(form: Ingredients, place: Path) -> tuple[Candidate, dict[str, Any]]:
                tidy = untidy if form is whole else form.clean
                return keep_promise(form, promised, tidy, place, journal, seconds, progress)

            with resumable(journal):
                if given is whole or pruning is None:
                    chosen, promise = keep(given, folder)
                else:
                    chosen, promise, given, pruning = kept_or_whole(given, whole, pruning, folder, keep)
            reason, tried = promise["reason"], []
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
        reason=reason,
        sizes=sizes,
        quality=chosen.quality,
        latency=chosen.latency,
        check=chosen.check,
        notes=[note for note in (*(step.note for step in whole.steps), *tried, *chosen.notes, emulated) if note],
        warnings=warnings + _doubts(given, chosen) + ([] if promise is None else promise["warnings"]),
        promise=promise,
        pruning=given.pruning if pattern else None if pruning is None else pruning.to_json(),
        steps=chosen.steps,
        forms=chosen.forms,
    )


def _refuse_ranges(decision: Plan, ranges: Ranges) -> None:
    if not decision.target.SHAPE_RANGES:
        name, shapes = next(iter(ranges.items()))
        instead = "x".join(map(str, shapes.usual)) if decision.target.FIXED_SHAPES else ""
        raise UsageError(
            f"--input-shape {name}={shapes} is a range, and {decision.target_name} builds nothing for one",
            f"take one length: --input-shape {name}={instead}"
            if instead
            else "leave it out: open dimensions stay open, whatever their length",
        )


def _refuse_idle(flags: Mapping[str, str | None]) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise UsageError(f"{flag} is about samples, and there are none", "add --data or --eval")


def _samples(
    read: Callable[[Path, Model, preprocessing.Spec | None, list[str] | None, str], Samples],
    model: Model,
    data: str | Path | None,
    eval: str | Path | None,
    preprocess: str | None,
    classes: list[str] | None,
    truth: str,
) -> tuple[Samples | None, Samples | None]:
    spec = preprocessing.read(preprocess) if preprocess is not None else None
    # Labels of calibration samples count only where there are no others.
    of_data = truth if eval is None else "any"
    calibration = read(Path(data), model, spec, classes, of_data) if data is not None else None
    evaluation = read(Path(eval), model, spec, classes, truth) if eval is not None else None
    if calibration is not None and evaluation is not None:
        refuse_overlap(calibration, evaluation)
    return calibration, evaluation


def _image_layout(*sets: Samples | None) -> dict[str, str]:
    """In which layout images are made, by the input that they feed."""
    specs = [samples.spec for samples in sets if samples is not None and samples.spec is not None]
    return {str(spec["input"]): str(spec["layout"]) for spec in specs[:1]}


def _audit(
    model: Model, calibration: Samples | None, evaluation: Samples | None, classes: list[str] | None
) -> list[str]:
    warnings = audit(calibration, model, "calibration") if calibration is not None else []
    if evaluation is not None:
        warnings += audit(evaluation, model, "evaluation")
        if evaluation.labels is not None and classes is not None and evaluation.labels.max() >= len(classes):
            raise LabelsError(
                f"label {evaluation.labels.max()} is out of range: the labels file names {len(classes)} classes",
                "one class a line, in order",
            )
    return warnings


def _with_eight_bits(given: Ingredients, chosen: Candidate, progress: Progress) -> str:
    """Why the weights have 7 bits, where they do and that can be emulated."""
    scheme = given.plan.scheme
    if chosen.precision != "int8" or scheme.weight_bits == 8 or not scheme.unsigned_weights:
        return ""
    progress("emulating a CPU that saturates", 0, 0)
    found = eight_bits(settled(given, progress).ready, scheme, given.golden, given.session)
    return "" if found is None else str(found)


def _doubts(given: Ingredients, chosen: Candidate) -> list[str]:
    """What the figures of the chosen candidate do not tell."""
    doubts = []
    ratio = chosen.latency.get("ratio")
    if ratio is not None and ratio["high"] < SLOWER:
        doubts.append(
            f"slower than the float original on this machine: {ratio['median']:.2f} times as fast"
            + ("; --precision fp32 is there" if chosen.precision not in ("fp32", AS_IS) else "")
        )
    quality = chosen.quality
    if given.judged is not None and given.judged.labels is not None and (quality is None or quality.metric is None):
        doubts.append(
            "labels were given, but the first output is not [batch, classes]: --metric says how they judge it"
        )
    if given.synthetic:
        doubts.append("no samples: the golden inputs are seeded noise, good for checking, not for judging accuracy")
    return doubts
