"""Q/DQ graphs, built in code: a network of convolutions as TensorRT wants it, and parts to plant offences with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edgepack.model import Model
from tests import models

CHANNELS = 16


class Qdq:
    """Collects nodes and weights; values are names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.special: list[onnx.TensorProto] = []
        self.count = 0

    def node(self, op: str, inputs: Sequence[str], name: str = "", **attributes: object) -> str:
        self.count += 1
        output = f"v{self.count}"
        self.nodes.append(helper.make_node(op, inputs, [output], name or f"{op}_{self.count}", **attributes))
        return output

    def constant(self, array: np.ndarray, name: str = "") -> str:
        self.count += 1
        name = name or f"w{self.count}"
        self.weights[name] = array
        return name

    def typed(self, kind: int, shape: Sequence[int] = ()) -> str:
        """Zeros of a type that numpy lacks."""
        self.count += 1
        size = int(np.prod(shape, dtype=int))
        self.special.append(helper.make_tensor(f"w{self.count}", kind, list(shape), [0] * size))
        return f"w{self.count}"

    def scales(self, value: float, channels: int = 0) -> str:
        return self.constant(np.full((channels,) if channels else (), value, np.float32))

    def pair(
        self, value: str, *, scale: float = 0.05, other: float | None = None, channels: int = 0,
        zero: int | str | None = 0, kind: type = np.int8, axis: int | None = None, domain: str = "",
    ) -> str:  # fmt: skip
        """QuantizeLinear and DequantizeLinear: `other` is the scale of the latter, `zero` a number, a name or none."""
        shape = (channels,) if channels else ()
        points = [] if zero is None else [zero if isinstance(zero, str) else self.constant(np.full(shape, zero, kind))]
        more: dict[str, object] = {} if axis is None else {"axis": axis}
        more |= {"domain": domain} if domain else {}
        first = self.scales(scale, channels)
        second = first if other is None else self.scales(other, channels)
        quantized = self.node("QuantizeLinear", [value, first, *points], **more)
        return self.node("DequantizeLinear", [quantized, second, *points], **more)

    def kernel(self, *shape: int, axis: int = 0) -> str:
        """Float weights behind a pair, a scale for each entry of `axis`."""
        return self.pair(self.constant(models.random(shape, scale=0.2)), channels=shape[axis], axis=axis)

    def conv(self, value: str, inputs: int = CHANNELS, weight: str = "", bias: str = "", name: str = "") -> str:
        weight = weight or self.kernel(CHANNELS, inputs, 3, 3)
        bias = bias or self.constant(models.random((CHANNELS,)))
        return self.node("Conv", [value, weight, bias], name, pads=[1, 1, 1, 1])

    def finish(
        self,
        output: str,
        *,
        inputs: Mapping[str, Sequence[int | str]] | None = None,
        shape: Sequence[int | str] = (1, CHANNELS, 8, 8),
        types: Mapping[str, int] | None = None,
        opset: int = 17,
    ) -> Model:
        proto = models.model(
            self.nodes, inputs or {"x": (1, CHANNELS, 8, 8)}, {output: shape}, self.weights, types=types, opset=opset
        )
        proto.graph.initializer.extend(self.special)
        return Model.from_proto(proto)


def clean() -> Qdq:
    """Conv-Relu, a residual block with the pair on its shortcut only, a pooled float head; its output is `v_last`."""
    net = Qdq()
    first = net.node("Relu", [net.conv(net.pair("x"), name="stem")])
    shortcut = net.pair(first)
    inner = net.node("Relu", [net.conv(shortcut, name="inner")])
    outer = net.conv(net.pair(inner), name="outer")
    joined = net.node("Relu", [net.node("Add", [outer, shortcut], "join")])
    pooled = net.node("GlobalAveragePool", [net.pair(joined)])
    flat = net.node("Flatten", [pooled])
    net.node("Gemm", [flat, net.constant(models.random((10, CHANNELS)))], "head", transB=1)
    return net
