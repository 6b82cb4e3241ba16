"""Arrays that are kept, in memory or beyond."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from edgepack.data.spill import Spill
from edgepack.errors import WriteFailed

ARRAYS = [
    np.arange(5), np.zeros((0, 3)), np.float32(2.5) * np.ones((2, 3, 4), np.float32), np.array(7.0),
    np.array([True, False]), np.arange(12).reshape(3, 4)[:, ::2], np.array([1.5], np.float16),
]  # fmt: skip


@pytest.mark.parametrize("limit", [0, 60, 10**6])
def test_arrays_stay_as_they_were(limit: int) -> None:
    spill = Spill(limit)
    given = [np.array(array) for array in ARRAYS * 40]
    kept = [spill.keep(array) for array in given]
    for array in given:
        array[...] = 0
    del spill
    gc.collect()
    for array, expected in zip(kept, ARRAYS * 40, strict=True):
        assert array.dtype == expected.dtype and np.array_equal(array, expected)
        assert not array.flags.writeable


def mappings() -> int:
    return len(Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="counts mappings in /proc")
def test_many_arrays_share_a_mapping() -> None:
    spill, before = Spill(0), mappings()
    kept = [spill.keep(np.full(100, number)) for number in range(3000)]
    assert mappings() - before < 20
    assert all(array[0] == number for number, array in enumerate(kept))


def test_files_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = Spill(0).keep(np.arange(9))
    assert kept.tolist() == list(range(9)) and not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(WriteFailed, match="gone"):
        Spill(0).keep(np.arange(9))
