"""Arrays of a .npz whose rows are read when they are asked for, so that a large one need not fit into memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

# Smaller arrays are read at once.
SMALLEST = 64_000_000
# Of a zip entry's local header, and where in it stand the lengths of name and extra field.
_HEADER, _LENGTHS = 30, slice(26, 30)


class StoredRows:
    """A stored (not compressed) array in a .npz, C-ordered, behaving like it for `len`, `shape` and rows."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype, self.ndim = path, shape, dtype, len(shape)
        self._offset = offset
        self._row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> np.ndarray:
        rows = range(len(self))[index]
        first, count = (rows, 1) if isinstance(rows, int) else (rows.start, len(rows))
        if not isinstance(rows, int) and rows.step != 1:
            raise IndexError("rows are read one after another")
        with self.path.open("rb") as file:
            file.seek(self._offset + first * self._row)
            content = file.read(count * self._row)
        if len(content) < count * self._row:
            raise EOFError(f"{self.path} was cut off while it was being read")
        array = np.frombuffer(bytearray(content), self.dtype).reshape(count, *self.shape[1:])
        return array[0] if isinstance(rows, int) else array


def load(path: Path, smallest: int = SMALLEST) -> dict[str, np.ndarray | StoredRows]:
    """The arrays of a .npz by name, never unpickling.

    Raises:
        Exception: many kinds, where the file is damaged; ValueError "Object arrays…" where it holds Python objects.
    """
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile(path)
    with np.load(path, allow_pickle=False) as archive, zipfile.ZipFile(path) as entries:
        sizes = {info.filename: info for info in entries.infolist()}
        found: dict[str, np.ndarray | StoredRows] = {}
        for name in archive.files:
            info = sizes.get(f"{name}.npy")
            rows = None
            if info is not None and info.file_size >= smallest and info.compress_type == zipfile.ZIP_STORED:
                rows = _stored(path, info)
            found[name] = archive[name] if rows is None else rows
        return found


def _stored(path: Path, info: zipfile.ZipInfo) -> StoredRows | None:
    """The entry's rows; None where they do not lie one after another in the file."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(_HEADER)
        start = info.header_offset + _HEADER + sum(np.frombuffer(header[_LENGTHS], "<u2").tolist())
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            return None
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject or not shape:
            return None
        offset = file.tell()
        if info.file_size - (offset - start) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise EOFError(f"{path} is cut off")
        return StoredRows(path, offset, shape, dtype)
