"""--annotations: boxes from COCO JSON or YOLO text files, brought to the coordinates of the model's input."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgepack.data.samples import Boxes, Feed, Samples
from edgepack.errors import LabelsError

_EMPTY = np.zeros((0, 4))


def attach(samples: Samples, path: Path, classes: Sequence[str] | None = None) -> Samples:
    """The samples with the boxes that `path` gives them.

    1. A COCO file is matched to image folders by file name, to a .npz in the order of its image ids. Categories
       become classes in the order of their ids, or by name where --labels orders the names.
    2. A folder of YOLO files (class, centre, width and height, relative to the image) is matched by file name, to
       a .npz in their order by name. An image without a file shows nothing.
    3. Boxes of images are moved and scaled as the preprocessing does with the image. Those of a .npz that is ready
       for the model must be in pixels of its input already.

    Raises:
        LabelsError: the annotations cannot be read, or do not fit the samples.
    """
    found = _yolo(samples, path) if path.is_dir() else _coco(samples, path, classes)
    if not any(len(boxes.boxes) for boxes in found):
        raise LabelsError(f"{path} holds no boxes for {samples.source}", "are they of the same images?")
    return replace(samples, boxes=tuple(found))


# --- COCO -----------------------------------------------------------------------------------------------


def _coco(samples: Samples, path: Path, classes: Sequence[str] | None) -> list[Boxes]:
    """https://cocodataset.org/#format-data: `bbox` is x, y, width, height in pixels of the image."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = {int(image["id"]): image for image in data["images"]}
        numbers = _class_numbers(data, classes, path)
        parts: dict[int, list[tuple[list[float], int, int, bool]]] = defaultdict(list)
        for one in data["annotations"]:
            x, y, width, height = (float(number) for number in one["bbox"])
            category = int(one["category_id"])
            crowd = bool(one.get("iscrowd", 0))
            parts[int(one["image_id"])].append(([x, y, x + width, y + height], numbers[category], category, crowd))
    except OSError as error:
        raise LabelsError(f"{path} cannot be read", "give a COCO JSON file or a folder of YOLO .txt files") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LabelsError(
            f"{path} is no COCO file: {type(error).__name__} {error}",
            "it should hold images, annotations with image_id, category_id and bbox, and categories",
        ) from error
    boxes = []
    for index, number in enumerate(_image_order(samples, path, images)):
        image, rows = images[number], parts[number]
        said = (image.get("height"), image.get("width"))
        corners = np.array([row[0] for row in rows], np.float64).reshape(-1, 4)
        boxes.append(
            Boxes(
                boxes=_to_input(samples, index, corners, said if None not in said else None, path),
                classes=np.array([row[1] for row in rows], np.int64),
                ids=np.array([row[2] for row in rows], np.int64),
                crowd=np.array([row[3] for row in rows], bool),
            )
        )
    return boxes


def _class_numbers(data: dict[str, Any], classes: Sequence[str] | None, path: Path) -> dict[int, int]:
    """The class of each category id."""
    if "categories" not in data:
        ids = {int(one["category_id"]) for one in data["annotations"]}
        return {number: place for place, number in enumerate(sorted(ids))}
    names = {int(category["id"]): str(category.get("name", "")) for category in data["categories"]}
    if classes is None:
        return {number: place for place, number in enumerate(sorted(names))}
    unknown = [name for name in names.values() if name not in classes]
    if unknown:
        raise LabelsError(f"{path}: category {unknown[0]!r} is not in the labels file", "one class a line, in order")
    return {number: list(classes).index(name) for number, name in names.items()}


def _image_order(samples: Samples, path: Path, images: dict[int, dict[str, Any]]) -> list[int]:
    """The image id of each sample."""
    if samples.names is None:
        if len(images) != samples.count:
            raise LabelsError(
                f"{path} lists {len(images)} images, {samples.source} holds {samples.count} samples",
                "they are matched in the order of the image ids",
            )
        return sorted(images)
    by_path = {str(PurePosixPath(image.get("file_name", ""))): number for number, image in images.items()}
    by_name = {PurePosixPath(file).name: number for file, number in by_path.items()}
    ambiguous = len(by_name) < len(by_path)
    order = []
    for name in samples.names:
        number = by_path.get(name)
        if number is None and not ambiguous:
            number = by_name.get(PurePosixPath(name).name)
        if number is None:
            raise LabelsError(f"{path} lists no image {name}", "an image that shows nothing is listed, too")
        order.append(number)
    return order


# --- YOLO -----------------------------------------------------------------------------------------------


def _yolo(samples: Samples, path: Path) -> list[Boxes]:
    files = {file.relative_to(path).with_suffix("").as_posix(): file for file in sorted(path.rglob("*.txt"))}
    files.pop("classes", None)  # label tools leave the names of the classes there
    if not files:
        raise LabelsError(f"{path} holds no .txt files", "one an image: class, centre x, centre y, width, height")
    matched: list[Path | None]
    if samples.names is None:
        if len(files) != samples.count:
            raise LabelsError(
                f"{path} holds {len(files)} .txt files, {samples.source} {samples.count} samples",
                "they are matched in the order of their names",
            )
        matched = list(files.values())
    else:
        flat = {PurePosixPath(name).name: file for name, file in files.items()}
        unique = len(flat) == len(files)
        matched = []
        for name in samples.names:
            stem = PurePosixPath(name).with_suffix("")
            matched.append(files.get(stem.as_posix()) or (flat.get(stem.name) if unique else None))
    return [_yolo_file(samples, index, file) for index, file in enumerate(matched)]


def _yolo_file(samples: Samples, index: int, file: Path | None) -> Boxes:
    rows = np.zeros((0, 5))
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()] if file is not None else []
        if any(lines):
            rows = np.array([line for line in lines if line], np.float64)
        if rows.ndim != 2 or rows.shape[1] != 5 or not ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all():
            raise ValueError
    except (OSError, ValueError) as error:
        raise LabelsError(
            f"{file} is no YOLO file", "each line is class, centre x, centre y, width, height, from 0 to 1"
        ) from error
    size = _source_size(samples, index)
    if size is None:
        raise LabelsError(
            f"{file} is relative to an image, and {samples.source} holds none of four axes",
            "give a COCO file with boxes in pixels of the model's input",
        )
    height, width = size
    x, y, w, h = (rows[:, 1:] * np.array([width, height, width, height])).T
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    classes = rows[:, 0].astype(np.int64)
    return Boxes(
        boxes=_to_input(samples, index, corners, None, file),
        classes=classes,
        ids=classes,
        crowd=np.zeros(len(rows), bool),
    )


# --- coordinates ----------------------------------------------------------------------------------------


def _source_size(samples: Samples, index: int) -> tuple[int, int] | None:
    """Height and width of what was annotated: the image before preprocessing, else the model's input, if an image."""
    if samples.pixels is not None:
        height, width = samples.pixels(index).shape[:2]
        return int(height), int(width)
    return image_size(samples.read(index), samples)


def image_size(feed: Feed, samples: Samples) -> tuple[int, int] | None:
    """Height and width of the first input of four axes, by the preprocessing's layout or the place of channels."""
    for array in feed.values():
        if array.ndim == 4:
            spec = samples.spec
            last = spec["layout"] == "nhwc" if spec is not None else array.shape[1] > 4 >= array.shape[3]
            return (array.shape[1], array.shape[2]) if last else (array.shape[2], array.shape[3])
    return None


def _to_input(
    samples: Samples, index: int, boxes: np.ndarray, said: tuple[Any, Any] | None, where: Path | None
) -> np.ndarray:
    """Boxes [n, 4] of the source as boxes of the model's input; `said` is the source's size by the annotations."""
    size = _source_size(samples, index)
    if size is None:
        return boxes
    height, width = size
    if said is not None and said != size:
        raise LabelsError(
            f"{where}: image {index} is said to be {said[0]}×{said[1]} (height × width), and is {height}×{width}",
            "scale the boxes with the image; for images as they were annotated, give a folder and --preprocess",
        )
    spec = samples.spec
    if spec is None or spec["size"] is None:
        return boxes
    tall, wide = spec["size"]
    if spec["resize"] == "crop":
        raise LabelsError(
            "a centre crop cuts boxes off, so they cannot be judged", "take resize=letterbox or resize=stretch"
        )
    top = left = 0
    if spec["resize"] == "letterbox":
        ratio = min(tall / height, wide / width)
        inner = [max(1, round(side * ratio)) for side in (height, width)]
        top, left = (tall - inner[0]) // 2, (wide - inner[1]) // 2
        tall, wide = inner
    scale, shift = np.tile([wide / width, tall / height], 2), np.tile([left, top], 2)
    return np.asarray(boxes * scale + shift)
