"""Labels of each kind: class numbers, texts, class maps, anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepack.data import preprocess
from edgepack.data.labels import read_characters
from edgepack.data.reading import read
from edgepack.data.samples import Samples, subset
from edgepack.errors import LabelsError
from tests import models

MLP = models.in_edgepack(models.mlp())
CONVNET = models.in_edgepack(models.convnet())
SPEC = preprocess.read("unit,size=16x16")
X = models.random((3, 8))


def labelled(folder: Path, y: np.ndarray, truth: str) -> np.ndarray | None:
    np.savez(folder / "a.npz", x=X, y=y)
    return read(folder / "a.npz", MLP, truth=truth).labels


def pictures(folder: Path, *names: str) -> Path:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (10 * shade, 20, 30)).save(folder / name)
    return folder


def of_pictures(folder: Path, truth: str, classes: list[str] | None = None) -> Samples:
    return read(folder, CONVNET, SPEC, classes, truth)


# --- y --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_texts(shape: tuple[int, ...], tmp_path: Path) -> None:
    found = labelled(tmp_path, np.array(["eins", "", "zwei drei"]).reshape(shape), "text")
    assert found is not None and found.tolist() == ["eins", "", "zwei drei"]


@pytest.mark.parametrize("y", [np.arange(3), np.zeros((3, 2, 2), int), np.array([["a", "b"]] * 3)])
def test_what_is_no_text(y: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="one text a sample"):
        labelled(tmp_path, y, "text")


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1, 4, 5)])
def test_maps(shape: tuple[int, ...], tmp_path: Path) -> None:
    found = labelled(tmp_path, np.full(shape, 255, np.uint8), "maps")
    assert found is not None and found.shape == (3, 4, 5) and found.dtype == np.uint8


@pytest.mark.parametrize("y", [np.arange(3), np.zeros((3, 2, 2)), np.array(["a", "b", "c"])])
def test_what_is_no_map(y: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"whole numbers \[n, height, width\]"):
        labelled(tmp_path, y, "maps")


@pytest.mark.parametrize("y", [np.arange(3), np.linspace(0, 1, 3), np.array(["a", "b", "c"]), np.zeros((3, 2))])
def test_anything_for_a_function_of_ones_own(y: np.ndarray, tmp_path: Path) -> None:
    found = labelled(tmp_path, y, "any")
    assert found is not None and found.tolist() == y.tolist()


def test_even_anything_is_one_a_sample(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="2 labels for 3 samples"):
        labelled(tmp_path, np.arange(2), "any")


def test_boxes_come_from_elsewhere(tmp_path: Path) -> None:
    assert labelled(tmp_path, np.arange(17), "boxes") is None


def test_text_where_classes_are_wanted_leads_to_a_metric(tmp_path: Path) -> None:
    with pytest.raises(LabelsError) as caught:
        labelled(tmp_path, np.array(["a", "b", "c"]), "classes")
    assert "--metric cer" in caught.value.hint


# --- image folders --------------------------------------------------------------------------------------


def test_texts_of_images_stand_in_labels_csv(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png", "c.png")
    (folder / "labels.csv").write_text('file,label\nb.png,"no, thanks"\na.png,17\n')
    samples = of_pictures(folder, "text")
    assert samples.labels is not None and samples.labels.tolist() == ["no, thanks", "17"]
    assert samples.names == ("b.png", "a.png")


def test_words_stay_words_for_a_function_of_ones_own(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png")
    (folder / "labels.csv").write_text("a.png,dog\nb.png,cat\n")
    words, numbers = of_pictures(folder, "any").labels, of_pictures(folder, "any", ["dog", "cat"]).labels
    assert words is not None and words.tolist() == ["dog", "cat"]
    assert numbers is not None and numbers.tolist() == [0, 1]


def test_folders_are_no_classes_where_boxes_are_judged(tmp_path: Path) -> None:
    samples = of_pictures(pictures(tmp_path, "one/a.png", "b.png"), "boxes")
    assert samples.labels is None
    assert samples.names == ("b.png", "one/a.png")


def test_maps_lie_in_no_folder(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="maps"):
        of_pictures(pictures(tmp_path, "a.png"), "maps")


def test_characters_may_be_spaces(tmp_path: Path) -> None:
    (tmp_path / "characters.txt").write_bytes("a\r\n\u3000\n \nb\n".encode())
    assert read_characters(tmp_path / "characters.txt") == ["a", "\u3000", " ", "b"]


# --- a part of the samples ------------------------------------------------------------------------------


def test_a_subset_keeps_feeds_labels_and_names_together(tmp_path: Path) -> None:
    folder = pictures(tmp_path, "a.png", "b.png", "c.png")
    (folder / "labels.csv").write_text("a.png,5\nb.png,6\nc.png,7\n")
    whole = of_pictures(folder, "classes")
    part = subset(whole, [2, 0])
    assert part.labels is not None and part.labels.tolist() == [7, 5]
    assert part.names == ("c.png", "a.png") and part.count == 2
    for mine, theirs in ((0, 2), (1, 0)):
        assert part.digest(mine) == whole.digest(theirs)
        assert np.array_equal(part.read(mine)["x"], whole.read(theirs)["x"])
        assert part.pixels is not None and whole.pixels is not None
        assert np.array_equal(part.pixels(mine), whole.pixels(theirs))


def test_a_subset_of_fixed_batches_keeps_the_labels_of_their_rows(tmp_path: Path) -> None:
    model = models.in_edgepack(models.convnet(batch=2))
    np.savez(tmp_path / "a.npz", x=models.images(6), y=np.arange(6))
    part = subset(read(tmp_path / "a.npz", model), [2, 0])
    assert part.labels is not None and part.labels.tolist() == [4, 5, 0, 1]
