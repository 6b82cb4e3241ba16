"""Text regions from a map of probabilities, as Liao et al. (2020), Differentiable Binarization, find them."""

from __future__ import annotations

import numpy as np

from edgepack.metrics.decode import Options


def find_boxes(chart: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Upright boxes [n, 4] as x0, y0, x1, y1 in pixels of the map, and their scores [n].

    1. Connected regions above `threshold`, diagonal neighbours included.
    2. Regions narrower than `smallest` pixels, or whose box has a mean below `box`, are dropped.
    3. The shrunk regions that the network was trained on grow back by area × `unclip` / perimeter.

    PaddleOCR turns its boxes with the text; these stay upright.
    """
    boxes, scores = [], []
    for x0, y0, x1, y1 in regions(chart > options.number("threshold")):
        width, height = x1 - x0, y1 - y0
        score = float(chart[y0:y1, x0:x1].mean(dtype=np.float64))
        if min(width, height) < options.number("smallest") or score < options.number("box"):
            continue
        grown = width * height * options.number("unclip") / (2 * (width + height))
        boxes.append([x0 - grown, y0 - grown, x1 + grown, y1 + grown])
        scores.append(score)
    return np.array(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)


def regions(mask: np.ndarray) -> np.ndarray:
    """Bounds [n, 4] as x0, y0, x1, y1 (the latter exclusive) of the regions that are connected over 8 neighbours.

    Runs of each row are joined with those they touch in the row above (union-find; Wu et al., 2009).
    """
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    rows, starts = np.nonzero(np.diff(padded, axis=1) == 1)
    _, ends = np.nonzero(np.diff(padded, axis=1) == -1)
    parent = np.arange(len(rows))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(len(mask) + 1))
    for row in range(1, len(mask)):
        above, here = slice(first[row - 1], first[row]), slice(first[row], first[row + 1])
        touch = (starts[here, None] <= ends[None, above]) & (starts[None, above] <= ends[here, None])
        for mine, theirs in np.argwhere(touch):
            one, other = root(first[row] + mine), root(first[row - 1] + theirs)
            parent[max(one, other)] = min(one, other)
    groups = np.array([root(run) for run in range(len(rows))], np.int64)
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    if not len(cuts):
        return np.zeros((0, 4), np.int64)
    return np.stack(
        [
            np.minimum.reduceat(starts[order], cuts),
            np.minimum.reduceat(rows[order], cuts),
            np.maximum.reduceat(ends[order], cuts),
            np.maximum.reduceat(rows[order], cuts) + 1,
        ],
        axis=1,
    )
