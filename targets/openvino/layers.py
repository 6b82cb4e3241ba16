"""OpenVINO's profile in terms of the original's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, Executed

_QUANTIZE = frozenset({"FakeQuantize", "Convert", "Quantize"})
_LAYOUT = frozenset({"Reorder", "Transpose"})
# What the ONNX frontend and our Q/DQ add to names.
_ADDED = ("/WithoutBiases", "/fq_input_0", "_quantized", "_dequantized", "_QuantizeLinear", "_DequantizeLinear")


def executed(raw: Mapping[str, Any], model: Path) -> list[Executed]:
    """The operators of a profile; each names the layers of the IR that went into it."""
    layers: Mapping[str, Mapping[str, Any]] = raw.get("graph") or {}
    readers: dict[str, list[str]] = {}
    for name, layer in layers.items():
        for source in layer["inputs"]:
            readers.setdefault(source, []).append(name)
    found = []
    for operator in raw["operators"]:
        claims: list[str] = []
        for name in (*operator["layers"], operator["name"]):
            claims += [_plain(tensor) for tensor in layers.get(name, {}).get("outputs", ())]
            claims.append(_plain(name))
        if not any(layers.get(name, {}).get("outputs") for name in operator["layers"]):
            # What the reader made of one ONNX node: the last of its parts has the names.
            claims += [_plain(tensor) for name in operator["layers"] for tensor in _ahead(name, layers, readers)]
        found.append(
            Executed(
                name=operator["name"],
                kind=operator["kind"],
                us=operator["us"],
                precision=operator["precision"],
                bytes=operator["bytes"],
                role=_role(operator, layers),
                claims=tuple(dict.fromkeys(claims)),
                reads=tuple(_plain(name) for name in operator.get("inputs", ())),
                makes=(_plain(operator["name"]),),
            )
        )
    return found


def _ahead(name: str, layers: Mapping[str, Mapping[str, Any]], readers: Mapping[str, list[str]]) -> list[str]:
    """The names of the nearest outputs behind a layer that have names."""
    waiting, seen = [name], {name}
    while waiting:
        for reader in readers.get(waiting.pop(0), ()):
            if layers[reader]["outputs"]:
                return list(layers[reader]["outputs"])
            if reader not in seen:
                seen.add(reader)
                waiting.append(reader)
    return []


def _role(operator: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]) -> str:
    """A conversion under whichever name: compiled subgraphs may hold nothing but a FakeQuantize."""
    kind = operator["kind"]
    inside = {layers[name]["kind"] for name in operator["layers"] if name in layers}
    if kind in _QUANTIZE or (inside and inside <= _QUANTIZE):
        return QUANTIZE
    return LAYOUT if kind in _LAYOUT else COMPUTE


def _plain(name: str) -> str:
    for ending in _ADDED:
        name = name.removesuffix(ending)
    return name
