"""Small models, built in code, for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgepack.model import Model

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Mapping[str, Sequence[int | str | None]],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    opset: int = 17,
    ir_version: int = 8,
    types: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model proto from its parts; inputs and outputs are float32 unless `types` says otherwise."""
    types = types or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, types.get(name, FLOAT), shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, types.get(name, FLOAT), shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = ir_version
    return proto


def random(shape: Sequence[int], seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def convnet(channels: int = 16, size: int = 16, opset: int = 17, batch: int | str = "N") -> onnx.ModelProto:
    """Conv-Relu, depthwise Conv-Clip, a residual Add, MaxPool, global pool, Gemm: what CNNs are made of."""
    c = channels
    node = helper.make_node
    clip = {"low": np.float32(0), "high": np.float32(6)}
    return model(
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"], name="relu1"),
            node("Conv", ["r1", "w2", "b2"], ["c2"], name="depthwise", pads=[1, 1, 1, 1], group=c),
            node("Clip", ["c2", "low", "high"], ["r2"], name="clip"),
            node("Conv", ["r2", "w3", "b3"], ["c3"], name="pointwise"),
            node("Add", ["c3", "r1"], ["a"], name="add"),
            node("MaxPool", ["a"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", ["p"], ["g"], name="mean"),
            node("Flatten", ["g"], ["f"], name="flatten"),
            node("Gemm", ["f", "w4", "b4"], ["y"], name="head", transB=1),
        ],
        {"x": [batch, 3, size, size]},
        {"y": [batch, 10]},
        {
            "w1": random((c, 3, 3, 3), 1, 0.3), "b1": random((c,), 2, 0.1),
            "w2": random((c, 1, 3, 3), 3, 0.3), "b2": random((c,), 4, 0.1),
            "w3": random((c, c, 1, 1), 5, 0.3), "b3": random((c,), 6, 0.1),
            "w4": random((10, c), 7, 0.3), "b4": random((10,), 8, 0.1),
            **{name: np.array(value) for name, value in clip.items()},
        },
        opset=opset,
    )  # fmt: skip


def mobile_block(wide: int = 24, size: int = 16) -> onnx.ModelProto:
    """Conv-HardSwish, expansion, depthwise Conv, squeeze-excite with HardSigmoid, projection, residual, Gemm."""
    c, w = 8, wide
    node = helper.make_node
    return model(
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
            node("HardSwish", ["c1"], ["h1"], name="swish1"),
            node("Conv", ["h1", "w2", "b2"], ["c2"], name="expand"),
            node("HardSwish", ["c2"], ["h2"], name="swish2"),
            node("Conv", ["h2", "w3", "b3"], ["c3"], name="depthwise", pads=[2, 2, 2, 2], group=w),
            node("HardSwish", ["c3"], ["h3"], name="swish3"),
            node("GlobalAveragePool", ["h3"], ["g"], name="squeeze"),
            node("Conv", ["g", "w4", "b4"], ["c4"], name="reduce"),
            node("Relu", ["c4"], ["r4"], name="relu"),
            node("Conv", ["r4", "w5", "b5"], ["c5"], name="excite"),
            node("HardSigmoid", ["c5"], ["s"], name="gate", alpha=0.2, beta=0.5),
            node("Mul", ["h3", "s"], ["m"], name="gated"),
            node("Conv", ["m", "w6", "b6"], ["c6"], name="project"),
            node("Add", ["h1", "c6"], ["a"], name="residual"),
            node("Conv", ["a", "w7"], ["c7"], name="last"),
            node("GlobalAveragePool", ["c7"], ["p"], name="mean"),
            node("Flatten", ["p"], ["f"], name="flatten"),
            node("Gemm", ["f", "w8"], ["y"], name="head", transB=1),
        ],
        {"x": ["N", 3, size, size]},
        {"y": ["N", 10]},
        {
            "w1": random((c, 3, 3, 3), 1, 0.4), "b1": random((c,), 2, 0.5),
            "w2": random((w, c, 1, 1), 3, 0.6), "b2": random((w,), 4, 0.5),
            "w3": random((w, 1, 5, 5), 5, 0.3), "b3": random((w,), 6, 0.5),
            "w4": random((4, w, 1, 1), 7, 0.3), "b4": random((4,), 8, 0.5),
            "w5": random((w, 4, 1, 1), 9, 0.5), "b5": random((w,), 10, 0.5),
            "w6": random((c, w, 1, 1), 11, 0.3), "b6": random((c,), 12, 0.1),
            "w7": random((16, c, 1, 1), 13, 0.4), "w8": random((10, 16), 14, 0.4),
        },
    )  # fmt: skip


def mlp(features: int = 8, classes: int = 4) -> onnx.ModelProto:
    """Gemm, Relu, Gemm."""
    node = helper.make_node
    return model(
        [
            node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
            node("Relu", ["h"], ["r"], name="relu"),
            node("Gemm", ["r", "w2", "b2"], ["y"], name="second", transB=1),
        ],
        {"x": ["N", features]},
        {"y": ["N", classes]},
        {
            "w1": random((16, features), 1), "b1": random((16,), 2),
            "w2": random((classes, 16), 3), "b2": random((classes,), 4),
        },
    )  # fmt: skip


def pixelwise() -> onnx.ModelProto:
    """A 1×1 convolution, all there is."""
    return model(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[1, 1])],
        {"x": ["N", 3, 4, 4]},
        {"y": ["N", 5, 4, 4]},
        {"w": random((5, 3, 1, 1))},
    )


def kernels(model: Model, folder: Path) -> list[str]:
    """The operators that ONNX Runtime really runs, from its optimized graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.proto().SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def in_edgepack(proto: onnx.ModelProto) -> Model:
    onnx.checker.check_model(proto)
    return Model.from_proto(proto)


def images(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth random pictures [count, 3, size, size], more like images than white noise."""
    noise = np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)
    for axis in (2, 3):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 1.7
    return noise


def transformer(width: int = 64, words: int = 100, length: int | str = 12, blocks: int = 1) -> onnx.ModelProto:
    """Token ids through a table, blocks of attention and an MLP, each normalized and added, and a head [1, length, 10].

    Query, key and value read the same tensor; attention has one head, or two where the width is even.
    """
    node = helper.make_node
    heads = 2 - width % 2
    weights = {
        "table": random((words, width), 90), "head": random((width, 10), 91, width**-0.5),
        "root": np.array((width / heads) ** -0.5, np.float32), "one": np.ones(width, np.float32),
        "split": np.array([1, -1, heads, width // heads]), "join": np.array([1, -1, width]),
    }  # fmt: skip
    nodes = [node("Gather", ["table", "ids"], ["h0"], name="embed")]
    for b in range(blocks):
        nodes.append(node("LayerNormalization", [f"h{b}", "one"], [f"n{b}"]))
        for i, name in enumerate(("q", "k", "v")):
            weights[f"w{name}{b}"] = random((width, width), 10 * b + i, width**-0.5)
            weights[f"b{name}{b}"] = random((width,), 10 * b + i, 0.1)
            nodes += [
                node("MatMul", [f"n{b}", f"w{name}{b}"], [f"{name}m{b}"], name=f"{name}{b}"),
                node("Add", [f"{name}m{b}", f"b{name}{b}"], [f"{name}a{b}"]),
                node("Reshape", [f"{name}a{b}", "split"], [f"{name}s{b}"]),
                node("Transpose", [f"{name}s{b}"], [f"{name}{b}"], perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]),
            ]
        weights[f"w1{b}"] = random((width, 2 * width), 10 * b + 4, width**-0.5)
        weights[f"w2{b}"] = random((2 * width, width), 10 * b + 5, width**-0.5)
        nodes += [
            node("MatMul", [f"q{b}", f"k{b}"], [f"raw{b}"], name=f"scores{b}"),
            node("Mul", [f"raw{b}", "root"], [f"scaled{b}"]),
            node("Softmax", [f"scaled{b}"], [f"soft{b}"], axis=-1),
            node("MatMul", [f"soft{b}", f"v{b}"], [f"mixed{b}"], name=f"mix{b}"),
            node("Transpose", [f"mixed{b}"], [f"back{b}"], perm=[0, 2, 1, 3]),
            node("Reshape", [f"back{b}", "join"], [f"joined{b}"]),
            node("Add", [f"h{b}", f"joined{b}"], [f"a{b}"]),
            node("LayerNormalization", [f"a{b}", "one"], [f"m{b}"]),
            node("MatMul", [f"m{b}", f"w1{b}"], [f"u{b}"], name=f"up{b}"),
            node("Relu", [f"u{b}"], [f"r{b}"]),
            node("MatMul", [f"r{b}", f"w2{b}"], [f"d{b}"], name=f"down{b}"),
            node("Add", [f"a{b}", f"d{b}"], [f"h{b + 1}"]),
        ]
    nodes.append(node("MatMul", [f"h{blocks}", "head"], ["y"], name="head"))
    return model(
        nodes, {"ids": [1, length]}, {"y": [1, length, 10]}, weights, types={"ids": onnx.TensorProto.INT64}
    )  # fmt: skip


def lstm(width: int = 16, hidden: int = 48, length: int = 10, directions: int = 1) -> onnx.ModelProto:
    """An LSTM over [length, 1, width], and a Gemm on its last hidden state."""
    node = helper.make_node
    d, h = directions, hidden
    return model(
        [
            node("LSTM", ["x", "w", "r", "b"], ["", "last", ""], name="lstm", hidden_size=h,
                 direction="forward" if d == 1 else "bidirectional"),
            node("Transpose", ["last"], ["t"], perm=[1, 0, 2]),
            node("Flatten", ["t"], ["f"]),
            node("Gemm", ["f", "w2", "b2"], ["y"], name="head", transB=1),
        ],
        {"x": [length, 1, width]},
        {"y": [1, 12]},
        {
            "w": random((d, 4 * h, width), 1, width**-0.5), "r": random((d, 4 * h, h), 2, h**-0.5),
            "b": random((d, 8 * h), 3, 0.1), "w2": random((12, d * h), 4, h**-0.5), "b2": random((12,), 5, 0.1),
        },
    )  # fmt: skip


def lstm_step(width: int = 12, hidden: int = 16) -> onnx.ModelProto:
    """One step of an LSTM: x [1, width] and the states h, c [1, N, hidden] to y [1, 5] and the next states hn, cn."""
    node = helper.make_node
    state = [1, "N", hidden]
    return model(
        [
            node("Unsqueeze", ["x", "first"], ["steps"]),
            node("LSTM", ["steps", "w", "r", "b", "", "h", "c"], ["", "hn", "cn"], name="lstm", hidden_size=hidden),
            node("Squeeze", ["hn", "first"], ["last"]),
            node("Gemm", ["last", "w2", "b2"], ["y"], name="head", transB=1),
        ],
        {"x": ["N", width], "h": state, "c": state},
        {"y": ["N", 5], "hn": state, "cn": state},
        {
            "w": random((1, 4 * hidden, width), 1, width**-0.5), "r": random((1, 4 * hidden, hidden), 2, hidden**-0.5),
            "b": random((1, 8 * hidden), 3, 0.1), "w2": random((5, hidden), 4, hidden**-0.5),
            "b2": random((5,), 5, 0.1), "first": np.array([0]),
        },
    )  # fmt: skip
