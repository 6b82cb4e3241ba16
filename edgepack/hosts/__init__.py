"""Hosts: machines that a bundle runs on. A transport knows one thing, to run a shell command there.

Everything else (copying files, long jobs, clean-up) is built on that in `edgepack.remote`, the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from edgepack.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Transport(Protocol):
    """Runs commands on one machine.

    `name` is what the user typed; `emulated` is true where times mean nothing.
    """

    name: str
    emulated: bool

    def run(
        self, script: str, arguments: Sequence[str] = (), *, stdin: BinaryIO | None = None, timeout: float = 60.0
    ) -> Completed:
        """Run `script` with POSIX sh there, `arguments` as $1, $2, …, to its end.

        Args:
            stdin: what the script reads; nothing if not given.
            timeout: seconds after which the machine counts as lost.

        Raises:
            HostLost: the connection broke, or the time is up. Trying again may help.
            HostError: it never will: the key was refused, there is no such host.
        """

    def close(self) -> None:
        """Give up the connection and whatever was set up for it."""


def connect(where: str) -> Transport:
    """The transport for `--on`: local, ssh://[user@]host[:port], qemu:CPU.

    Raises:
        UsageError: it is none of these.
        HostError: the host cannot be reached or set up.
    """
    if where == "local":
        from edgepack.hosts.local import Local

        return Local()
    if where.startswith("ssh://"):
        from edgepack.hosts.ssh import Ssh

        return Ssh(where)
    if where.startswith("qemu:"):
        from edgepack.hosts.emulated import Emulated

        return Emulated(where)
    raise UsageError(f"--on {where} is not understood", "local, ssh://user@host[:port] or qemu:cortex-a72")
