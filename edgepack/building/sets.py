"""The samples of a build: those that calibrate, those that judge, and what they have to be for that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgepack.data import preprocess as preprocessing
from edgepack.data.audit import audit, refuse_overlap
from edgepack.data.samples import Samples
from edgepack.errors import LabelsError
from edgepack.model import Model


def read_samples(
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


def image_layout(*sets: Samples | None) -> dict[str, str]:
    """In which layout images are made, by the input that they feed."""
    specs = [samples.spec for samples in sets if samples is not None and samples.spec is not None]
    return {str(spec["input"]): str(spec["layout"]) for spec in specs[:1]}


def audited(
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
    return list(dict.fromkeys(warnings))  # both sets are often alike
