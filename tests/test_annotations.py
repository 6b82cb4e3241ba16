"""Boxes from COCO and YOLO files, matched to samples and moved as their images are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepack.data import preprocess
from edgepack.data.annotations import attach, image_size
from edgepack.data.reading import read
from edgepack.data.samples import Boxes, Samples
from edgepack.errors import LabelsError
from tests import models

CONVNET = models.in_edgepack(models.convnet(size=32))


def photos(folder: Path, sizes: dict[str, tuple[int, int]], how: str = "unit,size=32x32") -> Samples:
    """Images of the heights and widths given, in a folder."""
    for shade, (name, (height, width)) in enumerate(sizes.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), (shade, 100, 200)).save(folder / name)
    return read(folder, CONVNET, preprocess.read(how), truth="boxes")


def tensors(folder: Path, count: int = 2) -> Samples:
    np.savez(folder / "eval.npz", x=models.images(count, size=32))
    return read(folder / "eval.npz", CONVNET, truth="boxes")


def coco(folder: Path, images: list[dict[str, Any]], rows: list[tuple[int, int, list[float]]], **more: Any) -> Path:
    annotations = [{"image_id": image, "category_id": category, "bbox": box} for image, category, box in rows]
    categories = [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}]
    data = {"images": images, "annotations": annotations, "categories": categories, **more}
    (folder / "boxes.json").write_text(json.dumps(data))
    return folder / "boxes.json"


def of(samples: Samples) -> tuple[Boxes, ...]:
    assert samples.boxes is not None
    return samples.boxes


# --- COCO -----------------------------------------------------------------------------------------------


def test_coco_by_file_name(tmp_path: Path) -> None:
    samples = photos(tmp_path / "photos", {"b.png": (32, 32), "a.png": (32, 32)})
    images = [{"id": 9, "file_name": "b.png"}, {"id": 4, "file_name": "val/a.png"}, {"id": 5, "file_name": "c.png"}]
    rows = [(4, 17, [1.0, 2, 3, 4]), (4, 3, [5.0, 6, 7, 8]), (9, 17, [0.0, 0, 32, 32])]
    a, b = of(attach(samples, coco(tmp_path, images, rows)))
    assert a.boxes.tolist() == [[1, 2, 4, 6], [5, 6, 12, 14]]
    assert (a.classes.tolist(), a.ids.tolist()) == ([1, 0], [17, 3])
    assert b.boxes.tolist() == [[0, 0, 32, 32]] and not b.crowd.any()


def test_coco_by_path_where_names_repeat(tmp_path: Path) -> None:
    samples = photos(tmp_path / "photos", {"one/a.png": (32, 32), "two/a.png": (32, 32)})
    images = [{"id": 1, "file_name": "two/a.png"}, {"id": 2, "file_name": "one/a.png"}]
    one, two = of(attach(samples, coco(tmp_path, images, [(2, 3, [1, 1, 2, 2])])))
    assert len(one.boxes) == 1 and len(two.boxes) == 0
    images = [{"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "y/a.png"}]
    with pytest.raises(LabelsError, match=r"lists no image one/a\.png"):
        attach(samples, coco(tmp_path, images, [(2, 3, [1, 1, 2, 2])]))


def test_coco_in_the_order_of_image_ids(tmp_path: Path) -> None:
    images = [{"id": 20, "width": 32, "height": 32}, {"id": 3}]
    first, second = of(attach(tensors(tmp_path), coco(tmp_path, images, [(20, 3, [1, 1, 2, 2])])))
    assert len(first.boxes) == 0 and second.boxes.tolist() == [[1, 1, 3, 3]]


def test_categories_in_the_order_of_the_labels_file(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"id": 1}, {"id": 2}], [(1, 17, [1, 1, 2, 2]), (1, 3, [1, 1, 2, 2])])
    assert of(attach(tensors(tmp_path), path, ["bird", "dog", "cat"]))[0].classes.tolist() == [1, 2]
    with pytest.raises(LabelsError, match="category 'cat' is not in the labels file"):
        attach(tensors(tmp_path), path, ["dog"])


def test_crowds(tmp_path: Path) -> None:
    path = coco(tmp_path, [{"id": 1}, {"id": 2}], [(1, 3, [1, 1, 2, 2])])
    data = json.loads(path.read_text())
    data["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(data))
    assert of(attach(tensors(tmp_path), path))[0].crowd.tolist() == [True]


# --- YOLO -----------------------------------------------------------------------------------------------


def yolo(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_yolo_by_file_name(tmp_path: Path) -> None:
    samples = photos(tmp_path / "photos", {"a.png": (32, 32), "b.png": (32, 32)})
    a, b = of(attach(samples, yolo(tmp_path / "txt", a="2 0.5 0.5 0.25 0.5\n\n0 0.5 0.5 1 1\n", classes="cat\ndog\n")))
    assert a.boxes.tolist() == [[12, 8, 20, 24], [0, 0, 32, 32]] and a.classes.tolist() == [2, 0]
    assert b.boxes.shape == (0, 4)


def test_yolo_in_the_order_of_names(tmp_path: Path) -> None:
    first, second = of(attach(tensors(tmp_path), yolo(tmp_path / "txt", b="", a="1 0.5 0.5 0.5 0.5\n")))
    assert first.boxes.tolist() == [[8, 8, 24, 24]] and len(second.boxes) == 0


# --- coordinates ----------------------------------------------------------------------------------------


def test_boxes_are_stretched_with_their_image(tmp_path: Path) -> None:
    samples = photos(tmp_path / "photos", {"a.png": (64, 16)})
    images = [{"id": 1, "file_name": "a.png", "height": 64, "width": 16}]
    assert of(attach(samples, coco(tmp_path, images, [(1, 3, [4, 8, 4, 8])])))[0].boxes.tolist() == [[8, 4, 16, 8]]


def test_boxes_follow_into_the_letterbox(tmp_path: Path) -> None:
    """What is drawn on the image is where the box is in the tensor."""
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[8:24, 20:60] = 255
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    spec = preprocess.read("unit,size=32x32,resize=letterbox,fill=0,filter=nearest")
    samples = read(tmp_path / "photos", CONVNET, spec, truth="boxes")
    path = coco(tmp_path, [{"id": 1, "file_name": "a.png"}], [(1, 3, [20, 8, 40, 16])])
    x0, y0, x1, y1 = of(attach(samples, path))[0].boxes[0]
    rows, columns = np.nonzero(samples.read(0)["x"][0, 0] > 0.5)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx([x0, y0, x1, y1], abs=0.6)


def test_a_crop_cuts_boxes_off(tmp_path: Path) -> None:
    samples = photos(tmp_path / "photos", {"a.png": (64, 48)}, "unit,size=32x32,resize=crop")
    with pytest.raises(LabelsError, match="crop"):
        attach(samples, coco(tmp_path, [{"id": 1, "file_name": "a.png"}], [(1, 3, [4, 8, 4, 8])]))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 3, 20, 30), (20, 30)), ((1, 20, 30, 3), (20, 30)), ((1, 8, 20, 30), (20, 30)), ((1, 20), None)],
)
def test_the_size_of_an_input(shape: tuple[int, ...], size: tuple[int, int] | None, tmp_path: Path) -> None:
    assert image_size({"x": np.zeros(shape)}, tensors(tmp_path)) == size


# --- what does not fit ----------------------------------------------------------------------------------

IMAGES = [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is no COCO file"),
        ("[]", "is no COCO file"),
        ('{"images": []}', "is no COCO file: KeyError 'annotations'"),
        (
            json.dumps({"images": IMAGES, "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2]}]}),
            "is no COCO file: ValueError",
        ),
        (json.dumps({"images": IMAGES[:1], "annotations": []}), "lists 1 images, "),
        (json.dumps({"images": IMAGES, "annotations": []}), "holds no boxes for"),
        (
            json.dumps({
                "images": [{"id": 1, "height": 480, "width": 640}, {"id": 2}],
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
            }),
            "said to be 480×640 (height × width), and is 32×32",
        ),
    ],
)  # fmt: skip
def test_a_coco_file_that_does_not_fit(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(LabelsError) as caught:
        attach(tensors(tmp_path), tmp_path / "boxes.json")
    assert message in caught.value.message and caught.value.hint


def test_boxes_for_what_is_no_image(tmp_path: Path) -> None:
    """Features, for instance: pixels of the input are known to the annotations alone."""
    model = models.in_edgepack(models.mlp())
    np.savez(tmp_path / "eval.npz", x=models.random((2, 8)))
    samples = read(tmp_path / "eval.npz", model, truth="boxes")
    path = coco(tmp_path, [{"id": 1, "width": 640, "height": 480}, {"id": 2}], [(1, 3, [1, 1, 2, 2])])
    assert of(attach(samples, path))[0].boxes.tolist() == [[1, 1, 3, 3]]
    with pytest.raises(LabelsError, match="is relative to an image"):
        attach(samples, yolo(tmp_path / "txt", a="1 0.5 0.5 0.5 0.5\n", b=""))


def test_no_such_annotations(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"nope\.json cannot be read"):
        attach(tensors(tmp_path), tmp_path / "nope.json")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "1 0.5 0.5 0.5\n", "b": ""}, "a.txt is no YOLO file"),
        ({"a": "1 20 30 5 5\n", "b": ""}, "a.txt is no YOLO file"),
        ({"a": "dog 0.5 0.5 0.5 0.5\n", "b": ""}, "a.txt is no YOLO file"),
        ({"a": ""}, "holds 1 .txt files"),
        ({}, "holds no .txt files"),
        ({"a": "", "b": ""}, "holds no boxes"),
    ],
)
def test_yolo_files_that_do_not_fit(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        attach(tensors(tmp_path), yolo(tmp_path / "txt", **files))
    assert message in caught.value.message and caught.value.hint
