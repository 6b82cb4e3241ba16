"""An ARM64 board behind SSH, without a network of its own: an emulated board whose sshd sits behind a cable."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepack.errors import HostError
from edgepack.hosts.emulated import Emulated
from tests.ssh_device import Link, SshDevice, behind_link


def emulated(cpu: str) -> Emulated:
    """An emulated board, or a skip that says what it needs."""
    try:
        return Emulated(f"qemu:{cpu}")
    except HostError as error:
        pytest.skip(f"no emulated board here: {error}")


@contextmanager
def arm_behind_ssh(folder: Path, cpu: str = "cortex-a72") -> Iterator[tuple[SshDevice, Link]]:
    """Every command that arrives by SSH runs on the emulated board, in the network namespace of the cable's end."""
    board = emulated(cpu)
    try:
        forced = folder / "forced.sh"
        environment = f"PATH=/usr/bin:/bin HOME=/home/edge USER=root LANG=C.UTF-8 QEMU_CPU={board.cpu.model}"
        forced.write_text(
            f"#!/bin/sh\nexec env -i {environment} {shutil.which('nsenter')} --target={board._pid} --user --mount "
            '--pid --ipc --root --wd --preserve-credentials -- /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        forced.chmod(0o755)
        with behind_link(folder, f"ForceCommand {forced}\n") as (device, link):
            yield device, link
    finally:
        board.close()
