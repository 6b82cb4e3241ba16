"""What looks wrong about samples, said plainly before anything is built from them."""

from __future__ import annotations

import numpy as np

from edgepack.data import preprocess
from edgepack.data.samples import Samples
from edgepack.errors import OverlapError, SamplesError
from edgepack.model import Model

FEW = 32


def audit(samples: Samples, model: Model, role: str) -> list[str]:
    """Warnings about samples, worst first; `role` is "calibration" or "evaluation".

    Raises:
        SamplesError: a sample holds NaN or infinity.
    """
    warnings: list[str] = []
    if role == "calibration" and samples.count < FEW:
        warnings.append(
            f"only {samples.count} calibration sample{'s' if samples.count > 1 else ''}: "
            f"ranges may be too narrow; {FEW} is a minimum, some hundreds are better"
        )
    digests = [samples.digest(index) for index in range(samples.count)]
    doubles = len(digests) - len(set(digests))
    if doubles:
        warnings.append(f"{doubles} of {samples.count} {role} samples are duplicates")
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    flat = 0
    for index in range(samples.count):
        feed = samples.read(index)
        flat += all(array.size > 1 and array.min() == array.max() for array in feed.values() if array.dtype.kind == "f")
        for name, array in feed.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise SamplesError(
                    f"{role} sample {index} of {samples.source} holds NaN or infinity in {name}",
                    "remove it or mend what wrote it",
                )
            if array.size:
                low[name] = min(low.get(name, np.inf), float(array.min()))
                high[name] = max(high.get(name, -np.inf), float(array.max()))
    if flat and any(tensor.is_float for tensor in model.inputs):
        warnings.append(f"{flat} of {samples.count} {role} samples looked at are constant: every value is the same")
    for tensor in model.inputs:
        if tensor.is_float and tensor.name in low:
            warnings += _range(tensor.name, low[tensor.name], high[tensor.name], samples, tensor.shape)
    return warnings


def _range(name: str, low: float, high: float, samples: Samples, shape: tuple[object, ...]) -> list[str]:
    if samples.spec is not None:
        bottom, top = preprocess.range_of(samples.spec)
        if high - low < 0.1 * (top - bottom):
            return [
                f"{name} spans {low:.3g} to {high:.3g} of the {bottom:.3g} to {top:.3g} that this preprocessing can "
                "give: are the images dark, or already scaled?"
            ]
        return []
    if len(shape) == 4 and low >= 0 and 100 < high <= 255:
        return [f"{name} spans {low:.3g} to {high:.3g}: these look like raw pixels, which few float models take"]
    return []


def refuse_overlap(calibration: Samples, evaluation: Samples) -> None:
    """No sample may both set the ranges and judge the result.

    Raises:
        OverlapError: with the first pair.
    """
    known = {calibration.digest(index): index for index in range(calibration.count)}
    for index in range(evaluation.count):
        twin = known.get(evaluation.digest(index))
        if twin is not None:
            raise OverlapError(
                f"sample {index} of {evaluation.source} is sample {twin} of {calibration.source}",
                "evaluate on samples that calibration has not seen",
            )
