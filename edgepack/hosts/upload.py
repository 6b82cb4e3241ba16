"""A file on its way to a host, the patience with a lost connection, and a job's lines as they come."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from edgepack.errors import HostLost

if TYPE_CHECKING:
    from edgepack.progress import Progress


@dataclass
class Retry:
    """Waits a little longer after each loss, until the patience is at an end."""

    patience: float
    since: float | None = None
    delay: float = 0.2

    def after(self, error: HostLost) -> None:
        """
        Raises:
            HostLost: `error`, if it is time to give up.
        """
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        if now + self.delay - self.since > self.patience:
            raise error
        time.sleep(self.delay)
        self.delay = min(2 * self.delay, 2.0)


@dataclass
class Upload:
    """A file on its way. `furthest` is how much of it was ever there."""

    file: BinaryIO
    target: str
    name: str
    progress: Progress
    furthest: int = 0
    damaged: int = 0
    size: int = field(init=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.measure()

    @property
    def part(self) -> str:
        folder, _, name = self.target.rpartition("/")
        return f"{folder}/.{name}.part"

    def measure(self) -> None:
        self.size = os.fstat(self.file.fileno()).st_size
        self.digest = self._digest(self.size)

    def offset(self, there: list[str]) -> int | None:
        """Where to go on after what the host says is there; None if all is done."""
        if there == ["same"]:
            return None
        if len(there) == 3 and int(there[1]) <= self.size and self._digest(int(there[1])) == there[2]:
            return int(there[1])
        return 0

    def _digest(self, length: int) -> str:
        digest = hashlib.sha256()
        self.file.seek(0)
        while length and (block := self.file.read(min(length, 1 << 20))):
            digest.update(block)
            length -= len(block)
        return digest.hexdigest()


class Lines:
    """Hands each line of a growing text to `progress`, once."""

    def __init__(self, progress: Progress) -> None:
        self.known = 0
        self._progress = progress
        self._rest = b""

    def add(self, start: int, text: bytes) -> None:
        """Take what stands at `start`, which may be known in part."""
        fresh = text[self.known - start :]
        self.known += len(fresh)
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + fresh)
        for line in lines:
            self._tell(line)

    def finish(self) -> None:
        self._tell(self._rest)
        self._rest = b""

    def _tell(self, line: bytes) -> None:
        if line.strip():
            self._progress(line.decode(errors="replace").strip(), 0, 0)
