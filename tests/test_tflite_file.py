"""What others read in a .tflite file: its signature, its names, its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgepack import _root, target
from edgepack._version import VERSION
from edgepack.building.plan import plan
from edgepack.bundles.border import border
from edgepack.device import detect
from edgepack.reference import Session
from tests import models

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
TFLITE: Any = target.load("tflite")
RUNTIMES: Any = _root.load("edgepack.targets.tflite.runtimes", _root.TARGETS / "tflite" / "runtimes.py")


def two_ends() -> onnx.ModelProto:
    """Two inputs and two outputs, one of which is also read inside, and names with a slash and a colon."""
    node = helper.make_node
    return models.model(
        [
            node("Conv", ["image/in:0", "w"], ["features"], pads=[1, 1, 1, 1]),
            node("Mul", ["features", "gain"], ["scaled"]),
            node("Relu", ["scaled"], ["head/out:1"]),
        ],
        {"image/in:0": [1, 3, 6, 6], "gain": [1, 4, 1, 1]},
        {"features": [1, 4, 6, 6], "head/out:1": [1, 4, 6, 6]},
        {"w": models.random((4, 3, 3, 3), 1, 0.3)},
    )


def parsed(path: Path) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))


def metadata(path: Path) -> dict[str, bytes]:
    model = parsed(path)
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}


@pytest.mark.parametrize("layout", [None, "nhwc"])
def test_the_signature_runner_takes_and_gives_the_models_own_names(layout: str | None, tmp_path: Path) -> None:
    model = models.in_edgepack(two_ends())
    found = plan(detect(), target="tflite", precision="fp32", has_data=False, is_quantized=False, threads=1)
    around, ports = border(model, found, layout=layout, dtype="float").seen(model, {}).around(model, lambda names: {})
    session: Any = interpreter.Interpreter(str(tmp_path / TFLITE.lower(around, tmp_path)))
    assert session.get_signature_list() == {
        "serving_default": {"inputs": ["gain", "image/in:0"], "outputs": ["features", "head/out:1"]}
    }
    feed = {"image/in:0": models.images(1, 6), "gain": models.random((1, 4, 1, 1), 3)}
    run = session.get_signature_runner("serving_default")
    answers = ports.own(run(**ports.public(feed)))
    for name, wanted in Session(model).run(feed).items():
        np.testing.assert_allclose(answers[name], wanted, rtol=1e-4, atol=1e-5)
    # Tools that know no signatures find the tensors by the same names, each once.
    ends = [details["name"] for details in (*session.get_input_details(), *session.get_output_details())]
    assert sorted(ends) == ["features", "gain", "head/out:1", "image/in:0"]
    names = [tensor.name for tensor in parsed(tmp_path / "model.tflite").subgraphs[0].tensors]
    assert len(set(names)) == len(names)


def test_the_file_says_who_made_it_and_which_runtime_it_needs(tmp_path: Path) -> None:
    node = helper.make_node
    plain = models.mlp()
    gelu = models.model([node("Gelu", ["x"], ["y"])], {"x": [1, 8]}, {"y": [1, 8]}, opset=20, ir_version=9)
    for proto, runtime in ((plain, b"1.15.0"), (gelu, b"2.9.0")):
        path = tmp_path / TFLITE.lower(models.in_edgepack(proto), tmp_path)
        assert metadata(path) == {
            "min_runtime_version": runtime.ljust(16, b"\0"),
            "edgepack_version": VERSION.encode(),
        }
        assert parsed(path).description.decode() == f"edgepack {VERSION}"


def test_the_newest_operator_decides() -> None:
    assert RUNTIMES.oldest_runtime([]) == "1.15.0"
    assert RUNTIMES.oldest_runtime([("CONV_2D", 3), ("ADD", 2)]) == "1.15.0"
    assert RUNTIMES.oldest_runtime([("CONV_2D", 6), ("BATCH_MATMUL", 1), ("ADD", 2)]) == "2.9.0"
    assert RUNTIMES.oldest_runtime([("SELECT_V2", 1), ("BATCH_MATMUL", 4)]) == "2.5.0"
