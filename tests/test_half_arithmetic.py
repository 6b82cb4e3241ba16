"""fp16 graphs: their types, what stays float32, and that their roundings are seen."""

from __future__ import annotations

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
from edgepack.data.samples import Samples
from edgepack.metrics.merit import harness
from edgepack.model import Model, constant
from edgepack.passes.half_arithmetic import half_arithmetic, holds
from edgepack.passes.half_emulation import emulated
from edgepack.passes.quantize import quantize
from edgepack.quantization.half_range import halved, wide_nodes
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models
from tests.graphs import BLOCKS, graph

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def samples_of(folder: Path, model: Model, **arrays: np.ndarray) -> Samples:
    np.savez(folder / "calib.npz", **arrays)
    return read(folder / "calib.npz", model)


def types(model: Model) -> dict[str, ir.DataType]:
    """The type of each node's first output, by its name."""
    return {str(node.outputs[0].name): node.outputs[0].dtype for node in model.ir.graph}  # type: ignore[misc]


def check_types(model: Model, original: Model) -> None:
    """A valid graph whose inputs and outputs are the original's, and whose floats are of one type a node."""
    onnx.checker.check_model(model.proto(), full_check=True)
    assert [str(one) for one in model.inputs] == [str(one) for one in original.inputs]
    assert [(one.name, one.dtype) for one in model.outputs] == [(one.name, one.dtype) for one in original.outputs]
    for node in model.ir.graph:
        if node.op_type not in ("Cast", "Resize", "QuantizeLinear", "DequantizeLinear"):
            floats = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
            assert not {HALF, FLOAT} <= floats, node


def scaled(factor: float, back: float, opset: int = 17) -> Model:
    """Conv, Mul by a factor, Relu, Mul back, Conv: what is between the products reaches far or nearly nothing."""
    node = helper.make_node
    return models.in_edgepack(
        models.model(
            [
                node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
                node("Mul", ["c1", "up"], ["large"]),
                node("Relu", ["large"], ["active"]),
                node("Mul", ["active", "down"], ["small"]),
                node("Conv", ["small", "w2"], ["y"]),
            ],
            {"x": ["N", 3, 16, 16]},
            {"y": ["N", 4, 16, 16]},
            {
                "w1": models.random((8, 3, 3, 3), 1, 0.3),
                "w2": models.random((4, 8, 1, 1), 2, 0.3),
                "up": np.array(factor, np.float32),
                "down": np.array(back, np.float32),
            },
            opset=opset,
        )
    )


def apart(model: Model, other: Model, feed: dict[str, np.ndarray]) -> float:
    name = model.outputs[0].name
    found = harness().sqnr_db(Session(model).run(feed)[name], Session(other).run(feed)[name])
    return float(found)


@pytest.mark.parametrize("name", ["convnet", "mobile_block", "mlp", "pixelwise"])
def test_all_of_a_plain_net_is_fp16(name: str) -> None:
    original = models.in_edgepack(getattr(models, name)())
    made = half_arithmetic(original)
    check_types(made.model, original)
    assert made.figures["wide"] == 0 and made.figures["half"] > 0
    assert all(
        dtype == HALF for output, dtype in types(made.model).items() if output not in {"y", "out"} | _casts(made.model)
    )
    assert made.model.weight_bytes <= 0.55 * original.weight_bytes


def _casts(model: Model) -> set[str]:
    return {str(node.outputs[0].name) for node in model.ir.graph if node.op_type == "Cast"}


def test_the_model_that_is_given_stays_as_it_is() -> None:
    original = models.in_edgepack(models.convnet())
    before = original.digest()
    emulated(half_arithmetic(original).model)
    assert original.digest() == before and original.ir.graph.outputs[0].dtype == FLOAT
    assert all(value.dtype != HALF for node in original.ir.graph for value in node.outputs)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=some.integers(0, 10_000),
    kinds=some.lists(some.sampled_from(BLOCKS), min_size=1, max_size=4),
    data=some.data(),
)
def test_any_graph_with_any_part_in_float32(seed: int, kinds: list[str], data: some.DataObject) -> None:
    original = models.in_edgepack(graph(seed, kinds, "pooled"))
    outputs = [str(node.outputs[0].name) for node in original.ir.graph]
    wide = data.draw(some.sets(some.sampled_from(outputs)))
    made = half_arithmetic(original, wide)
    check_types(made.model, original)
    found = types(made.model)
    assert all(found[name] != HALF for name in wide & found.keys())
    shape = [dim if isinstance(dim, int) else 2 for dim in original.inputs[0].shape]
    feed = {original.inputs[0].name: models.random(shape, seed)}
    assert apart(original, made.model, feed) > 40
    assert apart(original, emulated(made.model), feed) > 40


def test_onnx_runtime_hides_an_overflow_that_the_emulation_shows() -> None:
    model = scaled(1e5, 1e-5)
    typed = half_arithmetic(model, {"small"}).model  # 1e5 itself is no float16, so its Mul is float32 anyway
    assert types(typed)["large"] == FLOAT
    typed = half_arithmetic(scaled(3e4, 1e-3)).model
    feed = {"x": models.images(4)}
    assert np.isfinite(Session(typed).run(feed)["y"]).all()
    assert not np.isfinite(Session(emulated(typed)).run(feed)["y"]).all()


@pytest.mark.parametrize(
    ("factor", "back", "why"), [(3e4, 1e-3, "it reaches"), (1e-6, 1e3, "it is as small as")], ids=["over", "under"]
)
def test_what_leaves_the_range_on_samples_stays_float32(factor: float, back: float, why: str, tmp_path: Path) -> None:
    model = scaled(factor, back)
    samples = samples_of(tmp_path, model, x=models.images(32, seed=1))
    wide = wide_nodes(model, samples)
    assert {"large", "active", "small"} <= wide.names and not {"c1"} & wide.names
    assert why in wide.why["active"]
    made = halved(model, wide, model, samples.first(4))
    found = types(made.model)
    assert found["active"] == FLOAT and found["c1"] == HALF
    assert apart(model, emulated(made.model), {"x": models.images(8, seed=2)}) > 50


def test_a_sum_that_overflows_before_its_mean_stays_float32(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [node("Relu", ["x"], ["r"]), node("GlobalAveragePool", ["r"], ["g"]), node("Mul", ["g", "g"], ["y"])],
        {"x": ["N", 3, 256, 256]},
        {"y": ["N", 3, 1, 1]},
    )
    model = models.in_edgepack(proto)
    samples = samples_of(tmp_path, model, x=np.abs(models.random((8, 3, 256, 256), 1)) + 1)
    wide = wide_nodes(model, samples)
    assert wide.names == {"g"} and "sums of 1" in wide.why["g"]


def test_exponentials_of_large_logits_stay_float32(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [node("MatMul", ["x", "w"], ["logits"]), node("Softmax", ["logits"], ["y"], axis=-1)],
        {"x": ["N", 8]},
        {"y": ["N", 6]},
        {"w": models.random((8, 6), 1, 300.0)},
    )
    model = models.in_edgepack(proto)
    wide = wide_nodes(model, samples_of(tmp_path, model, x=models.random((32, 8), 2)))
    assert wide.names == {"logits", "y"} and "exponentials" in wide.why["y"]
    mild = models.in_edgepack(models.transformer())
    ids = np.random.default_rng(0).integers(0, 100, (16, 12))
    assert not {"soft0", "scaled0"} & wide_nodes(mild, samples_of(tmp_path, mild, ids=ids)).names


def test_a_divisor_near_zero_stays_float32(tmp_path: Path) -> None:
    node = helper.make_node
    proto = models.model(
        [
            node("Mul", ["x", "x"], ["squares"]),
            node("Mul", ["squares", "tiny"], ["small"]),
            node("Add", ["small", "epsilon"], ["sum"]),
            node("Sqrt", ["sum"], ["root"]),
            node("Div", ["x", "root"], ["y"]),
        ],
        {"x": ["N", 64]},
        {"y": ["N", 64]},
        {"tiny": np.array(1e-4, np.float32), "epsilon": np.array(1e-6, np.float32)},
    )
    model = models.in_edgepack(proto)
    wide = wide_nodes(model, samples_of(tmp_path, model, x=models.random((32, 64), 1)))
    assert {"sum", "root"} <= wide.names
    made = halved(model, wide, model, [{"x": models.random((4, 64), 2)}])
    assert apart(model, emulated(made.model), {"x": models.random((4, 64), 3)}) > 50


def test_without_samples_sensitive_operators_stay_float32() -> None:
    model = models.in_edgepack(models.transformer())
    wide = wide_nodes(model, None)
    operators = {node.op_type for node in model.ir.graph if node.outputs[0].name in wide.names}
    assert operators == {"Softmax", "LayerNormalization"}
    feed = {"ids": np.arange(12, dtype=np.int64)[None]}
    made = halved(model, wide, model, [feed])
    assert "no samples" in made.note
    assert types(made.model)["n0"] == FLOAT and types(made.model)["qm0"] == HALF


def test_answers_that_suffer_all_the_same_take_all_but_products_back() -> None:
    model = scaled(3e4, 1e-3)
    feeds = [{"x": models.images(4, seed=s)} for s in range(2)]
    made = halved(model, wide_nodes(scaled(1.0, 1.0), None), model, feeds)  # which knows nothing of the overflow
    found = types(made.model)
    assert "all but products" in made.note and found["active"] == FLOAT and found["c1"] == HALF
    assert apart(model, emulated(made.model), feeds[0]) > 40


def test_weights_that_float16_does_not_hold_keep_their_node_float32() -> None:
    assert holds(models.random((100,))) and holds(np.zeros(3, np.float32))
    assert not holds(np.array([1e6, 1], np.float32)) and not holds(np.full(10, 1e-8, np.float32))
    assert not holds(np.array([np.inf], np.float32))
    found = types(half_arithmetic(scaled(1e6, 1.0)).model)
    assert found["large"] == FLOAT and found["c1"] == HALF


def test_shapes_are_computed_as_they_were() -> None:
    """A length of 4,097 is no float16."""
    node = helper.make_node
    proto = models.model(
        [
            node("Shape", ["x"], ["shape"]),
            node("Cast", ["shape"], ["lengths"], to=1),
            node("Mul", ["lengths", "one"], ["scaled"]),
            node("Cast", ["scaled"], ["wanted"], to=7),
            node("Relu", ["x"], ["r"]),
            node("Expand", ["r", "wanted"], ["y"]),
        ],
        {"x": ["N", "L"]},
        {"y": ["N", "L"]},
        {"one": np.array(1, np.float32)},
    )
    model = models.in_edgepack(proto)
    made = half_arithmetic(model)
    check_types(made.model, model)
    assert types(made.model)["scaled"] == FLOAT
    assert Session(made.model).run({"x": models.random((1, 4097))})["y"].shape == (1, 4097)


def test_control_flow_stays_float32_and_reads_float32() -> None:
    node = helper.make_node
    branches = [
        helper.make_graph(
            [node("Mul", ["r", factor], [f"{name}_y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_y", 1, None)],
            [onnx.numpy_helper.from_array(np.array(value, np.float32), factor)],
        )
        for name, factor, value in (("then", "two", 2), ("else", "three", 3))
    ]
    proto = models.model(
        [
            node("Relu", ["x"], ["r"]),
            node("ReduceSum", ["r"], ["total"], keepdims=0),
            node("Greater", ["total", "zero"], ["positive"]),
            node("If", ["positive"], ["z"], then_branch=branches[0], else_branch=branches[1]),
            node("Relu", ["z"], ["y"]),
        ],
        {"x": ["N", 8]},
        {"y": ["N", 8]},
        {"zero": np.array(0, np.float32)},
    )
    model = models.in_edgepack(proto)
    made = half_arithmetic(model)
    onnx.checker.check_model(made.model.proto(), full_check=True)
    feed = {"x": models.random((2, 8))}
    np.testing.assert_allclose(Session(made.model).run(feed)["y"], Session(model).run(feed)["y"], rtol=2e-3)


def mixed_int8(folder: Path, opset: int) -> tuple[Model, Model]:
    original = models.in_edgepack(models.mobile_block())
    scheme = target.load("tensorrt").SCHEME
    ready = prepare(original, scheme, samples_of(folder, original, x=models.images(32, seed=1)))
    made = quantize(ready.model, scheme, ready.ranges, ready.layers).model
    if opset > made.opset:
        proto = onnx.version_converter.convert_version(made.proto(), opset)
        made = Model.from_proto(proto)
    return original, made


def test_between_integer_operators_everything_is_fp16(tmp_path: Path) -> None:
    original, int8 = mixed_int8(tmp_path, 19)
    typed = half_arithmetic(int8).model
    check_types(typed, original)
    found = types(typed)
    for node in typed.ir.graph:
        if node.op_type in ("Conv", "HardSwish", "Mul", "Add"):
            assert found[str(node.outputs[0].name)] == HALF
        if node.op_type == "DequantizeLinear":
            scale = constant(node.inputs[1])
            assert scale is not None and scale.dtype == np.float16 and node.outputs[0].dtype == HALF
    first = next(node for node in typed.ir.graph if node.op_type == "QuantizeLinear")
    assert first.inputs[0] is typed.ir.graph.inputs[0]  # without a Cast in front
    feed = {"x": models.images(8, seed=2)}
    assert apart(original, emulated(typed), feed) > apart(original, int8, feed) - 1.5
    integers = [constant(node.inputs[0]) for node in int8.ir.graph if node.op_type == "DequantizeLinear"]
    kept = [constant(node.inputs[0]) for node in typed.ir.graph if node.op_type == "DequantizeLinear"]
    for one, other in zip(integers, kept, strict=True):
        assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))


def test_a_float32_layer_among_them_has_integers_and_scales_of_its_own_type(tmp_path: Path) -> None:
    original, int8 = mixed_int8(tmp_path, 19)
    typed = half_arithmetic(int8, {"a"}).model  # the residual sum, which shares its shortcut with a convolution
    check_types(typed, original)
    assert types(typed)["a"] == FLOAT
    assert apart(original, emulated(typed), {"x": models.images(8, seed=2)}) > 30


def test_below_opset_19_integer_operators_stay_between_float32(tmp_path: Path) -> None:
    original, int8 = mixed_int8(tmp_path, 17)
    typed = half_arithmetic(int8).model
    onnx.checker.check_model(typed.proto(), full_check=True)
    for node in typed.ir.graph:
        if node.op_type == "Conv" and node.inputs[0].producer().op_type == "DequantizeLinear":  # type: ignore[union-attr]
            assert node.outputs[0].dtype == FLOAT
    assert apart(original, emulated(typed), {"x": models.images(8, seed=2)}) > 30
