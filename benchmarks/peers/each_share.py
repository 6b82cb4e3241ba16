"""What the scripts of pruners do alike: each importance and share, and an answer for each whatever comes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def answer(asked: dict[str, Any], method: str, write: Callable[[str, float, Path], None]) -> None:
    """Write what was asked for.

    Args:
        method: what the rows are called, before the importance.
        write: takes an importance, the share of the multiply-accumulates that may be left, and the file to write.
    """
    answers = []
    for name in asked["importances"]:
        for share in asked["shares"]:
            start, file = time.perf_counter(), Path(asked["output"]) / f"{name}-{share}.onnx"
            try:
                write(name, share, file)
                told = {"file": str(file), "seconds": time.perf_counter() - start}
            except Exception as failure:
                told = {"skipped": f"{type(failure).__name__}: {str(failure)[:200]}"}
            answers.append({"method": f"{method} {name}", "share": share, **told})
    Path(asked["answer"]).write_text(json.dumps(answers))
