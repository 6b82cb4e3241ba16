"""Virtual environments for the peers, made once from the pinned requirements in peers/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from comparison.methods import HERE


def python(needs: str, envs: Path, by: str = "") -> str:
    """The interpreter that has `peers/NEEDS.txt` installed; this one where nothing is needed.

    Args:
        by: the interpreter that makes the environment, a command on the PATH; this one if empty.

    Raises:
        RuntimeError: pip failed, or there is no such interpreter; what it said is the message.
    """
    if not needs:
        return sys.executable
    folder, wanted = envs / needs, (HERE / "peers" / f"{needs}.txt").read_text()
    stamp = folder / "installed.txt"
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(interpreter)
    shutil.rmtree(folder, ignore_errors=True)
    if by:
        _make_by(by, folder)
    else:
        venv.create(folder, with_pip=True)
    command = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r"]
    made = subprocess.run([*command, str(HERE / "peers" / f"{needs}.txt")], capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"{needs}: {made.stderr.strip().splitlines()[-1]}")
    stamp.write_text(wanted)
    return str(interpreter)


def _make_by(command: str, folder: Path) -> None:
    try:
        made = subprocess.run([command, "-m", "venv", str(folder)], capture_output=True, text=True)
    except OSError:
        raise RuntimeError(f"it needs {command}, which is not here") from None
    if made.returncode:
        raise RuntimeError(f"{command}: {(made.stderr.strip().splitlines() or ['no word'])[-1]}")


def plain() -> dict[str, str]:
    """The environment of every child: without telemetry, without a peer's interpreter finding this one's packages."""
    quiet = {"ORT_DISABLE_TELEMETRY": "1", "NNCF_CI": "1", "DO_NOT_TRACK": "1"}
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}, **quiet}


def ours() -> dict[str, str]:
    """The same, with this interpreter's own path."""
    return {**plain(), **{key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}}
