"""A weighted node as a matrix: its product with patches is what the runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from edgepack.model import Model, constant
from edgepack.quantization.layer import bias_of, channel_axis, from_matrix, output_axis, patches, to_matrix
from edgepack.reference import Session
from tests import models

CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (2, 4, 9, 7), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ("Conv", (2, 4, 9, 7), (6, 4, 3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    ("Conv", (2, 4, 9, 9), (8, 2, 3, 3), {"group": 2, "dilations": [2, 2]}),
    ("Conv", (2, 6, 8, 8), (6, 1, 3, 3), {"group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("Conv", (2, 4, 8, 7), (5, 4, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", (2, 4, 8, 7), (5, 4, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    ("Conv", (2, 4, 8, 7), (5, 4, 3, 3), {"auto_pad": "VALID"}),
    ("Conv", (3, 4, 20), (5, 4, 5), {"strides": [3], "pads": [2, 1]}),
    ("Conv", (2, 2, 5, 6, 4), (3, 2, 2, 3, 2), {}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 4, 2), {"strides": [2, 3], "output_padding": [1, 0]}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 2, 2), {"strides": [2, 2], "group": 2, "dilations": [1, 2]}),
    ("ConvTranspose", (2, 4, 5, 6), (4, 3, 2, 2), {"pads": [1, 1, 1, 1]}),
    ("Gemm", (5, 7), (7, 3), {}),
    ("Gemm", (5, 7), (3, 7), {"transB": 1}),
    ("MatMul", (5, 7), (7, 3), {}),
    ("MatMul", (2, 5, 7), (7, 3), {}),
]


def layer(kind: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> tuple[Model, ir.Node]:
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    rank = len(x)
    model = models.in_edgepack(
        models.model([node], {"x": ["N", *x[1:]]}, {"y": ["N", *["?"] * (rank - 1)]}, {"w": models.random(w, 1)})
    )
    return model, next(iter(model.ir.graph))


@pytest.mark.parametrize(("kind", "x", "w", "attributes"), CASES)
def test_matrix_times_patches_is_the_layer(
    kind: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    model, node = layer(kind, x, w, attributes)
    data = models.random(x, 2)
    wanted = np.moveaxis(Session(model).run({"x": data})["y"], output_axis(node), -1)
    found = patches(node, data, 10**6, np.random.default_rng(0))
    weight = constant(node.inputs[1])
    assert found is not None and weight is not None
    got = np.einsum("pgk,gok->pgo", found, to_matrix(node, weight)).reshape(wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "x", "w", "attributes"), CASES)
def test_a_matrix_goes_back_into_the_layout_of_its_node(
    kind: str, x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    _, node = layer(kind, x, w, attributes)
    weight = constant(node.inputs[1])
    assert weight is not None
    np.testing.assert_array_equal(from_matrix(node, to_matrix(node, weight), weight.shape), weight)
    axis = channel_axis(node, weight)
    if axis is not None:
        rows = to_matrix(node, weight).reshape(weight.shape[axis], -1)
        np.testing.assert_allclose(
            np.sort(rows, axis=1), np.sort(np.moveaxis(weight, axis, 0).reshape(len(rows), -1), axis=1)
        )


def test_a_share_of_the_places_is_taken_from_every_sample() -> None:
    _, node = layer("Conv", (4, 1, 8, 8), (1, 1, 1, 1), {})
    data = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None, None], (4, 1, 8, 8))
    found = patches(node, data, 5, np.random.default_rng(0))
    assert found is not None and found.shape == (20, 1, 1)
    assert np.unique(found, return_counts=True)[1].tolist() == [5, 5, 5, 5]


def test_ways_of_walking_that_are_not_followed_say_so() -> None:
    _, node = layer("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), {"output_shape": [10, 10], "strides": [2, 2]})
    assert patches(node, models.random((2, 4, 5, 5)), 10, np.random.default_rng(0)) is None


def test_a_bias_of_one_number_is_that_of_all_channels() -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    model = models.in_edgepack(
        models.model(
            [node], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": models.random((4, 3)), "b": np.array([2.0], np.float32)}
        )
    )
    np.testing.assert_array_equal(bias_of(next(iter(model.ir.graph))), [2.0, 2.0, 2.0])  # type: ignore[arg-type]
