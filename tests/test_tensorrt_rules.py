"""The rules of TensorRT: each finds the offence that is planted for it, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static

from edgepack import device, target
from edgepack.data.reading import read
from edgepack.errors import LINT_FAILED
from edgepack.inspection import Inspection, inspect
from edgepack.lint import ADVICE, ERROR, SEVERITIES, SLOW, Finding
from edgepack.model import Model
from edgepack.passes.half import half
from edgepack.passes.quantize import quantize
from edgepack.quantization.preparation import prepare
from tests import graphs, models
from tests.qdq_graphs import CHANNELS, Qdq, clean
from tests.test_config import Edgepack, run_here

ORIN = "orin-nano@jp6.2"
XAVIER = "xavier-nx@jp5.1"  # TensorRT 8.5


def lint(model: Model, board: str = ORIN) -> list[Finding]:
    module = target.rules("tensorrt")
    assert module is not None
    return module.lint(model, device.find(board))


def rules() -> list[str]:
    from edgepack import _root

    target.rules("tensorrt")
    module = _root.load("edgepack.targets.tensorrt.rules", _root.TARGETS / "tensorrt" / "rules" / "__init__.py")
    return [rule.name for rule in module.RULES]


# --- what is as it should be ----------------------------------------------------------------------------


def clean_model() -> Model:
    net = clean()
    return net.finish(net.nodes[-1].output[0], shape=(1, 10))


@pytest.mark.parametrize("board", [ORIN, XAVIER, "agx-orin@jp6.0", "thor", "orin-nx@jp7.2"])
def test_a_clean_graph_has_no_offence(board: str) -> None:
    assert lint(clean_model(), board) == []


def encoder() -> Model:
    """What modelopt writes for a Transformer: pairs before a normalization that follows a product, and on both Adds."""
    net = Qdq()
    hidden = net.node("MatMul", [net.pair("x"), net.kernel(CHANNELS, CHANNELS, axis=1)])
    rounded = net.pair(hidden)
    normal = net.node("LayerNormalization", [rounded, net.constant(np.ones(CHANNELS, np.float32))])
    scores = net.node("MatMul", [net.pair(normal), net.pair(net.node("Transpose", [normal], perm=[0, 2, 1]))])
    weights = net.node("Softmax", [scores])
    mixed = net.node("MatMul", [net.pair(weights), net.pair(normal)])
    total = net.node("Add", [rounded, net.pair(mixed)])
    return net.finish(total, inputs={"x": (1, 32, CHANNELS)}, shape=(1, 32, CHANNELS))


def test_an_encoder_as_modelopt_writes_it_has_no_offence() -> None:
    assert [finding for finding in lint(encoder()) if finding.severity != ADVICE] == []


def float_models() -> list[onnx.ModelProto]:
    return [
        models.convnet(), models.mobile_block(), models.mlp(), models.transformer(length="T", blocks=2), models.lstm(),
        models.convnet(opset=11), models.pixelwise(), half(Model.from_proto(models.convnet())).model.proto(),
        *(graphs.graph(seed, ["conv", "residual", "excite", "concat"], "pooled") for seed in range(4)),
    ]  # fmt: skip


@pytest.mark.parametrize("board", [ORIN, "agx-orin@jp6.0", "jetson-nano"])
@pytest.mark.parametrize("number", range(len(float_models())))
def test_of_a_float_model_there_is_advice_only(number: int, board: str) -> None:
    found = lint(Model.from_proto(float_models()[number]), board)
    if board == "jetson-nano":  # TensorRT 8.2 has neither HardSwish nor LayerNormalization, whatever they compute in
        found = [finding for finding in found if finding.rule != "operator"]
    assert {finding.severity for finding in found} <= {ADVICE}


# --- one offence planted for each rule ------------------------------------------------------------------

Planted = tuple[Model, str]
PLANTED: dict[str, Callable[[], Planted]] = {}


def plants(rule: str, board: str = ORIN) -> Callable[[Callable[[], Model]], None]:
    def keep(build: Callable[[], Model]) -> None:
        assert rule not in PLANTED
        PLANTED[rule] = lambda: (build(), board)

    return keep


def conv_after(pair: Callable[[Qdq], str], bias: Callable[[Qdq], str] | None = None) -> Model:
    """A convolution that reads what `pair` makes of the input."""
    net = Qdq()
    return net.finish(net.conv(pair(net), bias=bias(net) if bias is not None else ""))


def conv_with(weight: Callable[[Qdq], str], op: str = "Conv") -> Model:
    net = Qdq()
    return net.finish(net.node(op, [net.pair("x"), weight(net)], pads=[1, 1, 1, 1]))


def weights(net: Qdq) -> str:
    return net.constant(models.random((CHANNELS, CHANNELS, 3, 3), scale=0.2))


@plants("zero-point")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", zero=3))


@plants("unsigned")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", kind=np.uint8))


@plants("zero-point-missing", XAVIER)
def _() -> Model:
    def pair(net: Qdq) -> str:
        value = net.node("QuantizeLinear", ["x", net.scales(0.1), net.constant(np.int8(0))])
        return net.node("DequantizeLinear", [value, net.scales(0.1)])

    return conv_after(pair)


@plants("type")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", zero=net.typed(TensorProto.FLOAT8E4M3FN)))


@plants("blocks")
def _() -> Model:
    net = Qdq()
    scale = net.constant(np.full((CHANNELS, 2), 0.1, np.float32))
    zero = net.constant(np.zeros((CHANNELS, 2), np.int8))
    inner = net.constant(models.random((CHANNELS, 32)))
    more = {"axis": 1, "block_size": 16}
    weight = net.node(
        "DequantizeLinear", [net.node("QuantizeLinear", [inner, scale, zero], **more), scale, zero], **more
    )
    product = net.node("Gemm", [net.pair("x"), weight], transB=1)
    return net.finish(product, inputs={"x": (32, 32)}, shape=(32, CHANNELS), opset=19)


@plants("scale")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", scale=0.0))


@plants("activation-per-channel")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", channels=CHANNELS, axis=1))


@plants("weight-axis")
def _() -> Model:
    return conv_with(lambda net: net.pair(weights(net), channels=CHANNELS, axis=1))


@plants("axis-unsaid")
def _() -> Model:
    return conv_with(lambda net: net.pair(weights(net), channels=CHANNELS), "ConvTranspose")


@plants("quantized-bias")
def _() -> Model:
    def bias(net: Qdq) -> str:
        stored = net.constant(np.zeros(CHANNELS, np.int32))
        return net.node("DequantizeLinear", [stored, net.scales(0.01, CHANNELS)], axis=0)

    return conv_after(lambda net: net.pair("x"), bias)


@plants("stored-integers", XAVIER)
def _() -> Model:
    return conv_with(stored)


def stored(net: Qdq) -> str:
    integers = net.constant(np.ones((CHANNELS, CHANNELS, 3, 3), np.int8))
    zero = net.constant(np.zeros(CHANNELS, np.int8))
    return net.node("DequantizeLinear", [integers, net.scales(0.1, CHANNELS), zero], axis=0)


@plants("weight-per-tensor")
def _() -> Model:
    return conv_with(lambda net: net.pair(weights(net)))


@plants("pair-missing")
def _() -> Model:
    net = Qdq()
    value = net.node("QuantizeLinear", ["x", net.scales(0.1), net.constant(np.int8(0))])
    wide = net.node("Cast", [value], to=TensorProto.FLOAT)
    return net.finish(net.conv(net.pair(wide)))


@plants("pair-scale")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", other=0.07))


@plants("two-scales")
def _() -> Model:
    net = Qdq()
    one, two = (net.conv(net.pair("x", scale=scale)) for scale in (0.1, 0.2))
    return net.finish(net.node("Concat", [one, two], axis=1), shape=(1, 2 * CHANNELS, 8, 8))


@plants("before-activation")
def _() -> Model:
    net = Qdq()
    inner = net.node("Relu", [net.pair(net.conv(net.pair("x"), name="early"))])
    return net.finish(net.conv(net.pair(inner)))


@plants("residual")
def _() -> Model:
    net = Qdq()
    shortcut = net.pair("x")
    return net.finish(net.node("Add", [net.pair(net.conv(shortcut)), shortcut]))


@plants("half-quantized")
def _() -> Model:
    return conv_with(weights)


@plants("idle")
def _() -> Model:
    net = Qdq()
    return net.finish(net.node("Softmax", [net.pair(net.node("Exp", ["x"]))]))


@plants("weights-not-constant")
def _() -> Model:
    net = Qdq()
    kernel = net.pair("k", channels=0)
    product = net.node("Conv", [net.pair("x"), kernel], pads=[1, 1, 1, 1])
    shapes = {"x": (1, CHANNELS, 8, 8), "k": (CHANNELS, CHANNELS, 3, 3)}
    return net.finish(product, inputs=shapes)


@plants("small")
def _() -> Model:
    net = Qdq()
    product = net.node("Gemm", [net.pair("x"), net.kernel(10, CHANNELS)], transB=1)
    return net.finish(product, inputs={"x": (32, CHANNELS)}, shape=(32, 10))


@plants("integer-operator")
def _() -> Model:
    net = Qdq()
    stored = net.constant(np.ones((CHANNELS, CHANNELS, 3, 3), np.uint8))
    product = net.node("ConvInteger", ["x", stored], pads=[1, 1, 1, 1])
    return net.finish(product, types={"x": TensorProto.UINT8, product: TensorProto.INT32})


@plants("microsoft-pair")
def _() -> Model:
    return conv_after(lambda net: net.pair("x", domain="com.microsoft"))


@plants("operator")
def _() -> Model:
    net = Qdq()
    return net.finish(net.node("Det", ["x"]), shape=(1, CHANNELS))


@plants("operator-unsure")
def _() -> Model:
    net = Qdq()
    scale = net.constant(np.ones(8, np.float32))
    return net.finish(net.node("RMSNormalization", ["x", scale]), opset=20)


@plants("opset")
def _() -> Model:
    net = Qdq()
    return net.finish(net.conv(net.pair("x")), opset=25)


@plants("opset-unsure")
def _() -> Model:
    net = Qdq()
    return net.finish(net.conv(net.pair("x")), opset=22)


@plants("no-int8", "jetson-nano")
def _() -> Model:
    net = Qdq()
    return net.finish(net.conv(net.pair("x")), opset=13)


@plants("wide-input")
def _() -> Model:
    net = Qdq()
    return net.finish(net.node("Cast", ["x"], to=TensorProto.FLOAT), types={"x": TensorProto.DOUBLE})


@plants("open-dimension")
def _() -> Model:
    net = Qdq()
    return net.finish(net.node("Relu", ["x"]), inputs={"x": ("N", CHANNELS, 8, 8)}, shape=("N", CHANNELS, 8, 8))


@plants("half-overflow")
def _() -> Model:
    net = Qdq()
    mask = net.node("Cast", [net.constant(np.float32(-1e9))], to=TensorProto.FLOAT16)
    inner = net.node("Add", ["x", mask])
    return net.finish(inner, types={"x": TensorProto.FLOAT16, inner: TensorProto.FLOAT16})


@plants("half-reduction")
def _() -> Model:
    net = Qdq()
    mean = net.node("ReduceMean", ["x"], axes=[1], keepdims=1)
    return net.finish(mean, types={"x": TensorProto.FLOAT16, mean: TensorProto.FLOAT16}, shape=(1, 1, 8, 8))


def test_every_rule_has_its_planted_offence() -> None:
    assert sorted(PLANTED) == sorted(rules())


@pytest.mark.parametrize("rule", sorted(PLANTED))
def test_a_planted_offence_is_found_by_its_rule_alone(rule: str) -> None:
    found = lint(*PLANTED[rule]())
    assert [finding.rule for finding in found] == [rule]
    assert found[0].severity in SEVERITIES and found[0].what and found[0].advice
    assert found[0].node or found[0].tensor or rule.startswith("opset")


# --- near misses ----------------------------------------------------------------------------------------


def names(model: Model, board: str = ORIN) -> list[str]:
    return [finding.rule for finding in lint(model, board)]


@pytest.mark.parametrize(
    ("op", "shape", "axis", "attributes", "found"),
    [
        ("ConvTranspose", (CHANNELS, 32, 3, 3), 1, {"pads": [1, 1, 1, 1]}, []),
        ("ConvTranspose", (CHANNELS, 32, 3, 3), 0, {"pads": [1, 1, 1, 1]}, ["weight-axis"]),
        ("Gemm", (CHANNELS, 32), 1, {}, []),
        ("Gemm", (CHANNELS, 32), -1, {}, []),
        ("Gemm", (CHANNELS, 32), 0, {}, ["weight-axis"]),
        ("Gemm", (32, CHANNELS), 0, {"transB": 1}, []),
        ("Gemm", (32, CHANNELS), 1, {"transB": 1}, ["weight-axis"]),
        ("MatMul", (CHANNELS, 32), 1, {}, []),
        ("MatMul", (2, CHANNELS, 32), 2, {}, []),
        ("MatMul", (CHANNELS, 32), 0, {}, ["weight-axis"]),
    ],
)
def test_the_axis_of_weights(
    op: str, shape: tuple[int, ...], axis: int, attributes: dict[str, object], found: list[str]
) -> None:
    net = Qdq()
    weight = net.pair(net.constant(models.random(shape)), channels=shape[axis], axis=axis)
    product = net.node(op, [net.pair("x"), weight], **attributes)
    inputs = {"x": (1, CHANNELS, 8, 8) if op == "ConvTranspose" else (*shape[:-2], 32, CHANNELS)}
    ends = (1, 32, 8, 8) if op == "ConvTranspose" else (*shape[:-2], 32, 32)
    assert names(net.finish(product, inputs=inputs, shape=ends)) == found


@pytest.mark.parametrize(("axis", "found"), [(0, []), (1, ["weight-axis"])])
def test_the_axis_of_weights_behind_a_transpose(axis: int, found: list[str]) -> None:
    net = Qdq()
    turned = net.node("Transpose", [net.kernel(32, CHANNELS, axis=axis)], perm=[1, 0])
    product = net.node("MatMul", [net.pair("x"), turned])
    assert names(net.finish(product, inputs={"x": (32, CHANNELS)}, shape=(32, 32))) == found


def residual(on_layer: bool, on_shortcut: bool, relu: bool = False) -> Model:
    net = Qdq()
    entry = net.pair("x")
    layer = net.conv(entry)
    layer = net.node("Relu", [layer]) if relu else layer
    ends = [net.pair(layer) if on_layer else layer, entry if on_shortcut else "x"]
    return net.finish(net.node("Add", ends))


def test_a_pair_on_the_shortcut_of_a_residual_add_is_right() -> None:
    assert names(residual(on_layer=False, on_shortcut=True)) == []
    assert names(residual(on_layer=False, on_shortcut=False)) == []


def test_a_pair_between_a_convolution_and_its_add_is_not() -> None:
    assert names(residual(on_layer=True, on_shortcut=False)) == ["residual"]


def test_behind_an_activation_the_add_is_no_part_of_the_convolution() -> None:
    assert names(residual(on_layer=True, on_shortcut=True, relu=True)) == []


def test_an_added_constant_is_no_shortcut() -> None:
    net = Qdq()
    assert names(net.finish(net.node("Add", [net.pair(net.conv(net.pair("x"))), net.scales(0.1, 8)]))) == []


def test_a_pair_inside_silu_is_found() -> None:
    net = Qdq()
    value = net.pair(net.conv(net.pair("x"), name="conv"))
    product = net.node("Mul", [value, net.node("Sigmoid", [value])])
    found = lint(net.finish(product))
    assert [(finding.rule, finding.what) for finding in found] == [("before-activation", "between Conv and Sigmoid")]


def test_a_pair_that_another_layer_reads_too_may_stand_before_an_activation() -> None:
    net = Qdq()
    value = net.pair(net.conv(net.pair("x")))
    ends = [net.node("Relu", [value]), net.conv(value)]
    assert names(net.finish(net.node("Concat", ends, axis=1), shape=(1, 2 * CHANNELS, 8, 8))) == []


def test_halves_of_one_pair_are_looked_at_together() -> None:
    """One QuantizeLinear, and a DequantizeLinear for each reader, as some exporters write it."""
    net = Qdq()
    value = net.pair(net.conv(net.pair("x")))
    quantize = next(node for node in net.nodes if node.output[0] == net.nodes[-1].input[0])
    second = net.node("DequantizeLinear", [quantize.output[0], *quantize.input[1:]])
    ends = [net.node("Softmax", [second]), net.conv(value)]
    assert names(net.finish(net.node("Concat", ends, axis=1), shape=(1, 2 * CHANNELS, 8, 8))) == []


def test_a_pair_at_the_models_output_is_idle() -> None:
    net = Qdq()
    found = lint(net.finish(net.pair(net.conv(net.pair("x")))))
    assert [(finding.rule, finding.what) for finding in found] == [("idle", "only the model's output reads it")]


def test_a_pair_before_a_normalization_pays_only_behind_a_layer() -> None:
    for behind, found in (("Exp", ["idle"]), ("conv", [])):
        net = Qdq()
        value = net.conv(net.pair("x")) if behind == "conv" else net.node("Exp", ["x"])
        normal = net.node("LayerNormalization", [net.pair(value), net.constant(np.ones(8, np.float32))])
        assert names(net.finish(normal)) == found


def test_steps_that_only_move_numbers_are_looked_through() -> None:
    net = Qdq()
    rounded = net.pair("x")
    moved = net.node("Transpose", [net.node("Identity", [rounded])], perm=[0, 1, 3, 2])
    assert names(net.finish(net.conv(moved))) == []


# --- boards and versions --------------------------------------------------------------------------------


def pair_of(kind: int) -> Model:
    net = Qdq()
    return net.finish(net.conv(net.pair("x", zero=net.typed(kind))))


@pytest.mark.parametrize(
    ("kind", "board", "found"),
    [
        (TensorProto.INT16, ORIN, ["type"]),
        (TensorProto.UINT4, ORIN, ["type"]),
        (TensorProto.INT4, ORIN, []),
        (TensorProto.INT4, XAVIER, ["type"]),
        (TensorProto.FLOAT8E4M3FN, "thor", []),
        (TensorProto.INT8, "thor", []),
    ],
)
def test_types_by_board(kind: int, board: str, found: list[str]) -> None:
    assert names(pair_of(kind), board) == found


def normalized(opset: int = 17) -> Model:
    net = Qdq()
    return net.finish(net.node("LayerNormalization", ["x", net.constant(np.ones(8, np.float32))]), opset=opset)


@pytest.mark.parametrize(
    ("board", "found"), [("jetson-nano", ["operator", "opset-unsure"]), (XAVIER, ["operator"]), ("agx-orin@jp6.0", [])]
)
def test_operators_by_version(board: str, found: list[str]) -> None:
    assert [name for name in names(normalized(), board) if name != "opset-unsure"] == found[:1]


def test_an_operator_of_another_domain_is_refused_and_a_plugin_is_not() -> None:
    for op, domain, found in (("Gelu", "com.microsoft", ["operator"]), ("EfficientNMS_TRT", "trt.plugins", [])):
        net = Qdq()
        assert names(net.finish(net.node(op, ["x"], domain=domain))) == found


def test_a_function_of_the_models_own_is_no_foreign_operator() -> None:
    net = Qdq()
    proto = net.finish(net.node("twice", ["x"], domain="own")).proto()
    proto.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    proto.functions.append(helper.make_function("own", "twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    assert names(Model.from_proto(proto)) == []


def test_int64_inputs_are_cast_before_tensorrt_10() -> None:
    model = Model.from_proto(models.transformer())
    assert "wide-input" in names(model, XAVIER)
    assert "wide-input" not in names(model, ORIN)


def test_opsets_of_float_models_are_advice() -> None:
    assert names(normalized(opset=23)) == ["opset-unsure"]
    assert {finding.severity for finding in lint(normalized(opset=23))} == {ADVICE}


# --- other quantizers -----------------------------------------------------------------------------------


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.feeds = iter([{"x": image[None]} for image in models.images(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def test_what_onnxruntimes_quantizer_does_wrong(tmp_path: Path) -> None:
    onnx.save(models.convnet(), tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader())
    found = lint(Model.from_proto(onnx.load(tmp_path / "int8.onnx")))
    by = {severity: {finding.rule for finding in found if finding.severity == severity} for severity in SEVERITIES}
    assert by[ERROR] == {"zero-point", "quantized-bias"}
    assert by[SLOW] == {"residual", "idle"}
    assert by[ADVICE] == {"weight-per-tensor", "small", "open-dimension"}
    residual = next(finding for finding in found if finding.rule == "residual")
    assert (residual.node, residual.tensor) == ("add", "c3")


# --- our own --------------------------------------------------------------------------------------------

BLOCKS = ("conv", "grouped", "pairs", "depthwise", "residual", "concat", "shared", "excite", "split", "slice", "norm",
          "prelu", "transposed", "shuffle", "gather", "glu")  # fmt: skip


@pytest.mark.skipif("tensorrt" not in target.names(), reason="the target is not there yet")
@pytest.mark.parametrize("seed", range(12))
def test_what_edgepack_quantizes_for_tensorrt_has_no_offence(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    blocks = [str(kind) for kind in random.choice(BLOCKS, 4)]
    model = Model.from_proto(graphs.graph(seed, blocks, str(random.choice(["pooled", "flat", "attention"]))))
    (entry,) = model.inputs
    shape = [dim for dim in entry.shape[1:] if isinstance(dim, int)]
    np.savez(tmp_path / "calib.npz", **{entry.name: random.standard_normal((32, *shape)).astype(np.float32)})
    scheme = target.load("tensorrt").SCHEME
    prepared = prepare(model, scheme, read(tmp_path / "calib.npz", model))
    int8 = quantize(model, scheme, prepared.ranges, prepared.layers).model
    assert int8.operators["DequantizeLinear"] > 2
    assert [finding for finding in lint(int8) if finding.severity != ADVICE] == []


# --- inspect --------------------------------------------------------------------------------------------


@pytest.fixture
def edgepack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Edgepack:
    """The command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: run_here(monkeypatch, capsys, *arguments)


def look(model: Model, folder: Path, **options: str) -> Inspection:
    onnx.save(model.proto(), folder / "model.onnx")
    found = inspect(folder / "model.onnx", **options)  # type: ignore[arg-type]
    assert isinstance(found, Inspection)
    return found


def test_inspect_names_the_worst_first(tmp_path: Path) -> None:
    net = Qdq()
    found = look(net.finish(net.pair(net.conv(net.pair("x", zero=3)))), tmp_path, device=ORIN)
    assert [finding.rule for finding in found.findings] == ["zero-point", "idle"]
    assert found.linted == ("tensorrt",) and found.is_refused
    first = found.to_json()["findings"][0]
    assert first["severity"] == "error" and first["tensor"] == "x" and first["node"].startswith("QuantizeLinear")


def test_only_boards_that_run_tensorrt_have_its_rules(tmp_path: Path) -> None:
    model, _ = PLANTED["zero-point"]()
    assert look(model, tmp_path, device="rpi5").linted == ()
    assert look(model, tmp_path).linted == ()
    assert look(model, tmp_path, device=ORIN, target_name="onnxruntime").linted == ()


def test_the_command_ends_with_5_where_tensorrt_would_refuse(edgepack: Edgepack, tmp_path: Path) -> None:
    model, _ = PLANTED["zero-point"]()
    onnx.save(model.proto(), tmp_path / "model.onnx")
    code, out, _ = edgepack("inspect", tmp_path / "model.onnx", "--device", ORIN)
    assert code == LINT_FAILED == 5
    assert "zero-point" in out and "tensor x: zero point 3" in out
    assert "quantize symmetrically" in out
    code, out, _ = edgepack("inspect", tmp_path / "model.onnx", "--device", ORIN, "--json")
    assert code == LINT_FAILED and json.loads(out)["findings"][0]["rule"] == "zero-point"


def test_the_command_ends_with_0_where_only_speed_is_lost(edgepack: Edgepack, tmp_path: Path) -> None:
    model, _ = PLANTED["residual"]()
    onnx.save(model.proto(), tmp_path / "model.onnx")
    code, out, _ = edgepack("inspect", tmp_path / "model.onnx", "--device", ORIN)
    assert code == 0 and "slow" in out
    onnx.save(clean_model().proto(), tmp_path / "model.onnx")
    code, out, _ = edgepack("inspect", tmp_path / "model.onnx", "--device", ORIN)
    assert code == 0 and f"nothing found by the rules of tensorrt on {ORIN}" in out


def test_the_documentation_lists_every_rule_as_it_is() -> None:
    from edgepack import _root

    module = _root.load("edgepack.targets.tensorrt.rules", _root.TARGETS / "tensorrt" / "rules" / "__init__.py")
    text = (Path(__file__).parent.parent / "docs" / "tensorrt.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    assert rows[: len(module.RULES)] == [
        [f"`{rule.name}`", rule.severity, rule.why, rule.source] for rule in module.RULES
    ]
