"""`inspect`: what it finds in models, and what it says of whole and of damaged bundles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgepack
from edgepack.errors import BrokenBundle, NotAModel, ShapeNeeded, UnknownDevice, UnknownTarget
from edgepack.inspection import BundleInspection, Inspection, inspect
from tests import models

node = helper.make_node


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Inspection]:
    """Inspect a model that is built in code."""

    def inspect_proto(proto: onnx.ModelProto, **options: object) -> Inspection:
        onnx.save(proto, tmp_path / "model.onnx")
        found = inspect(tmp_path / "model.onnx", **options)  # type: ignore[arg-type]
        assert isinstance(found, Inspection)
        return found

    return inspect_proto


def said(found: Inspection) -> str:
    return "\n".join(f"{what} | {advice}" for what, advice in found.obstacles)


# --- what a model is ------------------------------------------------------------------------------------


def test_convnet(look: Callable[..., Inspection]) -> None:
    found = look(models.convnet())
    assert found.inputs == [{"name": "x", "dtype": "float32", "shape": ("N", 3, 16, 16)}]
    assert found.outputs == [{"name": "y", "dtype": "float32", "shape": ("N", 10)}]
    assert (found.opset, found.ir_version) == (17, 8)
    assert found.operators["Conv"] == 3
    assert sum(found.operators.values()) == 10
    assert found.parameters == 16 * 27 + 16 + 16 * 9 + 16 + 256 + 16 + 160 + 10 + 2
    assert found.weight_bytes == 4 * found.parameters
    assert not found.is_quantized
    assert found.cost is not None
    assert found.cost.macs > 0
    assert found.int8_share == 1.0
    assert found.obstacles == []


def test_weights_of_other_types_are_weighed_as_they_are(look: Callable[..., Inspection]) -> None:
    nodes = [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["x", "f"], ["z"])]
    weights = {"w": np.ones((16, 8), np.float16)}
    found = look(models.model(nodes, {"x": ["N", 16]}, {"z": ["N", 8]}, weights))
    assert (found.parameters, found.weight_bytes) == (128, 256)


def test_json_of_a_model(look: Callable[..., Inspection]) -> None:
    found = look(models.convnet(), device="rpi5")
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3, 16, 16]}]
    assert data["cost"]["input_shapes"] == {"x": [1, 3, 16, 16]}
    assert data["device"] == "rpi5"
    assert data["obstacles"] == []


def test_json_of_a_model_whose_cost_is_unknown(look: Callable[..., Inspection]) -> None:
    data = json.loads(json.dumps(look(open_image_model()).to_json(), allow_nan=False))
    assert data["cost"] is None
    assert data["inputs"][0]["shape"] == ["N", 3, None, "W"]


# --- obstacles ------------------------------------------------------------------------------------------


def open_image_model() -> onnx.ModelProto:
    weights = {"w": models.random((4, 3, 3, 3))}
    return models.model(
        [node("Conv", ["x", "w"], ["z"])], {"x": ["N", 3, None, "W"]}, {"z": ["N", 4, None, None]}, weights
    )


def test_open_dimensions_hide_the_cost(look: Callable[..., Inspection]) -> None:
    found = look(open_image_model())
    assert found.cost is None
    assert "x float32 N×3×?×W has open dimensions | --input-shape x=" in said(found)


def test_a_given_shape_brings_the_cost_back(look: Callable[..., Inspection]) -> None:
    found = look(open_image_model(), input_shape={"x": (2, 3, 8, 8)})
    assert found.cost is not None
    assert found.cost.macs == 2 * 36 * 4 * 27
    assert found.obstacles == []
    assert found.inputs[0]["shape"] == (2, 3, 8, 8)


def test_a_shape_that_does_not_fit(look: Callable[..., Inspection]) -> None:
    with pytest.raises(ShapeNeeded, match="1x4x8x8"):
        look(open_image_model(), input_shape={"x": (1, 4, 8, 8)})


def test_control_flow(look: Callable[..., Inspection]) -> None:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2, 8])
    inside = [helper.make_graph([node("MatMul", ["x", "w"], ["inner"])], name, [], [output]) for name in ("a", "b")]
    choice = node("If", ["condition"], ["z"], then_branch=inside[0], else_branch=inside[1])
    found = look(
        models.model(
            [choice],
            {"x": [2, 16], "condition": []},
            {"z": [2, 8]},
            {"w": models.random((16, 8))},
            types={"condition": TensorProto.BOOL},
        )
    )
    assert "control flow (If, Loop or Scan)" in said(found)
    assert "2× inside control flow: MatMul" in said(found)
    assert "no operator can be computed in int8" in said(found)
    assert found.int8_share == 0.0


def test_recurrent_operators_stay_float(look: Callable[..., Inspection]) -> None:
    weights = {"w": models.random((1, 16, 3)), "r": models.random((1, 16, 4)), "v": models.random((4, 5))}
    nodes = [node("LSTM", ["x", "w", "r"], ["h"], hidden_size=4), node("MatMul", ["h", "v"], ["z"])]
    found = look(models.model(nodes, {"x": [5, 2, 3]}, {"z": [5, 1, 2, 5]}, weights))
    assert "1× no int8 form: LSTM" in said(found)
    assert found.int8_share == 0.5


def test_products_of_activations_stay_float(look: Callable[..., Inspection]) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), node("MatMul", ["x", "t"], ["z"])]
    found = look(models.model(nodes, {"x": ["N", 3, 4]}, {"z": ["N", 3, 3]}))
    assert "both factors are activations: MatMul" in said(found)
    assert found.int8_share == 0.0


def test_a_model_without_weights(look: Callable[..., Inspection]) -> None:
    found = look(models.model([node("Relu", ["x"], ["z"])], {"x": ["N", 4]}, {"z": ["N", 4]}))
    assert said(found).startswith("no operator can be computed in int8 | build it with --precision fp16 or fp32")
    assert found.int8_share == 0.0


def test_a_quantized_model(look: Callable[..., Inspection]) -> None:
    weights = {"w": np.ones((4, 4), np.int8), "s": np.array(0.1, np.float32), "o": np.array(0, np.int8)}
    nodes = [node("DequantizeLinear", ["w", "s", "o"], ["f"]), node("MatMul", ["x", "f"], ["z"])]
    found = look(models.model(nodes, {"x": ["N", 4]}, {"z": ["N", 4]}, weights))
    assert found.is_quantized
    assert found.int8_share is None
    assert "already quantized" in said(found)


def test_an_old_opset_is_no_obstacle_where_it_can_be_raised(look: Callable[..., Inspection]) -> None:
    nodes = [node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "w", "b"], ["z"])]
    weights = {"w": models.random((8, 4)), "b": models.random((4,))}
    proto = models.model(nodes, {"x": ["N", 2, 4]}, {"z": ["N", 4]}, weights, opset=9, ir_version=6)
    found = look(proto)
    assert found.opset == 9
    assert found.int8_share == 1.0
    assert found.obstacles == []


# --- with a board ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["host", "rpi4", "rpi5", "intel-n100"])
def test_nothing_is_in_the_way_of_a_convnet(board: str, look: Callable[..., Inspection]) -> None:
    assert look(models.convnet(), device=board).obstacles == []


def test_a_target_that_the_board_does_not_run(look: Callable[..., Inspection]) -> None:
    found = look(models.convnet(), device="rpi4", target_name="openvino")
    assert found.obstacles == [("rpi4 does not run openvino", "it runs onnxruntime, tflite")]


def test_a_board_where_the_target_has_no_int8(look: Callable[..., Inspection]) -> None:
    """`build --precision int8` refuses there, so `inspect` must not promise it."""
    found = look(models.convnet(), device="rpi5", target_name="openvino")
    assert "int8" in said(found)


def test_the_board_s_own_target_is_looked_with(look: Callable[..., Inspection]) -> None:
    """OpenVINO computes a transposed convolution in int8, ONNX Runtime does not."""
    nodes = [node("ConvTranspose", ["x", "w"], ["z"])]
    weights = {"w": models.random((3, 4, 2, 2))}
    proto = models.model(nodes, {"x": [1, 3, 4, 4]}, {"z": [1, 4, 5, 5]}, weights)
    assert look(proto, device="intel-n100").int8_share == 1.0
    assert look(proto, device="rpi5").int8_share == 0.0


def test_boards_and_targets_that_do_not_exist(look: Callable[..., Inspection]) -> None:
    with pytest.raises(UnknownDevice):
        look(models.convnet(), device="rpi6")
    with pytest.raises(UnknownTarget):
        look(models.convnet(), target_name="tflight")


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(NotAModel):
        inspect(tmp_path / "model.onnx")
    with pytest.raises(NotAModel):
        inspect(tmp_path / "gone.onnx")


# --- bundles --------------------------------------------------------------------------------------------


def small_bundle(factory: pytest.TempPathFactory) -> Path:
    """A bundle as it left the build, and its archive beside it; built once, however many files use it."""
    folder = factory.getbasetemp() / "small-bundle"
    if not folder.exists():
        folder.mkdir()
        onnx.save(models.mlp(), folder / "model.onnx")
        edgepack.build(folder / "model.onnx", folder / "net", device="rpi5", precision="fp32", seconds=0.05)
    return folder / "net"


@pytest.fixture
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory)


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "net"))


def look_into(path: Path) -> BundleInspection:
    found = inspect(path)
    assert isinstance(found, BundleInspection)
    return found


def test_a_whole_bundle(built: Path) -> None:
    found = look_into(built)
    assert found.whole
    assert found.damage == ""
    assert found.manifest == json.loads((built / "manifest.json").read_text())
    assert found.manifest["device"] == "rpi5"
    assert found.model_bytes == (built / "model" / "model.onnx").stat().st_size
    listed = [line.split("  ", 1)[1] for line in (built / "SHA256SUMS").read_text().splitlines()]
    assert found.shipped_bytes == sum((built / name).stat().st_size for name in listed)


def test_an_archive_is_looked_into_like_a_folder(built: Path) -> None:
    folder, archive = look_into(built), look_into(built.with_name("net.tar.gz"))
    assert archive.whole
    assert archive.manifest == folder.manifest
    assert (archive.model_bytes, archive.shipped_bytes) == (folder.model_bytes, folder.shipped_bytes)


def test_a_bundle_without_its_float_original_is_whole(copy: Path) -> None:
    shutil.rmtree(copy / "baseline")
    assert look_into(copy).whole


def test_json_of_a_bundle(built: Path) -> None:
    data = json.loads(json.dumps(look_into(built).to_json(), allow_nan=False))
    assert data["whole"] is True
    assert data["manifest"]["name"] == "model"
    assert data["path"] == str(built)


SHIPPED = ["model/model.onnx", "harness.py", "runner.py", "requirements.txt", "golden/inputs.npz"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_flipped_bit_is_found(name: str, copy: Path) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    found = look_into(copy)
    assert not found.whole
    assert found.damage == f"{name} has been altered or damaged"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_missing_file_is_found(name: str, copy: Path) -> None:
    (copy / name).unlink()
    found = look_into(copy)
    assert not found.whole
    assert f"{name} is missing" in found.damage


def test_an_altered_manifest_is_found(copy: Path) -> None:
    manifest = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(manifest.replace('"rpi5"', '"rpi4"'))
    found = look_into(copy)
    assert found.manifest["device"] == "rpi4"
    assert found.damage == "manifest.json has been altered or damaged"


@pytest.mark.parametrize("name", ["numpy.py", "notes.txt", "model/sitecustomize.py"])
def test_a_file_too_many_is_found(name: str, copy: Path) -> None:
    (copy / name).write_text("")
    found = look_into(copy)
    assert not found.whole
    assert Path(name).name in found.damage


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\xff", b"no sums here\n"])
def test_damaged_checksums_are_found(content: bytes | None, copy: Path) -> None:
    (copy / "SHA256SUMS").unlink()
    if content is not None:
        (copy / "SHA256SUMS").write_bytes(content)
    assert not look_into(copy).whole


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"\xff", b'{"format": "1"}', b'{"format": 999}'])
def test_without_a_manifest_there_is_no_bundle(content: bytes | None, copy: Path) -> None:
    (copy / "manifest.json").unlink()
    if content is not None:
        (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BrokenBundle):
        inspect(copy)


def test_archives_that_are_none(built: Path, tmp_path: Path) -> None:
    archive = tmp_path / "net.tar.gz"
    with pytest.raises(BrokenBundle, match="does not exist"):
        inspect(archive)
    whole = built.with_name("net.tar.gz").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[100:]):
        archive.write_bytes(content)
        with pytest.raises(BrokenBundle):
            inspect(archive)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BrokenBundle, match=r"manifest\.json is missing"):
        inspect(tmp_path)
