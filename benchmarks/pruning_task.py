"""A model to prune, what it is fitted to, and what it is judged by; the samples of a small task used in turn.

Folders and metrics are those of benchmarks/comparison (tasks.py, metrics.py).
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparison import metrics, tasks

from edgepack import inputs
from edgepack.building.cleaning import cleaned, shaped
from edgepack.data.reading import read
from edgepack.data.samples import Feed, Samples
from edgepack.reference import Session

BATCH = 500
# Metrics that are a share of right samples, so that single samples' changes can be averaged.
COUNTING = ("top1", "threshold", "pitch50")
Row = dict[str, Any]


class Task:
    """A folder as pruning needs it: the clean model, its samples, and which evaluation samples it has right."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        metric = tasks.facts(folder).get("metric", "top1")
        if metric not in COUNTING:
            raise ValueError(f"{folder}: {metric} is not one of {', '.join(COUNTING)}")
        self.metric = metrics.METRICS[metric]
        original = inputs.load(folder / "model.onnx")
        self.untidy, _ = shaped(original, {}, int8=True)
        self.samples: Samples = read(folder / "calib.npz", self.untidy)
        self.feed: Feed = self.samples.read(0)
        session = Session(original)
        self.model, _ = cleaned(self.untidy, session, [self.feed], session.run(self.feed))
        with np.load(folder / "eval.npz") as arrays:
            self.input = next(key for key in arrays.files if key != "y")
            self.x, self.y = arrays[self.input].astype(np.float32), arrays["y"]
        self.right, self.answers = self._asked(session.run)

    def _asked(self, run: Callable[[Feed], Feed]) -> tuple[np.ndarray, list[Any]]:
        """Whether each evaluation sample is right, and what is answered."""
        right, answers = [], []
        for start in range(0, len(self.x), BATCH):
            outputs = list(run({self.input: self.x[start : start + BATCH]}).values())
            for number, truth in enumerate(self.y[start : start + BATCH]):
                one = [output[number : number + 1] for output in outputs]
                right.append(self.metric.record(one, truth)[0])
                answers.append(self.metric.answer(one) if self.metric.answer else None)
        return np.array(right), answers

    def judged(self, run: Callable[[Feed], Feed]) -> Row:
        """Points, beside the original; `changes` by sample."""
        right, answers = self._asked(run)
        same = [one == other for one, other in zip(answers, self.answers, strict=True)]
        return {
            "accuracy": 100 * float(right.mean()),
            "agreement": 100 * float(np.mean(same)),
            "changes": right - self.right,
            **_difference(right - self.right),
        }


def _difference(changes: np.ndarray) -> Row:
    return {
        "difference": 100 * float(changes.mean()),
        "error": 100 * float(changes.std() / len(changes) ** 0.5),
    }


def folded(folder: Path, count: int, into: Path) -> list[tuple[Path, np.ndarray]]:
    """Folders that each calibrate on one part of all samples, and judge on the others; and which samples those are.

    Raises:
        ValueError: the calibration samples have no labels.
    """
    with np.load(folder / "calib.npz") as seen, np.load(folder / "eval.npz") as held:
        if "y" not in seen.files:
            raise ValueError(f"{folder}/calib.npz has no labels (y), which --folds judges by")
        joined = {key: np.concatenate([seen[key], held[key]]) for key in held.files}
    order = np.random.default_rng(tasks.SEED).permutation(len(joined["y"]))
    found = []
    for number, part in enumerate(np.array_split(order, count)):
        own, others = into / str(number), np.setdiff1d(order, part)
        own.mkdir()
        for file in ("model.onnx", "task.json"):
            if (folder / file).is_file():
                shutil.copy(folder / file, own / file)
        np.savez(own / "calib.npz", **{key: array[part] for key, array in joined.items() if key != "y"})
        np.savez(own / "eval.npz", **{key: array[others] for key, array in joined.items()})
        found.append((own, others))
    return found


def pooled(folds: Sequence[Sequence[Row]], asked: Sequence[np.ndarray]) -> list[Row]:
    """A row by method and share: a sample's change is the mean over the folds that ask it."""
    each: defaultdict[tuple[str, str, float], list[tuple[Row, np.ndarray]]] = defaultdict(list)
    for rows, places in zip(folds, asked, strict=True):
        for row in rows:
            each[row["model"], row["method"], row["share"]].append((row, places))
    found = []
    for several in each.values():
        skipped = [row for row, _ in several if "skipped" in row]
        if skipped:
            found.append(skipped[0])
            continue
        count = 1 + max(int(places.max()) for _, places in several)
        total, times = np.zeros(count), np.zeros(count)
        for row, places in several:
            total[places] += row["changes"]
            times[places] += 1
        means = {key: float(np.mean([row[key] for row, _ in several])) for key in ("accuracy", "agreement", "seconds")}
        changes = total[times > 0] / times[times > 0]
        found.append({**several[0][0], **means, **_difference(changes), "changes": changes, "folds": len(several)})
    return found
