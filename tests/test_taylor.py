"""Importance by gradients: the differentiable run of a graph, and what it says of channels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import edgepack
from edgepack.data.reading import read
from edgepack.data.samples import Samples
from edgepack.errors import MissingExtra, PruningError, UnsupportedOperator
from edgepack.model import Model
from edgepack.pruning.autograd import Gate, differentiable
from edgepack.pruning.budget import budget
from edgepack.pruning.prune import find, prune, pruned_to
from edgepack.pruning.surgery import untangled
from edgepack.pruning.survey import survey
from edgepack.pruning.taylor import taylor
from tests import models
from tests.graphs import BLOCKS, graph

torch_only = pytest.mark.torch


def _samples(tmp_path: Path, proto: onnx.ModelProto, count: int = 256) -> tuple[Model, Samples]:
    model = Model.from_proto(proto)
    shape = [dim if isinstance(dim, int) else count for dim in model.inputs[0].shape]
    np.savez(tmp_path / "calib.npz", x=models.random(shape, 3))
    return model, read(tmp_path / "calib.npz", model)


def _one(op: str, shape: list[int], weights: dict[str, np.ndarray], opset: int = 17, **attributes: object) -> Model:
    node = helper.make_node(op, ["x", *weights], ["y"], **attributes)
    return untangled(Model.from_proto(models.model([node], {"x": shape}, {"y": [None] * 4}, weights, opset=opset)))


_INT = {key: np.array(values) for key, values in {"starts": [4, -1], "ends": [-99, 0], "axes": [2, 3]}.items()}
_CASES = [
    ("Conv", {"w": models.random((6, 2, 3, 2))}, {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 1]}),
    ("Conv", {"w": models.random((6, 4, 3, 2)), "b": models.random((6,))}, {"auto_pad": "SAME_UPPER"}),
    ("Conv", {"w": models.random((6, 4, 2, 2))}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", {"w": models.random((6, 4, 3, 3))}, {"dilations": [2, 1], "auto_pad": "VALID"}),
    ("ConvTranspose", {"w": models.random((4, 3, 3, 3))},
     {"group": 2, "strides": [2, 2], "pads": [1, 0, 1, 1], "output_padding": [1, 0]}),
    ("MaxPool", {}, {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1]}),
    ("MaxPool", {}, {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", {}, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("AveragePool", {}, {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("Slice", {**_INT, "steps": np.array([-2, -1])}, {}),
    ("Gather", {"places": np.array([[0, -1], [2, 1]])}, {"axis": -1}),
    ("Pad", {"pads": np.array([0, 1, 2, 0, 0, 0, 1, 3]), "value": np.array(0.5, np.float32)}, {}),
    ("Pad", {"pads": np.array([0, 0, 2, 0, 0, 0, 1, 3])}, {"mode": "reflect"}),
    ("Resize", {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 3], np.float32)},
     {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}, {"mode": "linear"}),
    ("DepthToSpace", {}, {"blocksize": 2}),
    ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", {}, {"blocksize": 2}),
    ("Softmax", {}, {"axis": 1}),
    ("LogSoftmax", {}, {}),
    ("LayerNormalization", {"s": models.random((5, 6)), "b": models.random((5, 6))}, {"axis": 2}),
    ("InstanceNormalization", {"s": models.random((4,)), "b": models.random((4,))}, {}),
    ("ReduceMean", {}, {"axes": [1, -1], "keepdims": 0}),
    ("ReduceL2", {}, {"axes": [2]}),
    ("PRelu", {"slope": models.random((4, 1, 1))}, {}),
    ("Clip", {"low": np.array(-0.5, np.float32)}, {}),
    ("HardSigmoid", {}, {"alpha": 0.3}),
    ("HardSwish", {}, {}),
    ("Flatten", {}, {"axis": 3}),
    ("Reshape", {"shape": np.array([0, -1, 3])}, {}),
    ("Transpose", {}, {}),
    ("Einsum", {"w": models.random((4, 3))}, {"equation": "bchw,cd->bdhw"}),
]  # fmt: skip


@torch_only
@pytest.mark.parametrize(("op", "weights", "attributes"), _CASES)
def test_operators_answer_as_onnxruntime_does(
    op: str, weights: dict[str, np.ndarray], attributes: dict[str, object]
) -> None:
    """`differentiable` compares the answers and refuses what differs."""
    pytest.importorskip("torch")
    size = [1, 4, 6, 6] if "To" in op else [1, 4, 5, 6]
    differentiable(_one(op, size, weights, **attributes), {"x": models.random(size, 9)})


@torch_only
def test_an_old_softmax_is_over_all_axes_from_its_own_on() -> None:
    pytest.importorskip("torch")
    differentiable(_one("Softmax", [2, 3, 4, 2], {}, opset=11), {"x": models.random((2, 3, 4, 2))})


@torch_only
@pytest.mark.parametrize("end", ["pooled", "flat", "attention"])
@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_answer_the_same(tmp_path: Path, end: str, seed: int) -> None:
    pytest.importorskip("torch")
    blocks = list(np.random.default_rng(seed).permutation(BLOCKS)[:10])
    model, samples = _samples(tmp_path, graph(seed, blocks, end), 8)
    whole, found = find(model, samples.read(0))
    differentiable(whole, samples.read(0))
    importance = taylor(whole, found, samples)
    assert np.isfinite(importance).all() and (importance > 0).any()


@torch_only
def test_a_gate_has_the_slope_of_finite_differences() -> None:
    torch = pytest.importorskip("torch")
    model = untangled(Model.from_proto(models.convnet()))
    feed = {"x": models.random((1, 3, 16, 16), 5)}
    copy, gate = differentiable(model, feed), Gate(node="c3", reads=True, axis=1)
    factor = torch.ones(16, requires_grad=True)
    (slope,) = torch.autograd.grad(copy.run(feed, {gate: factor})["y"].sum(), [factor])

    def answer(moved: float) -> float:
        there = torch.ones(16)
        there[3] += moved
        return float(copy.run(feed, {gate: there})["y"].sum())

    assert (answer(1e-2) - answer(-1e-2)) / 2e-2 == pytest.approx(float(slope[3]), rel=1e-2)


@torch_only
@pytest.mark.parametrize("soft", [False, True])
def test_the_importance_is_the_fisher_information_of_the_answers(tmp_path: Path, soft: bool) -> None:
    """Gemm, Relu, Gemm, and perhaps Softmax: here it can be written down."""
    pytest.importorskip("torch")
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["s" if soft else "y"], transB=1),
        *([helper.make_node("Softmax", ["s"], ["y"], axis=-1)] if soft else []),
    ]
    a, b = models.random((16, 6), 1), models.random((4, 16), 2)
    b[:, 5] = 0
    proto = models.model(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, {"a": a, "b": b})
    model, samples = _samples(tmp_path, proto)
    whole, found = find(model, samples.read(0))
    importance = taylor(whole, found, samples)
    wanted = np.zeros(16)
    for feed in samples:
        hidden = np.maximum(feed["x"][0] @ a.T, 0)
        p = np.exp(hidden @ b.T)
        p /= p.sum()
        change = b * hidden  # of each score, by the channel that goes
        wanted += np.einsum("ku,kl,lu->u", change, np.diag(p) - np.outer(p, p), change) / samples.count
    (group,) = found.groups
    got = importance[group.units]
    assert got[5] == 0 and np.argmin(wanted) == 5
    assert np.corrcoef(got, wanted)[0, 1] > 0.95
    assert got.sum() == pytest.approx(wanted.sum(), rel=0.15)


@torch_only
def test_pruning_by_gradients_meets_the_budget(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model, samples = _samples(tmp_path, graph(5, ["conv", "residual", "norm", "concat", "excite"], "pooled"), 40)
    less = prune(model, samples, budget("macs=0.9"), importance="taylor")
    onnx.checker.check_model(less.model.proto())
    assert less.report.macs_after <= 0.9 * less.report.macs_before and less.report.importance == "taylor"


@torch_only
def test_gradients_choose_better_than_norms(tmp_path: Path) -> None:
    """Channels whose filters are small and whose readers are large: norms take them first."""
    pytest.importorskip("torch")
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    scale = np.where(np.arange(32) % 2, 0.1, 1.0).astype(np.float32)
    weights = {
        "a": models.random((32, 12, 1, 1), 1) * scale[:, None, None, None],
        "b": models.random((6, 32, 1, 1), 2) / scale[:, None, None] ** 2,
    }
    model, samples = _samples(tmp_path, models.model(nodes, {"x": ["N", 12, 4, 4]}, {"y": ["N", 6, 4, 4]}, weights), 64)
    whole, found = find(model, samples.read(0))
    errors = [
        pruned_to(survey(whole, found, samples, name), budget("macs=0.5"), importance=name, repaired=False).report.error
        for name in ("taylor", "l2")
    ]
    assert errors[0] < 0.1 * errors[1]


@torch_only
def test_an_operator_without_a_function_is_refused_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    proto = models.mlp()
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Celu"
    model, samples = _samples(tmp_path, proto, 20)
    with pytest.raises(UnsupportedOperator, match="Celu") as caught:
        prune(model, samples, budget("macs=0.7"), importance="taylor")
    assert "second-order" in caught.value.hint


@torch_only
def test_a_copy_that_answers_differently_is_refused() -> None:
    """Places that torch's interpolation does not know."""
    pytest.importorskip("torch")
    model = _one(
        "Resize", [1, 2, 5, 5], {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 1.5, 1.5], np.float32)},
        mode="nearest", nearest_mode="ceil",
    )  # fmt: skip
    with pytest.raises(PruningError, match="differently in PyTorch"):
        differentiable(model, {"x": models.random((1, 2, 5, 5))})


@torch_only
def test_what_torch_cannot_run_is_refused() -> None:
    """A matrix padded by its edges, which torch has for pictures only."""
    pytest.importorskip("torch")
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode="edge")
    proto = models.model([node], {"x": [2, 4]}, {"y": [3, 4]}, {"pads": np.array([1, 0, 0, 0])})
    with pytest.raises(PruningError, match="PyTorch cannot run"):
        differentiable(untangled(Model.from_proto(proto)), {"x": models.random((2, 4))})


@torch_only
def test_a_build_prunes_by_gradients(convnet_files: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    built = edgepack.build(
        convnet_files / "model.onnx", tmp_path / "out", data=convnet_files / "calib.npz", target="onnxruntime",
        precision="fp32", prune="macs=0.6", prune_importance="taylor", threads=1, seconds=0.1,
    )  # fmt: skip
    assert built.pruning is not None and built.pruning["importance"] == "taylor"


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model, samples = _samples(tmp_path, models.mlp(), 20)
    with pytest.raises(MissingExtra, match="torch") as caught:
        prune(model, samples, budget("macs=0.7"), importance="taylor")
    assert caught.value.hint == "pip install 'edgepack[torch]'"
