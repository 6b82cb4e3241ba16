"""A differentiable run of a graph, in PyTorch (the torch extra), with gates on what layers read or make.

It is held against ONNX Runtime's answer before it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgepack.data.samples import Feed
from edgepack.errors import EdgepackError, PruningError, needs
from edgepack.model import Model, constant
from edgepack.pruning.rules import name
from edgepack.reference import Session

Tensor = Any
# Largest difference to ONNX Runtime's answer, as a share of its largest number.
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A factor by place of one axis: on the first input of a node (by its first output), or on that output."""

    node: str
    reads: bool
    axis: int


@dataclass(frozen=True, kw_only=True)
class Differentiable:
    """A graph's nodes with their torch functions, and its constants."""

    steps: Sequence[tuple[ir.Node, Any]]
    constants: Mapping[str, Tensor]
    outputs: Sequence[str]

    def run(self, feed: Feed, gates: Mapping[Gate, Tensor]) -> dict[str, Tensor]:
        """The outputs by name.

        Args:
            gates: factors, [places of the axis]; ones change nothing, and their gradients are what is wanted.
        """
        torch = needs("torch")
        values = dict(self.constants) | {key: torch.tensor(array) for key, array in feed.items()}
        reads = {(gate.node, gate.reads): (gate.axis, factor) for gate, factor in gates.items()}
        for node, operator in self.steps:
            own = name(node.outputs[0])
            given = [None if value is None else values[name(value)] for value in node.inputs]
            if (own, True) in reads:
                given[0] = _gated(given[0], *reads[own, True])
            made = operator(node, *given)
            for value, tensor in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
                values[name(value)] = tensor
            if (own, False) in reads:
                values[own] = _gated(values[own], *reads[own, False])
        return {key: values[key] for key in self.outputs}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Operators on one sample are small: while others used the cores, two threads took 15 times as long as one."""
    torch = needs("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gated(value: Tensor, axis: int, factor: Tensor) -> Tensor:
    return value * factor.reshape([-1 if place == axis else 1 for place in range(value.ndim)])


def differentiable(model: Model, feed: Feed) -> Differentiable:
    """
    Args:
        model: whose constants are initializers (surgery.untangled).
        feed: one that the answers are compared on.

    Raises:
        MissingExtra: torch is not installed.
        UnsupportedOperator: an operator has no torch function here, or none of this kind.
        PruningError: it does not run, or the answers differ from ONNX Runtime's.
    """
    torch = needs("torch")
    from edgepack.pruning.torch_operators import OPERATORS, refused

    graph = model.ir.graph
    for node in graph:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise refused(node)
    found = Differentiable(
        steps=[(node, OPERATORS[node.op_type]) for node in graph],
        constants={
            name(value): torch.tensor(array)
            for value in graph.initializers.values()
            if (array := constant(value)) is not None
        },
        outputs=[name(value) for value in graph.outputs],
    )
    try:
        with torch.no_grad():
            answers = found.run(feed, {})
    except EdgepackError:
        raise
    except Exception as error:  # torch's have no common class
        raise PruningError(
            f"PyTorch cannot run the model: {str(error).strip().splitlines()[0][:200]}",
            "take --prune-importance second-order",
        ) from error
    for key, wanted in Session(model).run(feed).items():
        _compare(key, np.asarray(wanted), answers[key].numpy())
    return found


def _compare(output: str, wanted: np.ndarray, got: np.ndarray) -> None:
    if wanted.shape != got.shape:
        raise _different(f"{output} is {list(got.shape)} instead of {list(wanted.shape)}")
    if wanted.dtype.kind != "f" or not wanted.size:
        return
    far = float(np.abs(wanted - got).max() / max(float(np.abs(wanted).max()), 1e-30))
    if not far <= _TOLERANCE:
        raise _different(f"{output} is off by {far:.1g} of its largest number")


def _different(what: str) -> PruningError:
    return PruningError(
        f"the model answers differently in PyTorch than in ONNX Runtime: {what}",
        "take --prune-importance second-order, and please report the model",
    )
