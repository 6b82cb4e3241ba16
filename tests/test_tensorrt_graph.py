"""The int8 graphs that TensorRT is given: where Q/DQ stands, on which grids, and what is in tensorrt.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from onnx import helper

from edgepack import target
from edgepack.data.reading import read
from edgepack.errors import UnsupportedOperator
from edgepack.metrics.merit import harness
from edgepack.model import Model, constant
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from edgepack.target import BUILT_FOR
from tests import models
from tests.graphs import BLOCKS, graph

TENSORRT = target.load("tensorrt")
SCHEME = TENSORRT.SCHEME
PAIR = ("QuantizeLinear", "DequantizeLinear")


def quantized(model: Model, folder: Path, **arrays: np.ndarray) -> Model:
    np.savez(folder / "calib.npz", **(arrays or {"x": models.images(32, seed=1)}))
    ready = prepare(model, SCHEME, read(folder / "calib.npz", model))
    return quantize(ready.model, SCHEME, ready.ranges, ready.layers, ready.unseen).model


def source(value: ir.Value | None) -> str:
    """The operator that a value comes from; "" for inputs and constants."""
    producer = value.producer() if value is not None else None
    return producer.op_type if producer is not None else ""


def is_int8(node: ir.Node) -> bool:
    return source(node.inputs[0]) == "DequantizeLinear"


def blocks(wide: int = 16, down: bool = False, relu: bool = True) -> onnx.ModelProto:
    """Two residual blocks; `down`: the first one's shortcut is a convolution, written behind the block's own."""
    node, w = helper.make_node, wide
    weights = {"ws": models.random((w, 3, 3, 3), 1, 0.3), "wl": models.random((4, w, 1, 1), 9, 0.3)}
    nodes = [node("Conv", ["x", "ws"], ["c0"], name="stem", pads=[1, 1, 1, 1]), node("Relu", ["c0"], ["h0"])]
    for b in range(2):
        weights |= {f"w{b}{i}": models.random((w, w, 3, 3), 10 * b + i, 0.1) for i in range(3)}
        nodes += [
            node("Conv", [f"h{b}", f"w{b}0"], [f"a{b}"], name=f"first{b}", pads=[1, 1, 1, 1]),
            node("Relu", [f"a{b}"], [f"r{b}"]),
            node("Conv", [f"r{b}", f"w{b}1"], [f"m{b}"], name=f"second{b}", pads=[1, 1, 1, 1]),
        ]
        shortcut = f"h{b}"
        if down and b == 0:
            nodes.append(node("Conv", ["h0", f"w{b}2"], ["d0"], name="shortcut", pads=[1, 1, 1, 1]))
            shortcut = "d0"
        nodes.append(node("Add", [f"m{b}", shortcut], [f"s{b}"], name=f"add{b}"))
        nodes += [node("Relu", [f"s{b}"], [f"h{b + 1}"])] if relu else [node("Identity", [f"s{b}"], [f"h{b + 1}"])]
    nodes.append(node("Conv", ["h2", "wl"], ["y"], name="last"))
    used = {name for one in nodes for name in one.input}
    weights = {name: array for name, array in weights.items() if name in used}
    return models.model(nodes, {"x": ["N", 3, 16, 16]}, {"y": ["N", 4, 16, 16]}, weights)


def check_layout(model: Model) -> None:
    """The rules that hold for any graph: what TensorRT rejects, and what breaks its fusions."""
    for node in model.ir.graph:
        if node.op_type in PAIR:
            scale, zero = constant(node.inputs[1]), constant(node.inputs[2])
            assert scale is not None and zero is not None and zero.dtype == np.int8 and not zero.any()
            assert zero.shape == scale.shape and np.all(scale > 0)
            weights = constant(node.inputs[0])
            if node.op_type == "QuantizeLinear" or weights is None:
                assert scale.ndim == 0  # activations per tensor
            elif weights is not None:
                assert weights.dtype == np.int8 and np.abs(weights).max() <= 127
                reader = next(iter(node.outputs[0].uses()))[0]
                if reader.op_type == "Conv":
                    assert node.attributes.get_int("axis", 1) == 0 and scale.shape == (weights.shape[0],)
        if node.op_type == "QuantizeLinear":
            assert [reader.op_type for reader, _ in node.outputs[0].uses()] == ["DequantizeLinear"]
        if node.op_type == "DequantizeLinear" and constant(node.inputs[0]) is None:
            readers = [reader.op_type for reader, _ in node.outputs[0].uses()]
            assert readers and set(readers) <= SCHEME.weighted | SCHEME.light, readers
            assert not node.outputs[0].is_graph_output()
        if node.op_type in SCHEME.weighted:
            assert source(node.inputs[0]) == source(node.inputs[1]) or not is_int8(node)
            bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            assert bias is None or bias.dtype == np.float32
        if node.op_type == "Add":
            assert [source(value) for value in node.inputs].count("DequantizeLinear") <= 1
        if node.op_type in SCHEME.fused:
            assert not is_int8(node)


@pytest.mark.parametrize("name", ["convnet", "mobile_block"])
def test_the_layout_of_small_nets(name: str, tmp_path: Path) -> None:
    original = models.in_edgepack(getattr(models, name)())
    model = quantized(original, tmp_path)
    check_layout(model)
    feed = {"x": models.images(8, seed=2)}
    assert harness().sqnr_db(Session(original).run(feed)["y"], Session(model).run(feed)["y"]) > 35


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=some.integers(0, 10_000), kinds=some.lists(some.sampled_from(BLOCKS), min_size=1, max_size=4))
def test_the_layout_of_any_graph(tmp_path_factory: pytest.TempPathFactory, seed: int, kinds: list[str]) -> None:
    proto = graph(seed, kinds, "pooled")
    original, folder = models.in_edgepack(proto), tmp_path_factory.mktemp("any")
    shape = [dim if isinstance(dim, int) else 1 for dim in original.inputs[0].shape]
    data = models.random((16, *shape[1:]), seed)
    model = quantized(original, folder, **{original.inputs[0].name: data})
    onnx.checker.check_model(model.proto())
    check_layout(model)
    feed, name = {original.inputs[0].name: data[:4]}, original.outputs[0].name
    assert harness().sqnr_db(Session(original).run(feed)[name], Session(model).run(feed)[name]) > 15


def test_of_a_residual_sum_the_shortcut_alone_is_quantized(tmp_path: Path) -> None:
    model = quantized(models.in_edgepack(blocks()), tmp_path)
    check_layout(model)
    sums = [node for node in model.ir.graph if node.op_type == "Add"]
    assert [[source(value) for value in node.inputs] for node in sums] == 2 * [["Conv", "DequantizeLinear"]]
    # The shortcut is what the block's first convolution reads, on the same grid.
    assert all(Counter(r.op_type for r, _ in node.inputs[1].uses()) == {"Conv": 1, "Add": 1} for node in sums)  # type: ignore[union-attr]


def test_a_shortcut_that_is_a_convolution_is_quantized_and_the_blocks_own_is_not(tmp_path: Path) -> None:
    model = quantized(models.in_edgepack(blocks(down=True)), tmp_path)
    first = next(node for node in model.ir.graph if node.name == "add0")
    main, shortcut = first.inputs
    assert source(main) == "Conv" and main.producer().name == "second0"  # type: ignore[union-attr]
    assert source(shortcut) == "DequantizeLinear"
    pair = shortcut.producer().inputs[0].producer()  # type: ignore[union-attr]
    assert pair.inputs[0].producer().name == "shortcut"  # type: ignore[union-attr]


def test_a_sum_behind_an_activation_stays_float(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [
            node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["h"]),
            node("Conv", ["h", "w2"], ["c2"], pads=[1, 1, 1, 1]),
            node("Sigmoid", ["c2"], ["g"]),
            node("Mul", ["c2", "g"], ["s"]),
            node("Add", ["h", "s"], ["a"]),
            node("Conv", ["a", "w3"], ["y"]),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 4, 16, 16]},
        {
            "w1": models.random((8, 3, 3, 3), 1, 0.3),
            "w2": models.random((8, 8, 3, 3), 2, 0.2),
            "w3": models.random((4, 8, 1, 1), 3, 0.3),
        },
    )
    model = quantized(models.in_edgepack(proto), tmp_path)
    check_layout(model)
    added = next(one for one in model.ir.graph if one.op_type == "Add")
    assert [source(value) for value in added.inputs] == ["Relu", "Mul"]


def test_commuting_operators_have_one_pair_behind_them(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [
            node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("MaxPool", ["r1"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["x", "w2"], ["c2"], strides=[2, 2]),
            node("Concat", ["p", "c2"], ["k"], axis=1),
            node("Conv", ["k", "w3"], ["y"]),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 4, 8, 8]},
        {
            "w1": models.random((8, 3, 3, 3), 1, 0.3),
            "w2": models.random((8, 3, 1, 1), 2, 0.3),
            "w3": models.random((4, 16, 1, 1), 3, 0.3),
        },
    )
    model = quantized(models.in_edgepack(proto), tmp_path)
    check_layout(model)
    assert sum(one.op_type == "QuantizeLinear" for one in model.ir.graph) == 2  # of x and of k
    assert not is_int8(next(one for one in model.ir.graph if one.op_type == "Concat"))


def test_an_average_between_convolutions_is_quantized_and_one_behind_which_a_head_stands_is_not(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [
            node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
            node("AveragePool", ["c1"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "w2"], ["c2"]),
            node("GlobalAveragePool", ["c2"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w3"], ["y"], transB=1),
        ],
        {"x": ["N", 3, 16, 16]},
        {"y": ["N", 5]},
        {
            "w1": models.random((8, 3, 3, 3), 1, 0.3),
            "w2": models.random((8, 8, 1, 1), 2, 0.3),
            "w3": models.random((5, 8), 3, 0.3),
        },
    )
    model = quantized(models.in_edgepack(proto), tmp_path)
    check_layout(model)
    found = {one.op_type: is_int8(one) for one in model.ir.graph}
    assert found["AveragePool"] and not found["GlobalAveragePool"] and not found["Gemm"]


def test_what_computes_in_float_reads_the_float_tensor(tmp_path: Path) -> None:
    model = quantized(models.in_edgepack(models.mobile_block()), tmp_path)
    gate = next(one for one in model.ir.graph if one.op_type == "Mul" and source(one.inputs[1]) == "HardSigmoid")
    squeeze = next(one for one in model.ir.graph if one.op_type == "GlobalAveragePool")
    assert not is_int8(gate) and not is_int8(squeeze)


def told(model: Model, tensorrt: str, **more: object) -> Model:
    facts = {"system": {"tensorrt": tensorrt, "jetpack": "6.2"}, "compute": "8.7", "memory_mb": 4096, **more}
    result = model.clone()
    result.ir.metadata_props[BUILT_FOR] = json.dumps(facts)
    return result


@pytest.mark.parametrize(("tensorrt", "kind"), [("8.5", "QuantizeLinear"), ("8.6", "QuantizeLinear"), ("10.3", "")])
def test_weights_are_integers_from_tensorrt_10_on(tensorrt: str, kind: str, tmp_path: Path) -> None:
    model = quantized(models.in_edgepack(models.convnet()), tmp_path)
    file = TENSORRT.lower(told(model, tensorrt), tmp_path)
    written = ir.load(tmp_path / file)
    weights = [node.inputs[1].producer() for node in written.graph if node.op_type == "Conv"]
    assert weights and all(source(node.inputs[0]) == kind for node in weights if node is not None)
    onnx.checker.check_model(str(tmp_path / file), full_check=True)
    feed = {"x": models.images(4, seed=3)}
    lowered = target.runner_here("tensorrt").load(str(tmp_path / file), 1)(feed)
    np.testing.assert_array_equal(
        lowered["y"], target.runner_here("tensorrt").load(*_saved(model, tmp_path))(feed)["y"]
    )


def _saved(model: Model, folder: Path) -> tuple[str, int]:
    return str(folder / model.save(folder / "plain.onnx")[0]), 1


def test_what_the_board_is_told(tmp_path: Path) -> None:
    model = quantized(models.in_edgepack(models.convnet()), tmp_path)
    span = {"x": {"min": [1, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [4, 3, 16, 16]}}
    TENSORRT.lower(told(model, "10.3", ranges=span, sparse=True, fp32_layers=["head"]), tmp_path)
    found = json.loads((tmp_path / "tensorrt.json").read_text())
    assert found == {
        "format": 1,
        "precision": "int8",
        "sparse": True,
        "built_for": {"tensorrt": "10.3", "jetpack": "6.2", "compute": "8.7"},
        "profile": span,
        "fp32_layers": ["head"],
        "workspace_bytes": 2**30,
    }
    assert BUILT_FOR not in ir.load(tmp_path / "model.onnx").metadata_props
    TENSORRT.lower(models.in_edgepack(models.convnet()), tmp_path)
    found = json.loads((tmp_path / "tensorrt.json").read_text())
    ones = [1, 3, 16, 16]
    assert found["precision"] == "fp32" and found["profile"] == {"x": {"min": ones, "opt": ones, "max": ones}}


def test_asymmetric_integers_of_another_tool_are_refused(tmp_path: Path) -> None:
    original = models.in_edgepack(models.convnet())
    np.savez(tmp_path / "calib.npz", x=models.images(16, seed=1))
    scheme = target.load("onnxruntime").SCHEME
    ready = prepare(original, scheme, read(tmp_path / "calib.npz", original))
    foreign = quantize(ready.model, scheme, ready.ranges, ready.layers).model
    with pytest.raises(UnsupportedOperator, match=r"QuantizeLinear 'x_QuantizeLinear' is uint8"):
        TENSORRT.lower(foreign, tmp_path)


def test_small_scales_are_raised_to_what_float16_holds(tmp_path: Path) -> None:
    proto = models.convnet()
    for tensor in proto.graph.initializer:
        if tensor.name == "w1":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[0] *= 1e-6
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    model = quantized(models.in_edgepack(proto), tmp_path)
    scales = [constant(node.inputs[1]) for node in model.ir.graph if constant(node.inputs[0]) is not None]
    least = min(float(scale.min()) for scale in scales if scale is not None)
    assert least >= 2.0**-17
