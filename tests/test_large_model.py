"""Models of more than 2 GiB, which no protobuf message holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgepack import inputs
from edgepack.bundles import bundle
from edgepack.model import LARGEST_MESSAGE
from tests import models
from tests.conftest import Run

WIDE, WIDER = 8192, 16384


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Four Gemms of 0.5 GB each; all but a few rows of the weights are holes in a sparse file."""
    nodes, weights = [], []
    shapes = [(WIDER, WIDE), (WIDE, WIDER)] * 2
    with (tmp_path / "weights.bin").open("wb") as file:
        for number, (rows, columns) in enumerate(shapes):
            size = 4 * rows * columns
            tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=[rows, columns])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights.bin"), ("offset", str(file.tell())), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
            weights.append(tensor)
            start = file.tell()
            file.write(models.random((32, columns), number, 0.02).tobytes())
            file.seek(start + size)
            file.truncate()
            source = "x" if number == 0 else f"r{number - 1}"
            nodes.append(helper.make_node("Gemm", [source, tensor.name], [f"h{number}"], transB=1))
            nodes.append(helper.make_node("Relu", [f"h{number}"], [f"r{number}"]))
    nodes[-1].output[0] = "y"
    proto = models.model(nodes, {"x": ["N", WIDE]}, {"y": ["N", WIDE]})
    proto.graph.initializer.extend(weights)
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=models.random((8, WIDE)))
    return tmp_path


@pytest.mark.slow
def test_a_model_above_2_gib_is_built_with_its_weights_in_a_file(cli: Run, large: Path) -> None:
    assert inputs.load(large / "model.onnx").weight_bytes == 2**31 > LARGEST_MESSAGE
    flags = ["--data", "calib.npz", "--precision", "fp32", "--seconds", 0, "--threads", 1]
    done = cli("build", "model.onnx", "-o", "out", *flags, "--json", cwd=large)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quality"]["sqnr_db"] > 100
    assert (large / "out" / "model" / "model.weights").stat().st_size >= 2**31
    assert bundle.read_manifest(large / "out")["model"]["file"] == "model/model.onnx"


@pytest.mark.slow
def test_a_large_model_whose_weights_are_cut_off_is_refused(cli: Run, large: Path) -> None:
    with (large / "weights.bin").open("r+b") as file:
        file.truncate(2**31 - 4)
    done = cli("build", "model.onnx", "-o", "out", "--precision", "fp32", cwd=large)
    assert done.returncode == 11 and "'w3' ends at byte 2,147,483,648" in done.stderr
