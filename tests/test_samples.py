"""Samples: what files and folders hold, and the feeds that come out of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from edgepack.data import preprocess
from edgepack.data.labels import read_classes
from edgepack.data.preprocess import Spec
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.errors import EdgepackError, LabelsError, NoSamples, SamplesError, UnreadableSample
from edgepack.model import Model
from tests import models

CONVNET = models.in_edgepack(models.convnet())
MLP = models.in_edgepack(models.mlp())
UNIT = preprocess.read("unit,size=16x16")
PROPERTY = settings(max_examples=60, deadline=None, database=None)


def pictures(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """uint8 [count, size, size, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def save_pictures(folder: Path, names: list[str], pixels: np.ndarray) -> Path:
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def add_model(shape: list[int | str], other: list[int | str]) -> Model:
    """Two inputs, a and b, and their sum."""
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    return models.in_edgepack(models.model([node], {"a": shape, "b": other}, {"sum": shape}))


def numbers(samples: Samples) -> list[int]:
    assert samples.labels is not None
    return [int(label) for label in samples.labels]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path


# --- .npz -----------------------------------------------------------------------------------------------


def test_npz_rows_become_feeds_with_a_batch_axis(here: Path) -> None:
    array = models.images(5)
    samples = read(npz(here / "a.npz", x=array, y=np.arange(5)), CONVNET)
    assert len(samples) == 5
    for index in range(5):
        assert np.array_equal(samples.read(index)["x"], array[index : index + 1])
    assert numbers(samples) == [0, 1, 2, 3, 4]


def test_npz_of_whole_feeds(here: Path) -> None:
    array = models.random((5, 3, 8))
    samples = read(npz(here / "a.npz", x=array), MLP)
    assert len(samples) == 5
    assert np.array_equal(samples.read(4)["x"], array[4])
    assert not samples.stackable


def test_npz_of_whole_feeds_for_a_model_without_a_batch_axis(here: Path) -> None:
    model = add_model([4], [4])
    a, b = models.random((3, 4), 1), models.random((3, 4), 2)
    samples = read(npz(here / "a.npz", a=a, b=b), model)
    assert len(samples) == 3
    assert np.array_equal(samples.read(2)["a"], a[2])


def test_npz_with_scalar_inputs(here: Path) -> None:
    model = add_model(["N", 4], [])
    a, b = models.random((3, 4), 1), models.random((3,), 2)
    samples = read(npz(here / "a.npz", a=a, b=b), model)
    feed = samples.read(1)
    assert len(samples) == 3
    assert feed["a"].shape == (1, 4)
    assert feed["b"].shape == ()
    assert feed["b"] == b[1]
    assert not samples.stackable


def test_lone_array_may_have_any_name(here: Path) -> None:
    array = models.images(2)
    samples = read(npz(here / "a.npz", anything=array, y=np.zeros(2, int)), CONVNET)
    assert np.array_equal(samples.read(1)["x"], array[1:])


def test_arrays_are_found_by_name_and_the_rest_is_left(here: Path) -> None:
    a, b = models.random((3, 4), 1), models.random((3, 4), 2)
    path = npz(here / "a.npz", extra=models.random((9,)), b=b, a=a)
    feed = read(path, add_model(["N", 4], ["N", 4])).read(2)
    assert set(feed) == {"a", "b"}
    assert np.array_equal(feed["a"], a[2:])
    assert np.array_equal(feed["b"], b[2:])


def test_an_input_called_y_is_no_label(here: Path) -> None:
    node = helper.make_node("Add", ["x", "y"], ["sum"])
    model = models.in_edgepack(models.model([node], {"x": ["N", 2], "y": ["N", 2]}, {"sum": ["N", 2]}))
    samples = read(npz(here / "a.npz", x=models.random((3, 2)), y=models.random((3, 2), 1)), model)
    assert samples.labels is None
    assert np.array_equal(samples.read(0)["y"], models.random((3, 2), 1)[:1])


def test_a_fixed_batch_takes_that_many_rows(here: Path) -> None:
    array = models.images(10)
    samples = read(npz(here / "a.npz", x=array), models.in_edgepack(models.convnet(batch=4)))
    assert len(samples) == 2
    assert np.array_equal(samples.read(1)["x"], array[4:8])
    assert not samples.stackable


def test_a_fixed_batch_pairs_rows_with_their_labels(here: Path) -> None:
    path = npz(here / "a.npz", x=models.images(8), y=np.arange(8))
    assert numbers(read(path, models.in_edgepack(models.convnet(batch=4)))) == list(range(8))


def test_rows_left_over_from_a_fixed_batch_leave_with_their_labels(here: Path) -> None:
    path = npz(here / "a.npz", x=models.images(10), y=np.arange(10))
    assert numbers(read(path, models.in_edgepack(models.convnet(batch=4)))) == list(range(8))


def test_less_than_a_fixed_batch_is_nothing(here: Path) -> None:
    with pytest.raises(NoSamples, match="4"):
        read(npz(here / "a.npz", x=models.images(3)), models.in_edgepack(models.convnet(batch=4)))


def test_labels_must_cover_every_row_of_whole_feeds(here: Path) -> None:
    """Two rows a feed are two answers a feed; five labels cannot judge ten answers."""
    with pytest.raises(LabelsError):
        read(npz(here / "a.npz", x=models.random((5, 2, 8)), y=np.zeros(5, int)), MLP)


def test_values_take_the_model_s_type(here: Path) -> None:
    samples = read(npz(here / "a.npz", x=models.random((3, 8)).astype(np.float64)), MLP)
    assert samples.read(0)["x"].dtype == np.float32


@pytest.mark.parametrize("shape", [(3, 3, 16, 17), (3, 4, 16, 16), (3, 16), (3, 1, 1, 3, 16, 16)])
def test_a_shape_that_does_not_fit_is_named(shape: tuple[int, ...], here: Path) -> None:
    with pytest.raises(SamplesError, match="x float32 N×3×16×16"):
        read(npz(here / "a.npz", x=np.zeros(shape, np.float32)), CONVNET)


def test_a_type_that_does_not_fit_is_named(here: Path) -> None:
    model = models.in_edgepack(
        models.model(
            [helper.make_node("Identity", ["x"], ["z"])],
            {"x": ["N", 2]},
            {"z": ["N", 2]},
            types={"x": TensorProto.INT64, "z": TensorProto.INT64},
        )
    )
    with pytest.raises(SamplesError, match="float32"):
        read(npz(here / "a.npz", x=models.random((3, 2))), model)


def test_inputs_with_different_counts_are_refused(here: Path) -> None:
    path = npz(here / "a.npz", a=models.random((3, 4)), b=models.random((2, 4)))
    with pytest.raises(SamplesError, match="a 3, b 2"):
        read(path, add_model(["N", 4], ["N", 4]))


def test_a_missing_input_is_named(here: Path) -> None:
    with pytest.raises(SamplesError, match="lacks the input b") as caught:
        read(npz(here / "a.npz", a=models.random((3, 4))), add_model(["N", 4], ["N", 4]))
    assert "it holds a" in caught.value.hint


@pytest.mark.parametrize("arrays", [{}, {"y": np.arange(3)}, {"x": np.zeros((0, 8), np.float32)}, {"x": np.float32(1)}])
def test_an_archive_without_samples(arrays: dict[str, np.ndarray], here: Path) -> None:
    with pytest.raises(NoSamples):
        read(npz(here / "a.npz", **arrays), MLP)


@pytest.mark.parametrize(
    "labels", [np.arange(4), np.arange(2), np.zeros(3), np.zeros((3, 10), int), np.int64(1), np.array(["a", "b", "c"])]
)
def test_labels_that_are_not_one_whole_number_a_sample(labels: np.ndarray, here: Path) -> None:
    with pytest.raises(LabelsError):
        read(npz(here / "a.npz", x=models.random((3, 8)), y=labels), MLP)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_labels_of_any_integer_type(dtype: type, shape: tuple[int, ...], here: Path) -> None:
    labels = np.array([2, 0, 1], dtype).reshape(shape)
    samples = read(npz(here / "a.npz", x=models.random((3, 8)), y=labels), MLP)
    assert numbers(samples) == [2, 0, 1]


# --- files that are damaged or not what their name says -------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("x, y\n" * 50)


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def a_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, models.random((3, 8)))


def a_npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=models.random((3, 8)))


def half_a_npz(path: Path) -> None:
    a_npz(path)
    path.write_bytes(path.read_bytes()[:150])


@pytest.mark.parametrize("write", [text_file, empty_file, a_npy, half_a_npz])
def test_npz_that_is_none_cannot_be_read(write: Callable[[Path], None], here: Path) -> None:
    write(here / "a.npz")
    with pytest.raises(UnreadableSample, match=r"a\.npz"):
        read(here / "a.npz", MLP)


@pytest.mark.parametrize("write", [text_file, empty_file, a_npz, half_a_npz])
def test_npy_that_is_none_cannot_be_read(write: Callable[[Path], None], here: Path) -> None:
    write(here / "a.npy")
    with pytest.raises(UnreadableSample, match=r"a\.npy"):
        read(here, MLP)


def test_objects_are_never_loaded(here: Path) -> None:
    with pytest.raises(SamplesError, match="Python objects"):
        read(npz(here / "a.npz", x=np.array([{"a": 1}], dtype=object)), MLP)


@settings(max_examples=150, deadline=None, database=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_a_damaged_archive_is_the_file_s_fault(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, packed: bool
) -> None:
    """Whatever byte is wrong, it is no bug of edgepack's."""
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    (np.savez_compressed if packed else np.savez)(path, x=models.random((3, 8)), y=np.arange(3))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)
    try:
        samples = read(path, MLP)
    except EdgepackError:
        return
    assert samples.read(0)["x"].shape == (1, 8)


@pytest.mark.parametrize("name", ["nothing.npz", "nothing"])
def test_what_is_not_there(name: str, here: Path) -> None:
    with pytest.raises(NoSamples, match="does not exist"):
        read(here / name, MLP)


@pytest.mark.parametrize("name", ["one.png", "one.npy", "one.csv", "one.h5"])
def test_files_that_hold_no_set_of_samples(name: str, here: Path) -> None:
    (here / name).write_bytes(b"anything")
    with pytest.raises(SamplesError, match=name):
        read(here / name, MLP)


# --- folders of arrays ----------------------------------------------------------------------------------


def test_folder_of_npy_with_and_without_the_batch_axis(here: Path) -> None:
    array = models.images(3)
    np.save(here / "b.npy", array[1])
    np.save(here / "a.npy", array[:1])
    (here / "deeper").mkdir()
    np.save(here / "deeper" / "c.npy", array[2])
    samples = read(here, CONVNET)
    assert len(samples) == 3
    assert np.array_equal(np.concatenate([feed["x"] for feed in samples]), array)


def test_folder_of_npz_with_several_inputs(here: Path) -> None:
    a, b = models.random((3, 4), 1), models.random((3,), 2)
    for index in range(3):
        npz(here / f"{index}.npz", a=a[index], b=b[index])
    samples = read(here, add_model(["N", 4], []))
    assert len(samples) == 3
    assert np.array_equal(samples.read(2)["a"], a[2:])
    assert samples.read(2)["b"] == b[2]


def test_folder_of_arrays_reads_only_what_is_asked_for(here: Path) -> None:
    np.save(here / "0.npy", models.random((8,)))
    np.save(here / "1.npy", models.random((8,), 1))
    text_file(here / "2.npy")
    samples = read(here, MLP)
    assert np.array_equal(samples.read(1)["x"][0], models.random((8,), 1))
    with pytest.raises(UnreadableSample, match=r"2\.npy"):
        samples.read(2)


def test_an_array_of_another_shape_is_named_by_its_file(here: Path) -> None:
    np.save(here / "0.npy", models.random((8,)))
    np.save(here / "odd.npy", models.random((9,)))
    with pytest.raises(SamplesError, match=r"odd\.npy"):
        read(here, MLP).read(1)


@pytest.mark.parametrize("names", [[], ["notes.txt"], [".hidden.npy"]])
def test_folder_without_samples(names: list[str], here: Path) -> None:
    for name in names:
        (here / name).write_bytes(b"")
    with pytest.raises(NoSamples):
        read(here, MLP)


def test_folder_of_arrays_and_images_is_refused(here: Path) -> None:
    np.save(here / "0.npy", models.random((8,)))
    save_pictures(here, ["1.png"], pictures(1))
    with pytest.raises(SamplesError, match="both"):
        read(here, CONVNET, UNIT)


# --- folders of images ----------------------------------------------------------------------------------


def test_images_are_preprocessed_one_by_one(here: Path) -> None:
    pixels = pictures(3)
    samples = read(save_pictures(here, ["b.png", "a.bmp", "C.PNG"], pixels), CONVNET, UNIT)
    assert len(samples) == 3
    assert samples.labels is None
    order = [2, 1, 0]
    for index in range(3):
        expected = pixels[order[index]].transpose(2, 0, 1)[None] / 255
        np.testing.assert_allclose(samples.read(index)["x"], expected, atol=1e-6)


def test_images_are_decoded_only_when_asked_for(here: Path) -> None:
    save_pictures(here, ["0.png", "1.png", "3.png"], pictures(3))
    (here / "2.png").write_bytes((here / "0.png").read_bytes()[:60])
    samples = read(here, CONVNET, UNIT)
    for index in (0, 1, 3):
        assert samples.read(index)["x"].shape == (1, 3, 16, 16)
    with pytest.raises(UnreadableSample, match=r"2\.png"):
        samples.read(2)


def test_images_need_to_know_how_they_become_tensors(here: Path) -> None:
    with pytest.raises(SamplesError, match="nothing says") as caught:
        read(save_pictures(here, ["0.png"], pictures(1)), CONVNET)
    assert "--preprocess" in caught.value.hint


@pytest.mark.parametrize("text", ["unit,size=8x8", "unit,size=16x16,color=gray", "unit,size=16x16,layout=nhwc"])
def test_preprocessing_that_does_not_fit_the_model(text: str, here: Path) -> None:
    with pytest.raises(SamplesError, match="N×3×16×16"):
        read(save_pictures(here, ["0.png"], pictures(1)), CONVNET, preprocess.read(text))


def test_images_for_a_model_that_takes_none(here: Path) -> None:
    with pytest.raises(SamplesError, match="four axes"):
        read(save_pictures(here, ["0.png"], pictures(1)), MLP, UNIT)


def uint8_model() -> Model:
    node = helper.make_node("Cast", ["x"], ["z"], to=TensorProto.FLOAT)
    shape = ["N", 3, 16, 16]
    return models.in_edgepack(models.model([node], {"x": shape}, {"z": shape}, types={"x": TensorProto.UINT8}))


def test_a_uint8_model_takes_pixels_as_they_are(here: Path) -> None:
    pixels = pictures(1)
    samples = read(save_pictures(here, ["0.png"], pixels), uint8_model(), preprocess.read("size=16x16,dtype=uint8"))
    assert samples.read(0)["x"].dtype == np.uint8
    assert np.array_equal(samples.read(0)["x"][0], pixels[0].transpose(2, 0, 1))


def test_normalized_pixels_are_not_cut_to_whole_numbers(here: Path) -> None:
    """0 to 1 as uint8 is black: that is a mistake in --preprocess, not an input."""
    with pytest.raises(EdgepackError, match="uint8"):
        read(save_pictures(here, ["0.png"], pictures(1)), uint8_model(), UNIT)


# --- class folders, labels.csv, the labels file ---------------------------------------------------------


def test_class_folders_are_classes_in_sorted_order(here: Path) -> None:
    save_pictures(here, ["dog/0.png", "cat/0.png", "dog/deep/1.png", "ant/0.png"], pictures(4))
    assert numbers(read(here, CONVNET, UNIT)) == [0, 1, 2, 2]


def test_class_folders_by_the_labels_file(here: Path) -> None:
    save_pictures(here, ["dog/0.png", "cat/0.png"], pictures(2))
    assert numbers(read(here, CONVNET, UNIT, ["zebra", "dog", "cat"])) == [2, 1]


def test_class_folders_named_by_numbers_are_those_numbers(here: Path) -> None:
    save_pictures(here, ["10/0.png", "2/0.png", "007/0.png"], pictures(3))
    assert numbers(read(here, CONVNET, UNIT)) == [7, 10, 2]


def test_numbers_stay_numbers_beside_a_labels_file(here: Path) -> None:
    save_pictures(here, ["0/0.png", "2/0.png"], pictures(2))
    assert numbers(read(here, CONVNET, UNIT, ["ant", "bee", "cat"])) == [0, 2]


def test_a_number_that_is_a_class_name_is_that_class(here: Path) -> None:
    save_pictures(here, ["3/0.png", "8/0.png"], pictures(2))
    assert numbers(read(here, CONVNET, UNIT, ["8", "3"])) == [1, 0]


def test_a_class_that_the_labels_file_lacks_is_named(here: Path) -> None:
    save_pictures(here, ["dog/0.png", "emu/0.png"], pictures(2))
    with pytest.raises(LabelsError, match="emu"):
        read(here, CONVNET, UNIT, ["cat", "dog"])


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints/0-checkpoint.png", ".thumbnails/0.png", ".trash/cat/0.png"])
def test_hidden_folders_are_no_classes(hidden: str, here: Path) -> None:
    save_pictures(here, [hidden, "cat/0.png", "dog/0.png"], pictures(3))
    samples = read(here, CONVNET, UNIT)
    assert len(samples) == 2
    assert numbers(samples) == [0, 1]


def csv_folder(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    save_pictures(folder, ["a.png", "b.png", "sub/c.png"], pictures(3))
    (folder / "labels.csv").write_text(text, encoding=encoding)
    return folder


@pytest.mark.parametrize("header", ["", "file,label\n", "# made by hand\n", "filename,class,split\n"])
def test_labels_csv_with_and_without_header(header: str, here: Path) -> None:
    csv_folder(here, f"{header}b.png,5\nsub/c.png, 7\na.png,1\n")
    samples = read(here, CONVNET, UNIT)
    assert numbers(samples) == [5, 7, 1]
    expected = [pictures(3)[index].transpose(2, 0, 1)[None] / 255 for index in (1, 2, 0)]
    np.testing.assert_allclose(np.concatenate([feed["x"] for feed in samples]), np.concatenate(expected), atol=1e-6)


def test_labels_csv_with_names(here: Path) -> None:
    csv_folder(here, "a.png,cat\nb.png,ant\n")
    assert numbers(read(here, CONVNET, UNIT)) == [1, 0]
    assert numbers(read(here, CONVNET, UNIT, ["bee", "cat", "ant"])) == [1, 2]


def test_labels_csv_goes_before_class_folders(here: Path) -> None:
    save_pictures(here, ["cat/0.png", "dog/0.png"], pictures(2))
    (here / "labels.csv").write_text("cat/0.png,4\ndog/0.png,6\n")
    assert numbers(read(here, CONVNET, UNIT)) == [4, 6]


def test_labels_csv_from_a_spreadsheet(here: Path) -> None:
    """Spreadsheets put a byte order mark first, which is no part of the first file's name."""
    csv_folder(here, "a.png,3\nb.png,4\nsub/c.png,5\n", encoding="utf-8-sig")
    assert numbers(read(here, CONVNET, UNIT)) == [3, 4, 5]


@pytest.mark.parametrize(
    "text", ["a.png,1\ngone.png,2\n", "gone.png,2\na.png,1\n", "a.png,1\nb.png\n", "file,label\na.png,1\n../a.png,2\n"]
)
def test_labels_csv_with_a_wrong_line(text: str, here: Path) -> None:
    with pytest.raises(LabelsError):
        read(csv_folder(here, text), CONVNET, UNIT)


@pytest.mark.parametrize("text", ["", "file,label\n"])
def test_labels_csv_without_lines(text: str, here: Path) -> None:
    with pytest.raises(NoSamples):
        read(csv_folder(here, text), CONVNET, UNIT)


def test_labels_csv_that_is_no_text(here: Path) -> None:
    csv_folder(here, "")
    (here / "labels.csv").write_bytes(b"\xff\xfe\x00a.png,1")
    with pytest.raises(LabelsError, match=r"labels\.csv"):
        read(here, CONVNET, UNIT)


def test_labels_file(here: Path) -> None:
    (here / "labels.txt").write_text("tench \ngoldfish\n\ngreat white shark\n\n\n", encoding="utf-8")
    assert read_classes(here / "labels.txt") == ["tench", "goldfish", "", "great white shark"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\xff"])
def test_labels_file_without_names(content: bytes, here: Path) -> None:
    (here / "labels.txt").write_bytes(content)
    with pytest.raises(LabelsError, match=r"labels\.txt"):
        read_classes(here / "labels.txt")


def test_labels_file_that_is_not_there(here: Path) -> None:
    with pytest.raises(LabelsError, match=r"labels\.txt"):
        read_classes(here / "labels.txt")


# --- arrays of pixels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["nhwc", "nchw"])
def test_arrays_of_pixels_in_either_layout(order: tuple[int, ...], here: Path) -> None:
    pixels = pictures(4)
    samples = read(npz(here / "a.npz", x=pixels.transpose(order), y=np.arange(4)), CONVNET, UNIT)
    expected = pixels.transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(np.concatenate([feed["x"] for feed in samples]), expected, atol=1e-6)
    assert numbers(samples) == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 16, 16, 1), (4, 1, 16, 16)])
def test_arrays_of_gray_pixels(shape: tuple[int, ...], here: Path) -> None:
    gray = np.ascontiguousarray(pictures(4)[:, :, :, 0])
    samples = read(npz(here / "a.npz", x=gray.reshape(shape)), CONVNET, UNIT)
    expected = np.repeat(gray[:, None], 3, axis=1) / 255
    np.testing.assert_allclose(np.concatenate([feed["x"] for feed in samples]), expected, atol=1e-6)


def test_arrays_of_pixels_are_resized_like_files(here: Path) -> None:
    pixels = pictures(2, size=29)
    files = read(save_pictures(here / "files", ["0.png", "1.png"], pixels), CONVNET, UNIT)
    array = read(npz(here / "a.npz", x=pixels), CONVNET, UNIT)
    for index in range(2):
        assert np.array_equal(files.read(index)["x"], array.read(index)["x"])


@pytest.mark.parametrize(
    "array", [models.images(2), pictures(2).astype(np.int64), pictures(2)[..., :2], pictures(2)[:, None]]
)
def test_arrays_that_are_no_pixels_are_refused(array: np.ndarray, here: Path) -> None:
    with pytest.raises(SamplesError):
        read(npz(here / "a.npz", x=array), CONVNET, UNIT)


# --- digests --------------------------------------------------------------------------------------------


def digests(samples: Samples) -> list[str]:
    return [samples.digest(index) for index in range(len(samples))]


def test_the_same_picture_under_two_names(here: Path) -> None:
    pixels = pictures(2)
    samples = read(save_pictures(here, ["a.png", "b.bmp", "c.png"], pixels[[0, 0, 1]]), CONVNET, UNIT)
    first, again, other = digests(samples)
    assert first == again != other


def test_the_same_picture_in_a_file_and_in_an_array(here: Path) -> None:
    pixels = pictures(3)
    files = read(save_pictures(here / "files", ["a.png", "b.png", "c.png"], pixels), CONVNET, UNIT)
    last = read(npz(here / "a.npz", x=pixels), CONVNET, UNIT)
    first = read(npz(here / "b.npz", x=pixels.transpose(0, 3, 1, 2)), CONVNET, UNIT)
    assert digests(files) == digests(last) == digests(first)


def test_the_same_gray_picture_with_and_without_a_channel_axis(here: Path) -> None:
    gray = np.ascontiguousarray(pictures(2)[:, :, :, 0])
    flat = read(npz(here / "a.npz", x=gray), CONVNET, UNIT)
    deep = read(npz(here / "b.npz", x=gray[..., None]), CONVNET, UNIT)
    assert digests(flat) == digests(deep)


def test_digest_is_of_the_picture_before_preprocessing(here: Path) -> None:
    save_pictures(here, ["a.png", "b.png"], pictures(2))
    assert digests(read(here, CONVNET, UNIT)) == digests(read(here, CONVNET, preprocess.read("imagenet,size=16x16")))


def test_the_same_row_in_an_archive_and_in_a_file(here: Path) -> None:
    array = models.random((2, 8))
    (here / "files").mkdir()
    for index in range(2):
        np.save(here / "files" / f"{index}.npy", array[index].astype(np.float64))
    assert digests(read(here / "files", MLP)) == digests(read(npz(here / "a.npz", x=array), MLP))


# --- batches --------------------------------------------------------------------------------------------


@PROPERTY
@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_hold_every_sample_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int
) -> None:
    array = models.random((count, 8))
    samples = read(npz(tmp_path_factory.getbasetemp() / "batches.npz", x=array), MLP)
    batches = [feed["x"] for feed in samples.batches(size)]
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert np.array_equal(np.concatenate(batches), np.concatenate([feed["x"] for feed in samples]))
    assert np.array_equal(np.concatenate(batches), array)


def test_first_is_at_most_all(here: Path) -> None:
    samples = read(npz(here / "a.npz", x=models.random((3, 8))), MLP)
    assert [len(samples.first(count)) for count in (0, 2, 9)] == [0, 2, 3]


@pytest.mark.parametrize(
    ("model", "spec", "stackable"),
    [
        (models.convnet(), UNIT, True),
        (models.convnet(), preprocess.read("unit"), False),
        (models.convnet(batch=1), UNIT, False),
    ],
    ids=["open batch", "images of their own size", "fixed batch"],
)
def test_images_are_joined_only_where_that_is_sure_to_work(
    model: object, spec: Spec, stackable: bool, here: Path
) -> None:
    samples = read(npz(here / "a.npz", x=pictures(20)), models.in_edgepack(model), spec)  # type: ignore[arg-type]
    assert samples.stackable is stackable
    assert samples.batch() == (16 if stackable else 1)


def test_a_model_whose_output_has_no_batch_axis_gets_samples_one_by_one(here: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)
    model = models.in_edgepack(models.model([node], {"x": ["N", 8]}, {"total": []}))
    samples = read(npz(here / "a.npz", x=models.random((4, 8))), model)
    assert not samples.stackable
    assert samples.batch() == 1


def test_large_samples_are_joined_less(here: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["z"])
    model = models.in_edgepack(models.model([node], {"x": ["N", 100_000]}, {"z": ["N", 100_000]}))
    samples = read(npz(here / "a.npz", x=np.zeros((4, 100_000), np.float32)), model)
    assert samples.stackable
    assert samples.batch() == 2


def test_a_loose_image_beside_class_folders_does_not_drop_the_labels(here: Path) -> None:
    save_pictures(here / "data", ["cat/a.png", "dog/b.png", "loose.png"], pictures(3))
    model = models.in_edgepack(models.convnet())
    with pytest.raises(LabelsError, match=r"loose\.png"):
        read(here / "data", model, preprocess.read("size=16x16"))
