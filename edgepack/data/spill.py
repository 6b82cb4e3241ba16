"""Arrays that may be too many for memory: kept there up to a limit, beyond it in temporary files."""

from __future__ import annotations

import mmap
import tempfile
from typing import IO

import numpy as np

from edgepack.errors import writing

LIMIT = 256_000_000
# A file and its mapping hold many arrays, since a process may have only some ten thousand mappings.
_FILE = 64_000_000


class Spill:
    """Keeps arrays: the first `limit` bytes in memory, the others in files without a name.

    The arrays are read-only, and a file is gone when no array in it is used any more.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = LIMIT if limit is None else limit
        self._held = 0
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self._end = 0

    def keep(self, array: np.ndarray) -> np.ndarray:
        """A copy of the array that stays as it is.

        Raises:
            WriteFailed: the disk is full.
        """
        if self._held + array.nbytes <= self._limit or array.nbytes == 0:
            self._held += array.nbytes
            kept = array.copy()
            kept.flags.writeable = False
            return kept
        with writing(tempfile.gettempdir()):
            return self._write(array)

    def _write(self, array: np.ndarray) -> np.ndarray:
        if self._file is None or self._map is None or self._end + array.nbytes > len(self._map):
            # Written, not mapped for writing: a full disk must be an error, and would be a signal.
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.truncate(max(_FILE, array.nbytes))
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            self._end = 0
        self._file.seek(self._end)
        self._file.write(array.tobytes())
        self._file.flush()
        kept = np.frombuffer(self._map, array.dtype, array.size, self._end).reshape(array.shape)
        self._end += array.nbytes + -array.nbytes % 64
        return kept
