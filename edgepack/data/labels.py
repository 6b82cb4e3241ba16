"""Labels: what `y`, class folders and labels.csv say about samples."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from edgepack.errors import LabelsError, NoSamples

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}


def image_labels(
    path: Path, images: list[Path], classes: list[str] | None, truth: str
) -> tuple[list[Path], np.ndarray | None]:
    """Labels from labels.csv (file,label) or from class folders; folders named by numbers are those classes.

    Where `truth` is "text", or "any" and labels.csv lists words that no labels file orders, they stay as they are.
    """
    table = path / "labels.csv"
    if truth == "maps":
        raise LabelsError(f"{path} holds images, and class maps lie in no folder", "save images and y in one .npz")
    if table.is_file():
        named = _table(path, table)
    elif truth == "boxes" or all(image.parent == path for image in images):
        return images, None
    elif all(image.parent != path for image in images):
        named = [(image, image.relative_to(path).parts[0]) for image in images]
    else:
        loose = next(image.name for image in images if image.parent == path)
        raise LabelsError(
            f"{path} holds images in folders, and others such as {loose} beside them",
            "class folders hold all of the images, or none",
        )
    if not named:
        raise NoSamples(f"{table} names no images", "each line is file,label")
    images, words = [image for image, _ in named], [label for _, label in named]
    if truth == "boxes":
        return images, None
    unordered = classes is None and table.is_file() and not all(word.isdecimal() for word in words)
    if truth == "text" or (truth == "any" and unordered):
        return images, np.array(words)
    return images, class_indices(words, classes, str(path))


def _table(path: Path, table: Path) -> list[tuple[Path, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row and not row[0].startswith("#")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{table} cannot be read: {error}", "each line is file,label") from error
    if rows and Path(rows[0][0]).suffix.lower() not in IMAGE_SUFFIXES:
        rows = rows[1:]
    named = []
    for row in rows:
        if len(row) < 2 or not (path / row[0]).is_file():
            raise LabelsError(f"{table}: no image {row[0]!r}", "each line is file,label")
        named.append((path / row[0], row[1].strip()))
    return named


def class_indices(labels: list[str], classes: list[str] | None, where: str) -> np.ndarray:
    """Class numbers: the labels themselves if they are numbers, else places in `classes` or in sorted order."""
    if classes is None and all(label.isdecimal() for label in labels):
        return np.array([int(label) for label in labels], np.int64)
    order = classes if classes is not None else sorted(set(labels))
    places = {name: index for index, name in enumerate(order)}
    unknown = sorted({label for label in labels if label not in places and not label.isdecimal()})
    if unknown:
        raise LabelsError(f"{where}: class {unknown[0]!r} is not in the labels file", "one class a line, in order")
    return np.array([places[label] if label in places else int(label) for label in labels], np.int64)


def read_classes(path: Path) -> list[str]:
    """Class names, one a line."""
    names = [line.strip() for line in _text(path).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise LabelsError(f"{path} holds no class names", "it should hold one class name a line")
    return names


def read_characters(path: Path) -> list[str]:
    """Characters, one a line; a space is one, too."""
    return [line.removesuffix("\r") for line in _text(path).removesuffix("\n").split("\n")]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path} cannot be read", "it should hold one class name a line") from error


def check_labels(labels: np.ndarray | None, count: int, where: str, truth: str) -> np.ndarray | None:
    """The labels of `count` rows, as `truth` wants them.

    Raises:
        LabelsError: they are too few, too many, or of another kind.
    """
    if labels is None or truth == "boxes":
        return None
    labels = np.asarray(labels)
    if labels.shape[:1] != (count,):
        raise LabelsError(
            f"{where}: {labels.shape[0] if labels.ndim else 0} labels for {count} samples", "y holds one label a sample"
        )
    if truth == "any":
        return labels
    whole = np.issubdtype(labels.dtype, np.integer)
    if truth == "maps":
        if labels.ndim == 4 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.ndim != 3 or not whole:
            raise LabelsError(
                f"{where}: y should be whole numbers [n, height, width], is {labels.dtype} {labels.shape}",
                "miou is for maps of classes, 255 for pixels that do not count",
            )
        return labels
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if truth == "text":
        if labels.ndim != 1 or labels.dtype.kind != "U":
            raise LabelsError(
                f"{where}: y should be one text a sample, is {labels.dtype} {labels.shape}",
                "cer and wer are for text, such as np.array(['one', 'two'])",
            )
        return labels
    if labels.ndim != 1 or not whole:
        raise LabelsError(
            f"{where}: y should be one whole number a sample, is {labels.dtype} {labels.shape}",
            "give class numbers, not names or scores; --metric cer takes texts, miou maps, module:function anything",
        )
    return labels.astype(np.int64)
