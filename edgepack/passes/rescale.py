"""Write scales of channels into the weights and constants around them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.passes.edits import replace_constant
from edgepack.passes.scale_groups import LAYERS, Port, ScaleGroups
from edgepack.quantization.layer import bias_of, from_matrix, to_matrix


def rescale(graph: ir.Graph, groups: ScaleGroups, scales: np.ndarray) -> None:
    """Divide what makes channels by their scales, and multiply what reads them.

    Args:
        scales: one for each class; 1 for those that are not free.
    """
    held = _Constants()
    for ports, write in ((groups.makers, _divide), (groups.readers, _multiply), (groups.constants, _divide_constant)):
        for port in ports:
            if (scales[port.classes] != 1.0).any():
                write(held, port, scales[port.classes])
    held.write(graph)


class _Constants:
    """Constant inputs of nodes in float64, so that a layer that both reads and makes is rounded once."""

    def __init__(self) -> None:
        self.arrays: dict[tuple[int, int], tuple[ir.Node, np.ndarray]] = {}

    def get(self, node: ir.Node, index: int) -> np.ndarray:
        if (id(node), index) in self.arrays:
            return self.arrays[id(node), index][1]
        array = constant(node.inputs[index])
        assert array is not None
        return array.astype(np.float64)

    def set(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        self.arrays[id(node), index] = node, array

    def write(self, graph: ir.Graph) -> None:
        for (_, index), (node, array) in self.arrays.items():
            old = node.inputs[index]
            assert old is not None
            replace_constant(graph, node, index, array.astype(np.float32), f"{old.name}_equalized")


def _divide(held: _Constants, port: Port, scale: np.ndarray) -> None:
    node = port.node
    if node.op_type not in LAYERS:
        _divide_constant(held, port, scale)
        return
    weight = held.get(node, 1)
    matrix = to_matrix(node, weight)
    held.set(node, 1, from_matrix(node, matrix / scale.reshape(*matrix.shape[:2], 1), weight.shape))
    bias = bias_of(node)
    if bias is not None:
        held.set(node, 2, bias / scale)


def _multiply(held: _Constants, port: Port, scale: np.ndarray) -> None:
    weight = held.get(port.node, 1)
    matrix = to_matrix(port.node, weight)
    taps = matrix.reshape(*matrix.shape[:2], scale.size // matrix.shape[0], -1)
    scaled = (taps * scale.reshape(matrix.shape[0], 1, -1, 1)).reshape(matrix.shape)
    held.set(port.node, 1, from_matrix(port.node, scaled, weight.shape))


def _divide_constant(held: _Constants, port: Port, scale: np.ndarray) -> None:
    """Along its axis; it grows where it had one number for all channels."""
    array = held.get(port.node, port.index)
    held.set(port.node, port.index, array / scale.reshape(-1, *(1,) * (-port.axis - 1)))
