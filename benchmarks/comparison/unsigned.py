"""A Q/DQ graph with uint8 activations in the place of int8 ones: the same steps, each integer 128 more.

OpenVINO 2026.4 answers wrongly where int8 tensors are joined by a Concat that an int8 convolution reads: it rounds them
to whole numbers, whatever their scale. With uint8 it is right.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

_PAIR = ("QuantizeLinear", "DequantizeLinear")


def write_unsigned(source: Path, file: Path) -> None:
    """Write the graph of `source` to `file` with unsigned activations; constants stay as they are."""
    model = onnx.load(source)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    moved = {node.input[2] for node in model.graph.node if node.op_type in _PAIR and node.input[0] not in held}
    for node in model.graph.node:  # a constant's zero point is its own
        if node.op_type in _PAIR and node.input[0] in held and node.input[2] in moved:
            raise ValueError(f"{node.input[2]!r} is the zero point of an activation and of a constant")
    for name in moved:
        zero = numpy_helper.to_array(held[name])
        if zero.dtype == np.int8:
            held[name].CopyFrom(numpy_helper.from_array((zero.astype(np.int16) + 128).astype(np.uint8), name))
    del model.graph.value_info[:]
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, file)
