"""Child processes: a JSON request in, a JSON answer out, or the reason why there is none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from comparison.environments import ours, plain
from comparison.methods import HERE


class ChildFailed(Exception):
    """A child ended without an answer; the message is the last line it wrote."""


def ask(command: list[str], request: dict[str, Any], folder: Path, own: bool, limit: float) -> dict[str, Any]:
    """Run `command REQUEST.json`; the child writes the file that the request calls `answer`.

    Args:
        own: whether the child sees this interpreter's packages.
        limit: seconds after which the child is ended.

    Returns:
        The answer, with `wall_seconds` of the whole process. An answer with `skipped` is the child's own reason.

    Raises:
        ChildFailed: it crashed, gave no answer, or took too long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    (folder / "request.json").write_text(json.dumps({**request, "answer": str(answer)}, indent=1))
    start = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        try:
            child = subprocess.run(
                [*command, str(folder / "request.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=ours() if own else plain(),
                cwd=folder,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            raise ChildFailed(f"took more than {limit:.0f} s") from None
    if child.returncode or not answer.is_file():
        lines = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line.strip()]
        raise ChildFailed(f"exit code {child.returncode}: {lines[-1].strip()[:300] if lines else 'no word'}")
    return {**json.loads(answer.read_text()), "wall_seconds": time.perf_counter() - start}


def worker(name: str) -> list[str]:
    """The command of one of this program's own workers."""
    return [sys.executable, str(HERE / "quantize.py"), "--worker", name]
