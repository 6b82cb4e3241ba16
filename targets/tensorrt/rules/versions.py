"""Which TensorRT a board has, and what its ONNX parser takes (operators.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgepack.device import Device

Version = tuple[int, ...]
# Of a board whose system is no JetPack.
_ELSE = "10.13"


def version(text: str) -> Version:
    return tuple(int(part) for part in text.split(".")[:2])


def tensorrt_of(device: Device) -> str:
    """TensorRT's version on a board, `major.minor`; that of JetPack 7 where the system says nothing."""
    jetpack = device.system.jetpack
    return _ELSE if jetpack is None else jetpack.tensorrt


def older_than(device: Device, than: str) -> bool:
    return version(tensorrt_of(device)) < version(than)


@cache
def _content() -> Mapping[str, Any]:
    import yaml

    text = Path(__file__).with_name("operators.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


@cache
def tables() -> dict[Version, int]:
    """Versions of TensorRT with a table of operators -> the highest opset it names, the oldest first."""
    return {version(text): table["opset"] for text, table in _content()["tables"].items()}


@cache
def since() -> dict[str, Version]:
    """Operator -> the first version known to take it."""
    return {name: version(text) for text, names in _content()["since"].items() for name in names}


def opsets(text: str) -> tuple[int, int]:
    """The highest opset that this version surely reads, and the highest that it may read."""
    wanted = version(text)
    sure = max(opset for at, opset in tables().items() if at <= wanted) if wanted >= min(tables()) else 0
    return sure, next((opset for at, opset in tables().items() if at >= wanted), sure)


def takes(operator: str, text: str) -> bool | None:
    """Whether this version's parser takes an operator; None where the tables at hand do not say.

    A version between two tables that differ may be on either side, unless the changelog names the first version.
    """
    first, wanted = since().get(operator), version(text)
    if first is None:
        return False
    if first <= wanted:
        return True
    if first not in tables():  # named by the changelog
        return False
    last_without = max((at for at in tables() if at < first), default=(0,))
    return None if last_without < wanted else False
