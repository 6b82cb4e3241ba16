"""A graph cut into pieces answers as the whole one does, integers passing between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgepack import target
from edgepack.data.reading import read
from edgepack.passes.quantize import quantize
from edgepack.quantization.pieces import pieces, separate
from edgepack.quantization.preparation import prepare
from edgepack.reference import Session
from tests import models

FEED = {"x": models.images(3, seed=2)}


@pytest.fixture
def proto(tmp_path: Path) -> onnx.ModelProto:
    model = models.in_edgepack(models.convnet())
    np.savez(tmp_path / "calib.npz", x=models.images(16, seed=1))
    scheme = target.load("onnxruntime").SCHEME
    ready = prepare(model, scheme, read(tmp_path / "calib.npz", model))
    return quantize(model, scheme, ready.ranges, ready.layers).model.proto()


def test_separated_readers_answer_alike(proto: onnx.ModelProto) -> None:
    wanted = Session(proto).run(FEED)["y"]
    separate(proto)
    onnx.checker.check_model(proto)
    readers = [name for node in proto.graph.node for name in node.input]
    restored = [node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"]
    outputs = {output.name for output in proto.graph.output}
    assert all(readers.count(name) == 1 for name in restored if name not in outputs)
    np.testing.assert_array_equal(Session(proto).run(FEED)["y"], wanted)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_pieces_together_are_the_whole(proto: onnx.ModelProto, every: int) -> None:
    wanted = Session(proto).run(FEED)["y"]
    separate(proto)
    values = dict(FEED)
    count = len(proto.graph.node)
    passed = set()
    # Between a DequantizeLinear and its reader no cut is made.
    ends = [i for i in range(1, count) if proto.graph.node[i - 1].op_type != "DequantizeLinear"][::every]
    for piece in pieces(proto, [*ends, count], values):
        passed |= {values[name].dtype.name for name in piece.inputs}
        values.update(Session(piece.proto).run({name: values[name] for name in piece.inputs}, piece.outputs))
        for name in values.keys() - piece.needed:
            del values[name]
    assert values.keys() == {"y"}
    assert "uint8" in passed
    np.testing.assert_allclose(values["y"], wanted, atol=1e-5)
