"""LiteRT's profile in terms of the original's names.

Operators outside XNNPACK's partitions come with their place in the file. Those inside come in order, under names of
XNNPACK's own, and are put beside the file's operators as two sequences are (Needleman and Wunsch 1970).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepack.measuring.origin import COMPUTE, LAYOUT, QUANTIZE, Executed

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_ADDED = ("_quantized", "_dequantized")
# What a lowering calls the steps to a tensor: layouts, paddings, a row of a picture for what has one dimension.
_PARTS = ("ordered", "shape", "padded", "pads", "mean", "order", "axes", "picture", "row", "regridded", "half", "whole",
          "above", "averages", "cropped", "part", "sorted", "stacked")  # fmt: skip
_UNARY = frozenset(
    {"QUANTIZE", "DEQUANTIZE", "HARD_SWISH", "LOGISTIC", "TANH", "GELU", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU",
     "ELU", "EXP", "SQRT", "RSQRT", "SQUARE", "NEG", "ABS", "MINIMUM", "MAXIMUM", "MUL", "ADD", "CAST"}
)  # fmt: skip
# XNNPACK's words, and the operators that they may stand for, the likeliest first.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("deconvolution", ("TRANSPOSE_CONV",)),
    ("dwconv", ("DEPTHWISE_CONV_2D", "CONV_2D")),
    ("convolution", ("CONV_2D", "DEPTHWISE_CONV_2D")),
    ("fully connected", ("FULLY_CONNECTED", "CONV_2D", "BATCH_MATMUL")),
    ("batch matrix multiply", ("BATCH_MATMUL", "FULLY_CONNECTED")),
    ("global average pooling", ("MEAN", "AVERAGE_POOL_2D")),
    ("average pooling", ("AVERAGE_POOL_2D", "MEAN")),
    ("max pooling", ("MAX_POOL_2D",)),
    ("mean", ("MEAN", "AVERAGE_POOL_2D", "SUM")),
    ("reduce", ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")),
    ("static reshape", ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")),
    ("copy", ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CONCATENATION", "SPLIT")),
    ("convert", ("QUANTIZE", "DEQUANTIZE", "CAST")),
    ("invalid unary", ("QUANTIZE", *sorted(_UNARY))),
    ("transpose", ("TRANSPOSE",)),
    ("constant pad", ("PAD", "PADV2")),
    ("slice", ("STRIDED_SLICE", "SLICE", "SPLIT", "SPLIT_V")),
    ("clamp", ("RELU", "RELU6", "RELU_N1_TO_1", "MINIMUM", "MAXIMUM")),
    ("sigmoid", ("LOGISTIC",)),
    ("squared difference", ("SQUARED_DIFFERENCE",)),
    ("square root", ("SQRT",)),
    ("reciprocal square root", ("RSQRT",)),
    ("subtract", ("SUB",)),
    ("multiply", ("MUL",)),
    ("divide", ("DIV",)),
)
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "qs8": "int8", "qc8": "int8", "qd8": "dynamic", "qu8": "uint8"}


def executed(raw: Mapping[str, Any], model: Path) -> list[Executed]:
    """The operators of a profile."""
    file: Sequence[Mapping[str, Any]] = raw["graph"]
    alone = {operator["node"] for operator in raw["operators"] if operator["node"] is not None}
    inside = [index for index in range(len(file)) if index not in alone]
    delegated = [operator for operator in raw["operators"] if operator["node"] is None]
    parts = dict(zip(map(id, delegated), aligned(delegated, [file[index] for index in inside]), strict=True))
    found: list[Executed] = []
    behind: tuple[str, ...] = ()
    for operator in reversed(raw["operators"]):
        if operator["node"] is None:
            members = [file[inside[place]] for place in parts[id(operator)]]
        else:
            members = [file[operator["node"]]] if operator["node"] < len(file) else []
        row = _row(operator, members)
        if not members:
            # XNNPACK's own, which the file lacks: it readies what the next one reads, as before a product.
            row = replace(row, claims=behind)
        behind = row.makes or behind
        found.append(row)
    return found[::-1]


def _row(operator: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> Executed:
    made = [name for member in members for name in member["outputs"]]
    inner = set(made)
    reads = [name for member in members for name in member["inputs"] if name not in inner]
    plain = [_plain(name) for name in made]
    return Executed(
        name=members[-1]["outputs"][0] if members and members[-1]["outputs"] else operator["name"],
        kind=operator["kind"] if operator["node"] is None else members[0]["kind"] if members else operator["kind"],
        us=operator["us"],
        precision=_precision(operator["name"]) or (members[-1]["precision"] if members else ""),
        bytes=sum(member["bytes"] for member in members),
        role=_role(operator["name"], members),
        claims=tuple(dict.fromkeys(plain)),
        reads=tuple(_plain(name) for name in reads),
        makes=tuple(dict.fromkeys(plain[-1:])),
    )


def _role(name: str, members: Sequence[Mapping[str, Any]]) -> str:
    kinds = {member["kind"] for member in members}
    lowered = name.lower()
    if lowered.startswith("convert") or (kinds and kinds <= _CONVERSIONS):
        return QUANTIZE
    return LAYOUT if lowered.startswith("transpose") or kinds == {"TRANSPOSE"} else COMPUTE


def _precision(name: str) -> str:
    for word in re.findall(r"[a-z]+\d+", name.lower()):
        if word in _PRECISIONS:
            return _PRECISIONS[word]
    return ""


def _plain(name: str) -> str:
    """The ONNX tensor's name: what a lowering adds stands behind the last slash, and may itself hold none."""
    name = re.sub(rf"(/({'|'.join(_PARTS)}))+$", "", name)
    name = re.sub(r"/\d+$", "", name)
    for ending in _ADDED:
        name = name.removesuffix(ending)
    return name


def aligned(delegated: Sequence[Mapping[str, Any]], file: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """For each delegated operator the places of the file's operators that it computes; every place goes to one.

    An operator of the file that matches none was fused with the one behind it: a PAD with its convolution, what comes
    before a QUANTIZE with the table that does it all.
    """
    rows, columns = len(delegated), len(file)
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows - 1, -1, -1):
        for column in range(columns, -1, -1):
            choices = [best[row + 1][column] - 1]
            if column < columns:
                choices.append(best[row][column + 1])
                fit = _fit(delegated[row]["name"], file[column]["kind"])
                if fit:
                    choices.append(best[row + 1][column + 1] + fit)
            best[row][column] = max(choices)
    parts: list[list[int]] = [[] for _ in delegated]
    row = column = 0
    waiting: list[int] = []
    last = 0
    while row < rows and column < columns:
        fit = _fit(delegated[row]["name"], file[column]["kind"])
        if best[row][column] == best[row][column + 1]:
            waiting.append(column)
            column += 1
        elif fit and best[row][column] == best[row + 1][column + 1] + fit:
            parts[row] += [*waiting, column]
            waiting, last = [], row
            row, column = row + 1, column + 1
        else:
            row += 1
    if parts:
        parts[last] += [*waiting, *range(column, columns)]
    return parts


def _fit(name: str, kind: str) -> float:
    """How well XNNPACK's name goes with an operator, 0 if it does not."""
    lowered = name.lower()
    for word, kinds in _KINDS:
        if word in lowered:
            return 0.0 if kind not in kinds else 3.0 if kind == kinds[0] else 2.5
    words = re.sub(r"[^a-z0-9]", "", lowered.split(" (")[0])
    return 3.0 if words and words == kind.lower().replace("_", "") else 0.0
