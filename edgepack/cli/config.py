"""--config: a YAML file that holds any of a command's flags, for a repository."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepack.errors import UsageError

# Flags whose value is a path: in the file they are relative to it, not to where the command runs.
_PATHS = {"model", "output", "data", "evaluation", "labels", "annotations"}


def read(path: Path, parameters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Defaults for a command's parameters.

    Args:
        parameters: the parameters' names, each with the flags that set it.

    Raises:
        UsageError: the file cannot be read, or holds a key that is no flag.
    """
    import yaml

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", "give the path of a YAML file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{path} cannot be read: {' '.join(str(error).split())}", "write one flag a line, such as `device: rpi5`"
        ) from error
    if not isinstance(given, dict):
        raise UsageError(f"{path} is not a table of flags", "write one flag a line, such as `device: rpi5`")
    by_flag = {
        flag.lstrip("-"): name
        for name, flags in parameters.items()
        if name != "config"
        for flag in (*flags, name)
        if flag != "-o"
    }
    defaults: dict[str, Any] = {}
    for key, value in given.items():
        name = by_flag.get(str(key).replace("_", "-")) or by_flag.get(str(key))
        if name is None:
            near = difflib.get_close_matches(str(key), by_flag, 1)
            raise UsageError(
                f"{path}: unknown key {key!r}",
                f"did you mean {near[0]}?" if near else f"keys: {', '.join(sorted(by_flag))}",
            )
        if value is None:
            continue
        if name in _PATHS or (name == "preprocess" and str(value).endswith((".yaml", ".yml", ".json"))):
            value = str(path.parent / str(value))
        elif name in ("input_shape", "state") and not isinstance(value, list):
            value = [str(value)]
        elif not isinstance(value, bool | list):
            value = str(value)
        defaults[name] = value
    return defaults
