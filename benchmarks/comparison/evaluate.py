"""Worker: one file over the reporting samples, one after another, as a device would.

Request: target, file, runner and hint (or null), model (the float original), report (.npz), metric, threads, reference
(.npy, written if `is_reference`), records (.npz, written), and if wanted `keep` (.npy, the first float outputs are
written) and `beside` (.npy, another file's, which ours are held against too). Answer: the figures; the records hold a
row a sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from comparison import metrics, runtimes


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate; NaN or infinity count as noise as large as the signal."""
    metric = metrics.find(request["metric"], metrics.metadata(request["model"]))
    names = runtimes.output_names(request["model"])
    model = runtimes.load(
        request["target"], request["file"], request["threads"], names, request["runner"], request["hint"]
    )
    with np.load(request["report"], allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    truth = arrays.pop("y")
    reference = None if request["is_reference"] else np.load(request["reference"], mmap_mode="r")
    other = np.load(request["beside"], mmap_mode="r") if request.get("beside") else None
    keep = request["reference"] if request["is_reference"] else request.get("keep")
    kept: list[np.ndarray] = []
    records, answers, power, beside, differences, sizes = [], [], [], [], [], []
    for index in range(len(truth)):
        outputs = model({key: array[index] for key, array in arrays.items()})
        first = next(output for output in outputs if np.issubdtype(output.dtype, np.floating))
        if keep:
            kept.append(first)
        wanted = first if reference is None else reference[index]
        power.append(_power(wanted, first))
        differences.append(_difference(wanted, first))
        sizes.append(float(np.abs(wanted).max()))
        if other is not None:
            beside.append(_power(other[index], first))
        records.append(metric.record(outputs, truth[index]))
        if metric.answer is not None:
            answers.append(metric.answer(outputs))
    if keep:
        np.save(keep, np.stack(kept))
    rows = np.stack(records)
    np.savez(
        request["records"],
        records=rows,
        power=np.array(power),
        beside=np.array(beside),
        answers=np.array(answers if answers else [], dtype=str),
    )
    return {
        "value": metric.value(rows, np.ones(len(rows))),
        "sqnr_db": _decibels(power),
        "beside_db": _decibels(beside) if beside else None,
        "largest_error": max(differences) / max(float(np.median(sizes)), 1e-30),
        "samples": len(rows),
        "bytes": _bytes(Path(request["file"])),
    }


def _power(reference: np.ndarray, actual: np.ndarray) -> tuple[float, float]:
    """Signal and noise of a sample, sums of squares."""
    signal = float(np.sum(np.square(reference, dtype=np.float64)))
    if reference.shape != actual.shape or not np.isfinite(actual).all():
        return signal, signal
    return signal, float(np.sum(np.square(reference.astype(np.float64) - actual)))


def _decibels(power: list[tuple[float, float]]) -> float | None:
    signal, noise = np.sum(power, 0)
    return None if noise == 0 else float(10 * np.log10(max(signal, 1e-30) / noise))


def _difference(reference: np.ndarray, actual: np.ndarray) -> float:
    if reference.shape != actual.shape or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(reference - actual).max())


def _bytes(file: Path) -> int:
    """The size of a model: its file and, for OpenVINO's, the weights beside it."""
    return sum(part.stat().st_size for part in {file, file.with_suffix(".bin")} if part.is_file())
