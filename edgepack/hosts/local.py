"""This machine as a host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import BinaryIO

from edgepack.errors import HostLost
from edgepack.hosts import Completed


class Local:
    """Runs commands here, as the user who typed them."""

    name = "local"
    emulated = False

    def run(
        self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
    ) -> Completed:
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", script, "sh", *arguments],
                stdin=stdin if stdin is not None else subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            raise HostLost(
                f"local: no answer in {timeout:.0f} s", "try again when this machine is less busy"
            ) from error
        return Completed(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def close(self) -> None:
        """Nothing was set up."""
