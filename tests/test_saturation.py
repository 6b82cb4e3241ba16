"""What a CPU that saturates answers: the emulation against arithmetic by hand, and against this machine's kernels.

tests/test_emulated.py holds it against an emulated Haswell.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper

from edgepack import target
from edgepack.building import pipeline
from edgepack.data.reading import read
from edgepack.model import Model
from edgepack.passes.dynamic import dynamic
from edgepack.passes.placement import place
from edgepack.passes.quantize import quantize
from edgepack.quantization.eight_bits import eight_bits
from edgepack.quantization.preparation import prepare
from edgepack.quantization.saturation import answers, overflowing, saturated_share, saturated_sums
from edgepack.reference import Session
from tests import models

ORT = target.load("onnxruntime").SCHEME
BYTES = arrays.arrays(np.uint8, (3, 9))


def by_hand(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Sum by sum, as the instruction's description has it."""
    result = np.zeros((len(data), len(weight)), np.int64)
    for row, column in np.ndindex(result.shape):
        products = [int(a) * int(b) for a, b in zip(data[row], weight[column], strict=True)] + [0]
        pairs = [sum(products[k : k + 2]) for k in range(0, data.shape[1], 2)]
        result[row, column] = sum(min(max(pair, -32768), 32767) for pair in pairs)
    return result


@settings(max_examples=60, deadline=None)
@given(BYTES, arrays.arrays(np.int8, (4, 9)))
def test_sums_are_those_of_the_instruction(data: np.ndarray, weight: np.ndarray) -> None:
    total, saturated = saturated_sums(data, weight)
    np.testing.assert_array_equal(total, by_hand(data, weight))
    exact = data.astype(np.int64) @ weight.T.astype(np.int64)
    assert saturated or (total == exact).all()


def test_extremes_saturate_on_both_sides() -> None:
    data = np.full((1, 64), 255, np.uint8)
    total, saturated = saturated_sums(data, np.stack([np.full(64, 127, np.int8), np.full(64, -128, np.int8)]))
    assert total.tolist() == [[32 * 32767, 32 * -32768]] and saturated == 64


@settings(max_examples=60, deadline=None)
@given(BYTES, arrays.arrays(np.int8, (4, 9), elements=st.integers(-64, 64)))
def test_seven_bits_never_saturate(data: np.ndarray, weight: np.ndarray) -> None:
    assert not overflowing(weight).any()
    total, saturated = saturated_sums(data, weight)
    assert not saturated
    np.testing.assert_array_equal(total, data.astype(np.int64) @ weight.T.astype(np.int64))


@settings(max_examples=200, deadline=None)
@given(st.integers(-128, 127), st.integers(-128, 127))
def test_what_can_overflow_does_for_the_worst_data(first: int, second: int) -> None:
    corners = [(a, b) for a in (0, 255) for b in (0, 255)]
    worst = any(not -32768 <= a * first + b * second <= 32767 for a, b in corners)
    assert overflowing(np.array([[first, second]], np.int8)).tolist() == [[worst]]


# --- whole models ---------------------------------------------------------------------------------------------

INTEGERS = {"x": TensorProto.UINT8, "y": TensorProto.INT32}


def loud(proto: onnx.ModelProto, *, bits: int = 8, reach: float = 4.0) -> Model:
    """The Q/DQ form of a model with every activation in [-reach, reach], or [0, reach] behind its activations."""
    model = models.in_edgepack(proto)
    made = {str(value.name): node.op_type for node in model.ir.graph for value in node.outputs}
    ranges = {
        name: (0.0 if made.get(name) in ("Relu", "Clip") else -reach, reach) for name in place(model, ORT).tensors
    }
    return quantize(model, replace(ORT, weight_bits=bits), ranges).model


def every_layer() -> onnx.ModelProto:
    """Convolutions of 3, 16 and 8 input channels, strided, dilated, grouped and depthwise; MatMul and Gemm."""
    node = helper.make_node
    return models.model(
        [
            node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=16),
            node("Conv", ["c2", "w3"], ["c3"], pads=[2, 1, 0, 1], strides=[2, 1], dilations=[1, 2]),
            node("Relu", ["c3"], ["r3"]),
            node("Conv", ["r3", "w4"], ["c4"], auto_pad="SAME_UPPER", strides=[2, 2], group=2),
            node("Relu", ["c4"], ["r4"]),
            node("Conv", ["r4", "w5"], ["c5"]),
            node("GlobalAveragePool", ["c5"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("MatMul", ["f", "w6"], ["m"]),
            node("Gemm", ["m", "w7", "b7"], ["h"], transB=1),
            node("MatMul", ["h", "w8"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 5]},
        {
            "w1": models.random((16, 3, 3, 3), 1), "b1": models.random((16,), 2),
            "w2": models.random((16, 1, 3, 3), 3), "b2": models.random((16,), 4),
            "w3": models.random((12, 16, 3, 2), 5, 0.5), "w4": models.random((8, 6, 3, 3), 6, 0.5),
            "w5": models.random((24, 8, 1, 1), 7), "w6": models.random((24, 15), 8),
            "w7": models.random((18, 15), 9), "b7": models.random((18,), 10), "w8": models.random((18, 5), 11),
        },
    )  # fmt: skip


def test_without_saturation_the_answers_are_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the emulation but the saturation: if no sum is clipped, it must give what the kernels here give."""
    monkeypatch.setattr("edgepack.quantization.saturation.LOWEST", -(2**31))
    monkeypatch.setattr("edgepack.quantization.saturation.HIGHEST", 2**31 - 1)
    model = loud(every_layer())
    feed = {"x": models.images(3, size=8, seed=3)}
    exact = Session(model).run(feed)["y"]
    np.testing.assert_array_equal(answers(model, feed)["y"], exact)
    assert len(np.unique(exact)) > 5


def test_large_weights_change_the_answers_and_small_ones_do_not() -> None:
    feed = {"x": models.images(3, size=8, seed=3)}
    wide, narrow = loud(every_layer()), loud(every_layer(), bits=7)
    assert not np.array_equal(answers(wide, feed)["y"], Session(wide).run(feed)["y"])
    np.testing.assert_array_equal(answers(narrow, feed)["y"], Session(narrow).run(feed)["y"])


def test_shares_are_by_layer_and_depthwise_layers_have_none() -> None:
    model = loud(every_layer())
    shares = saturated_share(model, [{"x": models.images(1, size=8, seed=seed)} for seed in range(2)])
    assert list(shares) == ["c1", "c3", "c4", "c5", "m", "h", "y"]
    assert all(0 <= share < 1 for share in shares.values()) and shares["c1"] > 0
    assert set(saturated_share(loud(every_layer(), bits=7), [{"x": models.images(1, size=8)}]).values()) == {0.0}


def test_a_planted_share_is_found() -> None:
    """One output channel of four, half of whose sums are as large as can be."""
    weight = np.zeros((8, 4), np.int8)
    weight[:4, 2] = 127
    proto = models.model(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": [2, 8]},
        {"y": [2, 4]},
        {"w": weight},
        types=INTEGERS,
    )
    feed = {"x": np.full((2, 8), 255, np.uint8)}
    assert answers(Model.from_proto(proto), feed)["y"].tolist() == [[0, 0, 2 * 32767, 0]] * 2
    assert saturated_share(Model.from_proto(proto), [feed]) == {"y": 1 / 8}


@pytest.mark.parametrize("zero", [0, 128])
def test_unsigned_weights_do_not_saturate(zero: int) -> None:
    proto = models.model(
        [helper.make_node("MatMulInteger", ["x", "w", "", "z"], ["y"])],
        {"x": [1, 64]}, {"y": [1, 16]},
        {"w": np.full((64, 16), 255, np.uint8), "z": np.array(zero, np.uint8)},
        types=INTEGERS,
    )  # fmt: skip
    feed = {"x": np.full((1, 64), 255, np.uint8)}
    assert (answers(Model.from_proto(proto), feed)["y"] == 64 * 255 * (255 - zero)).all()
    assert saturated_share(Model.from_proto(proto), [feed]) == {}


# --- a build for such a CPU -----------------------------------------------------------------------------------


def test_the_line_in_a_builds_notes(tmp_path: Path) -> None:
    model = models.in_edgepack(every_layer())
    np.savez(tmp_path / "x.npz", x=models.images(32, size=8, seed=1))
    samples = read(tmp_path / "x.npz", model)
    scheme = replace(ORT, weight_bits=7)
    found = eight_bits(prepare(model, scheme, samples), scheme, [samples.read(0), samples.read(9)], Session(model))
    assert found is not None
    assert found.exact_db > 20 and found.saturated_db < found.exact_db - 5
    worst = max(found.shares, key=lambda name: found.shares[name])
    assert f"({worst}): {found.saturated_db:.1f} dB from the original instead of {found.exact_db:.1f}" in str(found)


def test_no_line_without_the_time_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = models.in_edgepack(models.mlp())
    np.savez(tmp_path / "x.npz", x=models.random((16, 8), 1))
    samples = read(tmp_path / "x.npz", model)
    monkeypatch.setattr("edgepack.quantization.eight_bits._MACS", 100)
    assert eight_bits(prepare(model, ORT, samples), ORT, [samples.read(0)], Session(model)) is None


def test_a_build_for_an_old_intel_says_why_it_takes_seven_bits(convnet_files: Path, tmp_path: Path) -> None:
    model, data = convnet_files / "model.onnx", convnet_files / "calib.npz"
    old, new = (
        pipeline.build(model, tmp_path / board, device=board, precision="int8", data=data, seconds=0.1)
        for board in ("intel-avx2", "intel-vnni")
    )
    assert any("7-bit weights" in note for note in old.notes)
    assert any("8-bit weights, rounded to nearest, would saturate" in note for note in old.notes)
    assert not any("saturate" in note for note in new.notes)


def test_a_dynamic_model_saturates_too() -> None:
    model = dynamic(models.in_edgepack(models.mlp(features=64)), ORT).model
    feed = {"x": np.abs(models.random((3, 64), 5)) + 3}
    shares = saturated_share(model, [feed])
    assert shares and max(shares.values()) > 0
    exact, saturated = Session(model).run(feed)["y"], answers(model, feed)["y"]
    assert not np.allclose(saturated, exact, rtol=1e-3)
    narrow = dynamic(models.in_edgepack(models.mlp(features=64)), replace(ORT, weight_bits=7)).model
    np.testing.assert_allclose(answers(narrow, feed)["y"], Session(narrow).run(feed)["y"], rtol=1e-5, atol=1e-5)
