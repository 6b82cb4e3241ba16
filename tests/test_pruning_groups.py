"""Dependency groups and the surgery that follows them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from onnx import helper

from edgepack.model import Model, constant
from edgepack.pruning.groups import Dependencies, dependencies, weight_axes
from edgepack.pruning.observed import observed_shapes
from edgepack.pruning.surgery import cut, untangled
from edgepack.reference import Session
from tests.graphs import BLOCKS, graph
from tests.models import convnet, mobile_block, model, random


def _found(proto: onnx.ModelProto) -> tuple[Model, Dependencies, dict[str, np.ndarray]]:
    whole = untangled(Model.from_proto(proto))
    feed = {
        tensor.name: random([dim if isinstance(dim, int) else 1 for dim in tensor.shape], 5) for tensor in whole.inputs
    }
    return whole, dependencies(whole, observed_shapes(whole, feed)), feed


def _masked(whole: Model, found: Dependencies, keep: np.ndarray) -> Model:
    """The model whose layers take nothing from the channels that go."""
    result = whole.clone()
    consumers = {name for group in found.groups for name in group.consumers}
    for node in result.ir.graph:
        axes = weight_axes(node, found.shapes)
        if axes is None or node.outputs[0].name not in consumers:
            continue
        value = node.inputs[1]
        assert value is not None
        unit = found.unit.get((str(value.name), axes[1]))
        array = constant(value)
        if unit is None or array is None:
            continue
        stays = (unit < 0) | keep[unit]
        shape = [1] * array.ndim
        shape[axes[1]] = -1
        value.const_value = ir.tensor((array * stays.reshape(shape)).astype(np.float32), name=value.name)
    return result


def _some(found: Dependencies, seed: int) -> np.ndarray:
    """Units that stay: at least one of each group."""
    chance = np.random.default_rng(seed)
    keep = np.ones(found.units, bool)
    for group in found.groups:
        keep[chance.permutation(group.units)[: int(chance.integers(0, group.width))]] = False
    return keep


def _assert_equals_masked(proto: onnx.ModelProto, seed: int) -> Dependencies:
    whole, found, feed = _found(proto)
    keep = _some(found, seed)
    small = cut(whole, found, keep)
    onnx.checker.check_model(small.proto())
    more = {name: np.concatenate([array, random(array.shape, 9)]) for name, array in feed.items()}
    want, got = Session(_masked(whole, found, keep)).run(more), Session(small).run(more)
    for name, array in want.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(array).max())))
    assert keep.all() or small.parameters < whole.parameters
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=some.integers(0, 10_000),
    blocks=some.lists(some.sampled_from(BLOCKS), min_size=1, max_size=6),
    end=some.sampled_from(["pooled", "flat", "attention"]),
)
def test_a_pruned_graph_answers_as_the_masked_one(seed: int, blocks: list[str], end: str) -> None:
    _assert_equals_masked(graph(seed, blocks, end), seed)


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_block_can_lose_channels(kind: str) -> None:
    found = _assert_equals_masked(graph(3, ["conv", kind], "pooled"), 3)
    assert len(found.groups) >= 2


@pytest.mark.parametrize("proto", [convnet(), mobile_block()], ids=["convnet", "mobile_block"])
def test_whole_nets(proto: onnx.ModelProto) -> None:
    _assert_equals_masked(proto, 1)


def test_heads_are_removed_whole() -> None:
    _, found, _ = _found(graph(0, ["conv"], "attention"))
    assert sorted(group.width for group in found.groups if "matmul" in group.name) == [4, 14]


def test_flattened_maps_go_with_their_channel() -> None:
    whole, found, _ = _found(graph(0, ["conv"], "flat"))
    head = next(node for node in whole.ir.graph if node.op_type == "Gemm")
    unit = found.unit[str(head.inputs[1].name), 0]  # type: ignore[union-attr]
    assert all((unit.reshape(-1, 36) == unit.reshape(-1, 36)[:, :1]).all(axis=1))


def test_a_residual_stream_is_one_group() -> None:
    _, found, _ = _found(graph(0, ["residual", "residual"], "pooled"))
    stream = max(found.groups, key=lambda group: len(group.producers))
    assert (stream.width, len(stream.producers), len(stream.consumers)) == (8, 3, 3)


def test_shared_weights_stay_shared() -> None:
    whole, found, _ = _found(graph(0, ["shared"], "pooled"))
    small = cut(whole, found, _some(found, 0))
    weights = [node.inputs[1].name for node in small.ir.graph if node.op_type == "Conv"]  # type: ignore[union-attr]
    assert len(weights) == len(set(weights)) + 1


def test_what_has_no_rule_is_left_alone_by_name() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("LRN", ["a"], ["b"], size=3),
        helper.make_node("Conv", ["b", "w2"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"], axis=1),
        helper.make_node("Conv", ["d", "w3"], ["y"]),
    ]
    weights = {"w1": random((4, 3, 1, 1)), "w2": random((6, 4, 1, 1)), "w3": random((5, 6, 1, 1))}
    _, found, _ = _found(model(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 5, 4, 4]}, weights))
    assert not found.groups
    assert found.left_alone == {
        "a": "LRN b has no rule",
        "c": "Softmax d mixes all places along it",
        "y": "it is the model's output",
    }


def test_small_constants_that_layers_share_do_not_tie_them() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b"], ["a"]),
        helper.make_node("Conv", ["a", "w2", "b"], ["c"]),
        helper.make_node("Conv", ["c", "w3"], ["y"]),
    ]
    weights = {"w1": random((4, 3, 1, 1)), "w2": random((4, 4, 1, 1), 1), "w3": random((5, 4, 1, 1)), "b": random((4,))}
    _, found, _ = _found(model(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 5, 4, 4]}, weights))
    assert [group.width for group in found.groups] == [4, 4]


def test_an_old_softmax_mixes_all_axes_from_its_own_on() -> None:
    """Before opset 13 the one without an axis is over channels and places; since then over the last axis."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Softmax", ["h"], ["s"]),
        helper.make_node("Conv", ["s", "b"], ["y"]),
    ]
    weights = {"a": random((8, 3, 1, 1), 1), "b": random((5, 8, 1, 1), 2)}
    reasons = [
        _found(model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 5, 4, 4]}, weights, opset=opset))[1].left_alone.get("h")
        for opset in (11, 13)
    ]
    assert reasons == ["Softmax s mixes all places along it", None]
