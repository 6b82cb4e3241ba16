"""Bias correction: what rounding the weights does to a layer's mean output is taken out of its bias.

The fast form of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section
4.2, with means from calibration samples of the float model. Padding is passed over, as if it too had the mean.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgepack.model import constant
from edgepack.statistics import Channels


def input_channels(node: ir.Node) -> Channels | None:
    """How the channels of the node's input lie; None where its bias cannot be corrected."""
    weight = constant(node.inputs[1])
    if weight is None:
        return None
    if node.op_type == "Conv":
        return Channels(axis=1, rank=weight.ndim)
    return Channels(axis=1, rank=2) if node.op_type == "Gemm" else None


def mean_shift(node: ir.Node, error: np.ndarray, means: np.ndarray) -> np.ndarray:
    """By how much a weight error moves the mean of each output channel.

    Args:
        error: rounded minus original weights, in the node's own layout.
        means: the mean of each input channel.

    Returns:
        float64 array of shape [output channels]; to be subtracted from the bias.
    """
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        kernel = error.reshape(groups, error.shape[0] // groups, error.shape[1], -1).sum(axis=-1, dtype=np.float64)
        shift: np.ndarray = np.einsum("goc,gc->go", kernel, means.reshape(groups, -1)).reshape(-1)
        return shift
    matrix = error if node.attributes.get_int("transB", 0) else error.T
    return np.asarray(matrix.astype(np.float64) @ means)
