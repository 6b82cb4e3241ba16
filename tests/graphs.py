"""Random graphs of what networks are made of, for the property tests of pruning."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.models import model

BLOCKS = (
    "conv", "grouped", "pairs", "depthwise", "residual", "concat", "shared", "excite", "split", "slice", "norm",
    "prelu", "transposed", "shuffle", "gather", "glu",
)  # fmt: skip


class Graph:
    """A network that grows block by block; `x` is the latest feature map, with `c` channels."""

    def __init__(self, seed: int, channels: int = 8, size: int = 6) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.size, self.x, self.c = size, "x", 3
        self.x = self.conv(self.x, 3, channels)
        self.c = channels

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        output = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, *shape: int, scale: float = 0.4) -> str:
        key = f"w{len(self.weights)}"
        self.weights[key] = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return key

    def integers(self, *numbers: int) -> str:
        key = f"n{len(self.weights)}"
        self.weights[key] = np.array(numbers, np.int64)
        return key

    def conv(self, x: str, a: int, b: int, kernel: int = 3, group: int = 1) -> str:
        pads = [kernel // 2] * 4
        weight = self.weight(b, a // group, kernel, kernel, scale=(group / (a * kernel * kernel)) ** 0.5)
        return self.add("Conv", [x, weight, self.weight(b)], pads=pads, group=group)

    def block(self, kind: str) -> None:
        getattr(self, f"_{kind}")()
        if self.random.random() < 0.5:
            self.x = self.add("Relu", [self.x])

    def _conv(self) -> None:
        wide = int(self.random.integers(3, 13)) * 2
        self.x, self.c = self.conv(self.x, self.c, wide, int(self.random.choice([1, 3]))), wide

    def _grouped(self) -> None:
        self.x = self.conv(self.conv(self.x, self.c, 12), 12, 24, 3, 2)
        self.c = 24

    def _pairs(self) -> None:
        self.x, self.c = self.conv(self.conv(self.x, self.c, 16), 16, 8, 3, 8), 8

    def _depthwise(self) -> None:
        self.x = self.conv(self.x, self.c, self.c, 3, self.c)

    def _residual(self) -> None:
        inner = self.add("Relu", [self.conv(self.x, self.c, 10)])
        self.x = self.add("Add", [self.x, self.conv(inner, 10, self.c, 1)])

    def _concat(self) -> None:
        parts = [self.x, self.conv(self.x, self.c, 6, 1), self.add("Relu", [self.conv(self.x, self.c, 4)])]
        self.x = self.add("Concat", parts, axis=1)
        self.c += 10

    def _shared(self) -> None:
        weight, bias = self.weight(self.c, self.c, 1, 1, scale=self.c**-0.5), self.weight(self.c)
        first = self.add("Conv", [self.x, weight, bias])
        other = self.conv(self.x, self.c, self.c, 1)
        self.x = self.add("Mul", [first, self.add("Sigmoid", [self.add("Conv", [other, weight, bias])])])

    def _excite(self) -> None:
        mean = self.add("GlobalAveragePool", [self.x])
        low = self.add("Relu", [self.conv(mean, self.c, 4, 1)])
        gate = self.add("HardSigmoid", [self.conv(low, 4, self.c, 1)])
        self.x = self.add("Mul", [self.x, gate])

    def _split(self) -> None:
        wide = self.conv(self.x, self.c, 12, 1)
        one, other = f"a{len(self.nodes)}", f"b{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", [wide, self.integers(4, 8)], [one, other], axis=1))
        self.x = self.add("Concat", [self.conv(one, 4, 5, 1), other], axis=1)
        self.c = 13

    def _slice(self) -> None:
        wide = self.conv(self.x, self.c, 10, 1)
        ends = [self.integers(number) for number in (3, 9, 1)]
        self.x, self.c = self.add("Slice", [wide, *ends]), 6

    def _norm(self) -> None:
        scale, bias, mean = (self.weight(self.c) for _ in range(3))
        variance = self.weight(self.c)
        self.weights[variance] = np.abs(self.weights[variance]) + 0.5
        self.x = self.add("BatchNormalization", [self.x, scale, bias, mean, variance])

    def _prelu(self) -> None:
        self.x = self.add("PRelu", [self.x, self.weight(self.c, 1, 1)])
        self.x = self.add("Mul", [self.x, self.weight(1, self.c, 1, 1)])

    def _transposed(self) -> None:
        weight = self.weight(self.c, 7, 3, 3, scale=(self.c * 9) ** -0.5)
        self.x, self.c = self.add("ConvTranspose", [self.x, weight, self.weight(7)], pads=[1, 1, 1, 1]), 7

    def _shuffle(self) -> None:
        deep = self.conv(self.x, self.c, 16, 1)
        flat = self.add("DepthToSpace", [deep], blocksize=2)
        self.x, self.c = self.add("MaxPool", [flat], kernel_shape=[2, 2], strides=[2, 2]), 4

    def _gather(self) -> None:
        order = self.random.permutation(self.c)
        self.x = self.add("Gather", [self.x, self.integers(*order)], axis=1)

    def _glu(self) -> None:
        wide = self.conv(self.x, self.c, 16, 1)
        one, other = f"a{len(self.nodes)}", f"b{len(self.nodes)}"
        self.nodes.append(helper.make_node("Split", [wide, self.integers(8, 8)], [one, other], axis=1))
        self.x, self.c = self.add("Mul", [one, self.add("Sigmoid", [other])]), 8

    def finish(self, end: str) -> onnx.ModelProto:
        """A head behind it: pooled, flattened with all its places, or attention over them."""
        getattr(self, f"_end_{end}")()
        self.nodes[-1].output[0] = "y"
        shape = ["N", self.size**2, self.c] if end == "attention" else ["N", 5]
        return model(self.nodes, {"x": ["N", 3, self.size, self.size]}, {"y": shape}, self.weights)

    def _end_pooled(self) -> None:
        flat = self.add("Flatten", [self.add("GlobalAveragePool", [self.x])])
        hidden = self.add("Relu", [self.add("Gemm", [flat, self.weight(20, self.c), self.weight(20)], transB=1)])
        self.add("Gemm", [hidden, self.weight(20, 5), self.weight(5)])

    def _end_flat(self) -> None:
        flat = self.add("Reshape", [self.x, self.integers(0, self.c * self.size**2)])
        self.add("Gemm", [flat, self.weight(self.c * self.size**2, 5, scale=0.1)])

    def _end_attention(self, heads: int = 4, wide: int = 5) -> None:
        tokens = self.add("Transpose", [self.add("Reshape", [self.x, self.integers(0, self.c, -1)])], perm=[0, 2, 1])
        three = self.add("MatMul", [tokens, self.weight(self.c, 3 * heads * wide)])
        three = self.add("Add", [three, self.weight(3 * heads * wide)])
        three = self.add("Reshape", [three, self.integers(0, -1, 3, heads, wide)])
        three = self.add("Transpose", [three], perm=[2, 0, 3, 1, 4])
        self.weights |= {f"which{i}": np.array(i, np.int64) for i in range(3)}
        q, k, v = (self.add("Gather", [three, f"which{i}"], axis=0) for i in range(3))
        scores = self.add("MatMul", [q, self.add("Transpose", [k], perm=[0, 1, 3, 2])])
        mixed = self.add("MatMul", [self.add("Softmax", [scores], axis=-1), v])
        mixed = self.add("Transpose", [mixed], perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", [mixed, self.integers(0, -1, heads * wide)])
        stream = self.add("Add", [tokens, self.add("MatMul", [mixed, self.weight(heads * wide, self.c)])])
        normed = self.add("LayerNormalization", [stream, self.weight(self.c), self.weight(self.c)])
        hidden = self.add("Relu", [self.add("MatMul", [normed, self.weight(self.c, 14)])])
        self.add("Add", [stream, self.add("MatMul", [hidden, self.weight(14, self.c)])])


def graph(seed: int, blocks: list[str], end: str) -> onnx.ModelProto:
    grown = Graph(seed)
    for kind in blocks:
        grown.block(kind)
    return grown.finish(end)
