"""Rows of a .npz that are read when asked for: equal to numpy's own, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.data.archive import StoredRows, load
from edgepack.data.reading import read
from edgepack.errors import EdgepackError
from tests import models


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.sampled_from(["float32", "uint8", "int64", "float16", "<U5", "bool", ">f4"]),
    st.integers(0, 10**6),
)
def test_rows_equal_those_of_the_whole_array(shape: list[int], dtype: str, seed: int) -> None:
    import tempfile

    array = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        np.savez(path, x=array, other=np.arange(3))
        found = load(path, smallest=0)["x"]
        assert isinstance(found, StoredRows)
        assert (len(found), found.shape, found.dtype, found.ndim) == (len(array), array.shape, array.dtype, array.ndim)
        for index in range(len(array)):
            np.testing.assert_array_equal(found[index], array[index])
        np.testing.assert_array_equal(found[1 : len(array)], array[1:])
        np.testing.assert_array_equal(found[:], array)


def test_small_compressed_and_fortran_arrays_are_read_at_once(tmp_path: Path) -> None:
    array = np.asfortranarray(models.random((8, 9)))
    np.savez(tmp_path / "plain.npz", x=array)
    np.savez_compressed(tmp_path / "packed.npz", x=np.ascontiguousarray(array))
    for name, smallest in (("plain", 0), ("packed", 0), ("plain", 10**6)):
        found = load(tmp_path / f"{name}.npz", smallest)["x"]
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, array)


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="Object arrays"):
        load(tmp_path / "evil.npz", 0)


def test_a_file_that_shrinks_is_no_silent_zero(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=models.random((100, 64)))
    found = load(tmp_path / "a.npz", 0)["x"]
    with (tmp_path / "a.npz").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(EOFError, match="cut off"):
        found[99]


def test_samples_are_the_same_either_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.in_edgepack(models.convnet())
    np.savez(tmp_path / "a.npz", x=models.images(20), y=np.arange(20) % 10)
    whole = read(tmp_path / "a.npz", model)
    monkeypatch.setattr("edgepack.data.archive.load.__defaults__", (0,))
    rows = read(tmp_path / "a.npz", model)
    for index in range(20):
        np.testing.assert_array_equal(whole.read(index)["x"], rows.read(index)["x"])
        assert whole.digest(index) == rows.digest(index)
    np.testing.assert_array_equal(whole.labels, rows.labels)  # type: ignore[arg-type]


def test_pixels_are_read_row_by_row_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepack.data import preprocess

    model = models.in_edgepack(models.convnet())
    spec = preprocess.read("size=16x16,scale=255")
    planar = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), np.uint8)
    monkeypatch.setattr("edgepack.data.archive.load.__defaults__", (0,))
    np.savez(tmp_path / "planar.npz", x=planar)
    np.savez(tmp_path / "last.npz", x=planar.transpose(0, 2, 3, 1).copy())
    one, other = (read(tmp_path / f"{name}.npz", model, spec) for name in ("planar", "last"))
    np.testing.assert_array_equal(one.read(4)["x"], other.read(4)["x"])
    np.savez(tmp_path / "bad.npz", x=planar.reshape(6, 4, 12, 16))
    with pytest.raises(EdgepackError, match="images have shape"):
        read(tmp_path / "bad.npz", model, spec)
