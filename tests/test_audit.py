"""What the audit of samples warns of, and what it lets pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from edgepack.data import preprocess
from edgepack.data.audit import FEW, audit, refuse_overlap
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.errors import OverlapError, SamplesError
from edgepack.model import Model
from tests import models

CONVNET = models.in_edgepack(models.convnet())
MLP = models.in_edgepack(models.mlp())
UNIT = preprocess.read("unit,size=16x16")
PROPERTY = settings(max_examples=30, deadline=None, database=None)


def rows(path: Path, array: np.ndarray, model: Model = MLP) -> Samples:
    np.savez(path / "rows.npz", array)
    return read(path / "rows.npz", model)


def pixels(path: Path, array: np.ndarray) -> Samples:
    np.savez(path / "pixels.npz", array.astype(np.uint8))
    return read(path / "pixels.npz", CONVNET, UNIT)


def noise(count: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, (count, 16, 16, 3))


def token_model() -> Model:
    """An embedding: whole numbers in, floats out."""
    node = helper.make_node("Gather", ["table", "tokens"], ["z"])
    return models.in_edgepack(
        models.model(
            [node],
            {"tokens": ["N", 4]},
            {"z": ["N", 4, 8]},
            {"table": models.random((300, 8))},
            types={"tokens": TensorProto.INT64},
        )
    )


def test_good_samples_raise_no_warning(tmp_path: Path) -> None:
    assert audit(rows(tmp_path, models.random((64, 8))), MLP, "calibration") == []
    assert audit(rows(tmp_path, models.images(64), CONVNET), CONVNET, "calibration") == []
    assert audit(pixels(tmp_path, noise(64)), CONVNET, "calibration") == []


# --- few ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "words"), [(1, "only 1 calibration sample:"), (5, "only 5 calibration samples:")])
def test_few_calibration_samples(count: int, words: str, tmp_path: Path) -> None:
    (warning,) = audit(rows(tmp_path, models.random((count, 8))), MLP, "calibration")
    assert words in warning
    assert str(FEW) in warning


def test_enough_is_not_few(tmp_path: Path) -> None:
    assert audit(rows(tmp_path, models.random((FEW, 8))), MLP, "calibration") == []
    assert len(audit(rows(tmp_path, models.random((FEW - 1, 8))), MLP, "calibration")) == 1


def test_few_evaluation_samples_say_so_themselves(tmp_path: Path) -> None:
    """The standard error of the drop tells, so the audit does not."""
    assert audit(rows(tmp_path, models.random((5, 8))), MLP, "evaluation") == []


# --- duplicates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["calibration", "evaluation"])
def test_duplicates_are_counted(role: str, tmp_path: Path) -> None:
    array = models.random((40, 8))
    array[[7, 9, 30]] = array[3]
    (warning,) = audit(rows(tmp_path, array), MLP, role)
    assert warning == f"3 of 40 {role} samples are duplicates"


def test_duplicate_pictures_under_other_names(tmp_path: Path) -> None:
    images = noise(40).astype(np.uint8)
    for index, image in enumerate([*images, images[0]]):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    (warning,) = audit(read(tmp_path, CONVNET, UNIT), CONVNET, "calibration")
    assert warning == "1 of 41 calibration samples are duplicates"


# --- constant -------------------------------------------------------------------------------------------


def test_constant_samples_are_counted(tmp_path: Path) -> None:
    array = models.random((40, 8))
    array[5], array[6] = 0.0, 1.5
    (warning,) = audit(rows(tmp_path, array), MLP, "calibration")
    assert warning.startswith("2 of 40 calibration samples looked at are constant")


def test_a_black_picture_is_constant(tmp_path: Path) -> None:
    images = noise(40)
    images[3] = 0
    (warning,) = audit(pixels(tmp_path, images), CONVNET, "calibration")
    assert warning.startswith("1 of 40 calibration samples looked at are constant")


def test_one_number_a_sample_is_not_constant(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["z"])
    model = models.in_edgepack(models.model([node], {"x": ["N", 1]}, {"z": ["N", 1]}))
    assert audit(rows(tmp_path, models.random((40, 1)), model), model, "calibration") == []


def test_whole_numbers_may_repeat_within_a_sample(tmp_path: Path) -> None:
    model = token_model()
    tokens = np.repeat(np.arange(40)[:, None], 4, axis=1)
    assert audit(rows(tmp_path, tokens, model), model, "calibration") == []


# --- ranges ---------------------------------------------------------------------------------------------


def test_raw_pixels_for_a_float_model(tmp_path: Path) -> None:
    array = noise(40).transpose(0, 3, 1, 2).astype(np.float32)
    (warning,) = audit(rows(tmp_path, array, CONVNET), CONVNET, "calibration")
    assert "raw pixels" in warning
    assert warning.startswith("x spans 0 to 255")


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -128.0), (1.0, 1.0), (1 / 255, 0.0), (90 / 255, 0.0)])
def test_other_ranges_are_the_user_s_business(scale: float, shift: float, tmp_path: Path) -> None:
    array = noise(40).transpose(0, 3, 1, 2).astype(np.float32) * scale + shift
    assert audit(rows(tmp_path, array, CONVNET), CONVNET, "calibration") == []


def test_large_values_that_are_no_images(tmp_path: Path) -> None:
    array = np.abs(models.random((40, 8), scale=60)).clip(0, 255)
    assert audit(rows(tmp_path, array), MLP, "calibration") == []


def test_token_numbers_are_no_pixels(tmp_path: Path) -> None:
    model = token_model()
    tokens = np.random.default_rng(0).integers(0, 255, (40, 4))
    assert audit(rows(tmp_path, tokens, model), model, "calibration") == []


def test_pictures_that_are_already_scaled(tmp_path: Path) -> None:
    """Pixels of 0 and 1 divided by 255 once more."""
    (warning,) = audit(pixels(tmp_path, noise(40, high=2)), CONVNET, "evaluation")
    assert "already scaled" in warning
    assert warning.startswith("x spans 0 to 0.00392 of the 0 to 1")


def test_pictures_that_use_less_than_a_tenth_of_the_range(tmp_path: Path) -> None:
    (warning,) = audit(pixels(tmp_path, noise(40, high=20)), CONVNET, "calibration")
    assert "are the images dark" in warning


def test_dark_pictures_are_fine_while_they_use_a_tenth_of_the_range(tmp_path: Path) -> None:
    assert audit(pixels(tmp_path, noise(40, high=30)), CONVNET, "calibration") == []


def test_warnings_add_up(tmp_path: Path) -> None:
    images = noise(6, high=2)
    images[0] = images[1]
    images[2] = 0
    assert len(audit(pixels(tmp_path, images), CONVNET, "calibration")) == 4


# --- NaN ------------------------------------------------------------------------------------------------


@PROPERTY
@given(
    st.integers(1, 200),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.sampled_from(["calibration", "evaluation"]),
)
def test_no_number_is_refused_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, count: int, place: float, value: float, role: str
) -> None:
    array = models.random((count, 8))
    index = int(place * count)
    array[index, 3] = value
    with pytest.raises(SamplesError, match=f"{role} sample {index} "):
        audit(rows(tmp_path_factory.getbasetemp(), array), MLP, role)


def test_a_sample_of_nothing_but_nan(tmp_path: Path) -> None:
    array = models.random((4, 8))
    array[2] = np.nan
    with pytest.raises(SamplesError, match="NaN or infinity in x"):
        audit(rows(tmp_path, array), MLP, "evaluation")


# --- overlap --------------------------------------------------------------------------------------------


def archive(path: Path, array: np.ndarray) -> Samples:
    np.savez(path, x=array)
    return read(path, MLP)


def test_overlap_is_found_with_both_places(tmp_path: Path) -> None:
    array = models.random((20, 8))
    calibration = archive(tmp_path / "calib.npz", array[:10])
    evaluation = archive(tmp_path / "eval.npz", array[[15, 16, 7, 3]])
    with pytest.raises(OverlapError, match=r"sample 2 of .*eval\.npz is sample 7 of .*calib\.npz"):
        refuse_overlap(calibration, evaluation)


def test_no_overlap_passes(tmp_path: Path) -> None:
    array = models.random((20, 8))
    refuse_overlap(archive(tmp_path / "calib.npz", array[:10]), archive(tmp_path / "eval.npz", array[10:]))


def test_overlap_is_found_between_files_and_arrays(tmp_path: Path) -> None:
    images = noise(5).astype(np.uint8)
    (tmp_path / "files").mkdir()
    Image.fromarray(images[3]).save(tmp_path / "files" / "renamed.png")
    with pytest.raises(OverlapError, match=r"sample 0 of .*files is sample 3 of"):
        refuse_overlap(pixels(tmp_path, images), read(tmp_path / "files", CONVNET, UNIT))


def test_a_set_overlaps_with_itself(tmp_path: Path) -> None:
    samples = archive(tmp_path / "a.npz", models.random((4, 8)))
    with pytest.raises(OverlapError):
        refuse_overlap(samples, samples)
