"""Where devices.yaml and targets/ lie: inside the package in a wheel, beside it in a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE if (_PACKAGE / "devices.yaml").is_file() else _PACKAGE.parent
DEVICES = ROOT / "devices.yaml"
TARGETS = ROOT / "targets"


def load(name: str, path: Path) -> ModuleType:
    """Import the file at `path` once, as module `name`; an __init__.py as a package."""
    if name in sys.modules:
        return sys.modules[name]
    inside = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
