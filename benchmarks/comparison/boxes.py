"""Text boxes from a probability map, and what they score against the truth.

The map becomes boxes as in DB (Liao et al., Real-time Scene Text Detection with Differentiable Binarization, 2020),
with upright boxes: map > 0.3, mean of the box at least 0.6, grown by 1.6.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
THRESHOLD, BOX_THRESHOLD, UNCLIP, SMALLEST = 0.3, 0.6, 1.6, 3
# Detections a page at most, so that a page is a row: scores, then hits, then the numbers of boxes found and true.
MOST = 100


def components(mask: Array) -> list[tuple[int, int, int, int]]:
    """Bounding boxes (x0, y0, x1, y1) of the 4-connected regions, by union-find over the runs of each line."""
    parent: list[int] = []
    extent: list[list[int]] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above: list[tuple[int, int, int]] = []
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.r_[0, row.astype(np.int8), 0]))
        here = []
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            i = len(parent)
            parent.append(i)
            extent.append([a, y, b, y + 1])
            for start, end, j in above:
                if a < end and start < b:
                    parent[root(j)] = root(i)
            here.append((a, b, i))
        above = here
    merged: dict[int, list[int]] = {}
    for i, (x0, y0, x1, y1) in enumerate(extent):
        box = merged.setdefault(root(i), [x0, y0, x1, y1])
        box[:] = [min(box[0], x0), min(box[1], y0), max(box[2], x1), max(box[3], y1)]
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in merged.values()]


def found(probability: Array) -> tuple[Array, Array]:
    """Boxes [n, 4] and their scores [n], best first."""
    boxes, scores = [], []
    for x0, y0, x1, y1 in components(probability > THRESHOLD):
        width, height = x1 - x0, y1 - y0
        score = float(probability[y0:y1, x0:x1].mean())
        if min(width, height) < SMALLEST or score < BOX_THRESHOLD:
            continue
        grow = width * height * UNCLIP / (2 * (width + height))
        boxes.append((x0 - grow, y0 - grow, x1 + grow, y1 + grow))
        scores.append(score)
    order = np.argsort(-np.array(scores), kind="stable")[:MOST]
    return np.array(boxes, np.float64).reshape(-1, 4)[order], np.array(scores)[order]


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union, [len(a), len(b)]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), -1)
    area = [np.prod(part[:, 2:] - part[:, :2], -1) for part in (a, b)]
    return np.asarray(both / np.maximum(area[0][:, None] + area[1][None] - both, 1e-12))


def record(output: Array, truth: Array) -> Array:
    """One page: MOST scores (−1 where there is no box), MOST hits, and the count of true boxes.

    Boxes are matched best score first to the free true box they overlap most, at 0.5 or more.
    """
    boxes, scores = found(output.reshape(output.shape[-2:]))
    true = truth[~np.isnan(truth).any(-1)]
    row = np.concatenate([np.full(MOST, -1.0), np.zeros(MOST), [len(true)]])
    row[: len(scores)] = scores
    free = np.ones(len(true), bool)
    iou = overlaps(boxes, true)
    for i in range(len(boxes)):
        if free.any():
            j = int(np.argmax(np.where(free, iou[i], -1)))
            if iou[i, j] >= 0.5:
                row[MOST + i], free[j] = 1, False
    return row


def average_precision(records: Array, counts: Array) -> float:
    """AP at IoU 0.5, the area under the precision envelope, × 100."""
    scores, hits = records[:, :MOST], records[:, MOST : 2 * MOST]
    page, slot = np.nonzero(scores >= 0)
    order = np.argsort(-scores[page, slot], kind="stable")
    weight = counts[page][order].astype(np.float64)
    hit = hits[page, slot][order]
    true = float(counts @ records[:, -1])
    right, all_ = np.cumsum(weight * hit), np.cumsum(weight)
    recall = np.r_[0, right / max(true, 1e-12)]
    precision = np.maximum.accumulate((right / np.maximum(all_, 1e-12))[::-1])[::-1]
    return 100 * float(np.sum(np.diff(recall) * precision))


def h_mean(records: Array, counts: Array) -> float:
    """Harmonic mean of recall and precision, × 100."""
    number = (records[:, :MOST] >= 0).sum(1)
    hits = records[:, MOST : 2 * MOST].sum(1)
    return 200 * float(counts @ hits) / max(float(counts @ (records[:, -1] + number)), 1e-12)
