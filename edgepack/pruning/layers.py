"""A layer in the original and in the pruned model, as rows to fit: what goes in there, what should come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from edgepack.data.samples import Feed
from edgepack.model import constant
from edgepack.pruning.consumers import rows_a_sample, window_of, windows
from edgepack.pruning.fit import Moments, Solution
from edgepack.pruning.rules import name, read
from edgepack.pruning.surgery import Cut
from edgepack.pruning.weights import bias_input, bias_of, has_matrix
from edgepack.quantization.layer import WEIGHTED, from_matrix, patches, to_matrix

# Columns beyond which sums are float32; and beyond which a kernel is cut into windows, any other layer left as it is.
LARGEST_FIT = 4608
_MOST = 8192
# Ridges to choose from; a layer of many columns has fewer.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
_FEWER = (1e-2, 1e-1)
_MANY = 2304

Arrays = dict[str, np.ndarray]


class Layer(Protocol):
    """`prior` are the pruned model's weights as they are, [G, O, K]; `biased` says whether a bias can be set; `ridges`
    are those to choose from."""

    name: str
    prior: np.ndarray
    biased: bool
    ridges: tuple[float, ...]

    def moments(self) -> Moments: ...

    def rows(self, before: Feed, after: Feed, seed: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
        """What the pruned model's layer is given, what it should answer, and whether its input is the original's.

        None where the layer walks in a way that is not followed.
        """

    def constants(self, solution: Solution) -> Arrays:
        """The constants that make the layer the solution."""


def can_be_fitted(node: ir.Node) -> bool:
    """Whether a node is a layer whose weights are constants of its own."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    weight = constant(value)
    if node.domain not in ("", "ai.onnx") or value is None or weight is None or weight.dtype != np.float32:
        return False
    if node.op_type == "BatchNormalization":
        return all(constant(one) is not None for one in node.inputs[1:5]) and len(node.outputs) == 1
    return node.op_type in WEIGHTED and len(value.uses()) == 1 and has_matrix(node)


def layer(whole: ir.Node, small: ir.Node, what: Cut, samples: int, settled: bool = False) -> Layer | None:
    """None where the layer has too many columns.

    Args:
        settled: it is fitted to the channels that remain, and stays so where those are as they were.
    """
    if small.op_type == "BatchNormalization":
        return _BatchNorm(whole, small, what, samples)
    weight = constant(small.inputs[1])
    assert weight is not None
    columns = to_matrix(small, weight).shape[2]
    taps = int(np.prod(weight.shape[2:])) if small.op_type == "Conv" else 1
    if columns > _MOST and taps > 1 and small.attributes.get_int("group", 1) == 1:
        return _Windows(whole, small, what, samples, taps)
    return _Matrix(whole, small, what, samples, settled) if columns <= _MOST else None


class _Matrix:
    """Conv, ConvTranspose, Gemm or MatMul."""

    ridges: tuple[float, ...]

    def __init__(self, whole: ir.Node, small: ir.Node, what: Cut, samples: int, settled: bool) -> None:
        self.whole, self.small, self.name = whole, small, name(small.outputs[0])
        axis = len(what.shapes[self.name]) - 1 if small.op_type in ("Gemm", "MatMul") else 1
        self.what, self.settled = what, settled
        self.outputs = what.of_axis(self.name, axis)
        weight, original = constant(small.inputs[1]), constant(whole.inputs[1])
        assert weight is not None and original is not None
        self.shape = weight.shape
        self.prior = to_matrix(small, weight).astype(np.float64)
        self.original = to_matrix(whole, original)
        self.bias = bias_of(whole, len(self.outputs))
        self.biased = bias_input(small) is not None
        self.ridges = RIDGES if self.prior.shape[2] <= _MANY else _FEWER
        self.count = rows_a_sample(self.prior.shape[2], samples)

    def moments(self) -> Moments:
        groups, outputs, columns = self.prior.shape
        return Moments(groups, columns, outputs, np.float64 if columns <= LARGEST_FIT else np.float32)

    def _patches(self, before: Feed, after: Feed, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """What the original's layer and the pruned one's read at the same places."""
        x0 = patches(self.whole, before[read(self.whole, 0)], self.count, np.random.default_rng(seed))
        x1 = patches(self.small, after[read(self.small, 0)], self.count, np.random.default_rng(seed))
        return None if x0 is None or x1 is None or len(x0) != len(x1) else (x0, x1)

    def rows(self, before: Feed, after: Feed, seed: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
        found = self._patches(before, after, seed)
        if found is None:
            return None
        x0, x1 = found
        y = (x0.transpose(1, 0, 2) @ self.original.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(len(x0), -1)
        y = (y + self.bias.astype(np.float32))[:, self.outputs]
        stays = self._stays(before[read(self.whole, 0)], after[read(self.small, 0)])
        return x1, y.reshape(len(x1), self.prior.shape[0], -1), stays

    def _stays(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Whether the input, or what remains of it where the layer is fitted already, is the original's."""
        if self.settled and before.shape != after.shape:
            axis = before.ndim - 1 if self.small.op_type in ("Gemm", "MatMul") else 1
            before = np.compress(self.what.of_axis(read(self.whole, 0), axis), before, axis)
        return before.shape == after.shape and np.array_equal(before, after)

    def constants(self, solution: Solution) -> Arrays:
        found = {read(self.small, 1): from_matrix(self.small, solution.weight, self.shape)}
        place = bias_input(self.small)
        if place is not None:
            value = place[0].inputs[place[1]]
            shape = constant(value).shape  # type: ignore[union-attr]
            found[name(value)] = np.broadcast_to(solution.bias.reshape(-1), (self.outputs.sum(),)).reshape(
                shape if int(np.prod(shape)) == self.outputs.sum() else (-1,)
            )
        return found


class _Windows(_Matrix):
    """A convolution of too many columns: its input is fitted, window by window of the kernel, and then its weights."""

    def __init__(self, whole: ir.Node, small: ir.Node, what: Cut, samples: int, taps: int) -> None:
        super().__init__(whole, small, what, samples, True)
        self.stays = stays = what.of_axis(read(whole, 1), 1)
        self.ridges = (1e-1,)
        self.taps, self.window = taps, window_of(len(stays), taps)
        self.prior = np.eye(len(stays) * self.window)[None][:, :, np.repeat(stays, self.window)]
        self.biased = True
        self.count = max(1, rows_a_sample(self.prior.shape[2], samples) * self.window // taps)

    def rows(self, before: Feed, after: Feed, seed: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
        found = self._patches(before, after, seed)
        if found is None:
            return None
        x0, x1 = found
        # Where the channels that are left are what they were, the survey's fit cannot be bettered.
        same = np.array_equal(x0[:, :, np.repeat(self.stays, self.taps)], x1)
        return windows(x1, self.taps, self.window), windows(x0, self.taps, self.window), same

    def constants(self, solution: Solution) -> Arrays:
        outputs = int(self.outputs.sum())
        weight = self.original[0][self.outputs].reshape(outputs, -1, self.taps // self.window, self.window)
        weight = weight.transpose(0, 2, 1, 3).reshape(outputs, self.taps // self.window, -1)  # [O, windows, columns]
        fitted = (weight @ solution.weight[0]).reshape(outputs, self.taps // self.window, -1, self.window)
        matrix = fitted.transpose(0, 2, 1, 3).reshape(1, outputs, -1)
        bias = self.bias[self.outputs] + (weight @ solution.bias[0]).sum(axis=1)
        return super().constants(Solution(weight=matrix, bias=bias[None], ridge=solution.ridge))


class _BatchNorm:
    """One weight and one bias a channel."""

    def __init__(self, whole: ir.Node, small: ir.Node, what: Cut, samples: int) -> None:
        self.whole, self.small, self.name, self.biased = whole, small, name(small.outputs[0]), True
        self.outputs = what.of_axis(self.name, 1)
        self.factor, self.offset = self._affine(whole)
        self.prior = self._affine(small)[0][:, None, None]
        self.ridges: tuple[float, ...] = RIDGES
        self.count = rows_a_sample(1, samples)

    @staticmethod
    def _affine(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
        arrays = [constant(value) for value in node.inputs[1:5]]
        scale, bias, mean, variance = (np.asarray(array, np.float64) for array in arrays)
        factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        return factor, bias - factor * mean

    def moments(self) -> Moments:
        return Moments(len(self.prior), 1, 1)

    def rows(self, before: Feed, after: Feed, seed: int) -> tuple[np.ndarray, np.ndarray, bool] | None:
        given = [before[read(self.whole, 0)][:, self.outputs], after[read(self.small, 0)]]
        x0, x1 = (np.moveaxis(array, 1, -1).reshape(-1, array.shape[1]) for array in given)
        if x0.shape != x1.shape:
            return None
        most = self.count * len(given[0])
        picks = np.random.default_rng(seed).choice(len(x0), most, replace=False) if len(x0) > most else slice(None)
        x0, x1 = x0[picks], x1[picks]
        y = x0 * self.factor[self.outputs].astype(np.float32) + self.offset[self.outputs].astype(np.float32)
        return x1[:, :, None], y[:, :, None], bool(self.outputs.all()) and np.array_equal(x0, x1)

    def constants(self, solution: Solution) -> Arrays:
        factor, offset = solution.weight[:, 0, 0], solution.bias[:, 0]
        mean, variance = (np.asarray(constant(value), np.float64) for value in self.small.inputs[3:5])
        epsilon = self.small.attributes.get_float("epsilon", 1e-5)
        return {
            read(self.small, 1): factor * np.sqrt(variance + epsilon),
            read(self.small, 2): offset + factor * mean,
        }


@dataclass(frozen=True, kw_only=True)
class Constants:
    """The constants of a proto, to be changed in place."""

    tensors: dict[str, onnx.TensorProto]

    def put(self, arrays: Arrays) -> None:
        for key, array in arrays.items():
            self.tensors[key].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), key))
