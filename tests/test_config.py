"""--config: a file of flags, through the command line."""

from __future__ import annotations

import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer.main
import yaml

from edgepack import cli
from edgepack.bundles.bundle import read_manifest
from edgepack.cli.config import read
from tests import models

Answer = tuple[int, str, str]
Edgepack = Callable[..., Answer]


@pytest.fixture
def edgepack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Edgepack:
    """The command line in this process, run from a folder of its own."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return lambda *arguments: run_here(monkeypatch, capsys, *arguments)


def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Answer:
    """Run the command line in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["edgepack", *map(str, arguments)])
    before = signal.getsignal(signal.SIGTERM)
    code: object = 0
    try:
        cli.main()
    except SystemExit as leave:
        code = leave.code
    finally:
        signal.signal(signal.SIGTERM, before)
    out, err = capsys.readouterr()
    return int(str(code or 0)), out, err


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that holds model.onnx, apart from where the command runs."""
    folder = tmp_path / "project"
    folder.mkdir()
    onnx.save(models.mlp(), folder / "model.onnx")
    return folder


def config(folder: Path, **flags: object) -> Path:
    """A complete configuration for a board that does not exist, but for the flags given."""
    file = folder / "edgepack.yaml"
    file.write_text(yaml.safe_dump({"model": "model.onnx", "output": "out", "device": "no-such-board", **flags}))
    return file


# --- one whole build ------------------------------------------------------------------------------------


def test_a_build_from_a_file_alone(edgepack: Edgepack, project: Path) -> None:
    """Paths are relative to the file, and what the command line says goes before it."""
    file = config(project, device="rpi4", precision="fp32", seconds=0.05, name="from-file", version="7", threads=1)
    code, _, err = edgepack("build", "--config", file, "--device", "rpi5", "--name", "from-flag")
    assert (code, err) == (0, "")
    manifest = read_manifest(project / "out")
    assert (project / "out.tar.gz").is_file()
    assert manifest["device"] == "rpi5"
    assert manifest["name"] == "from-flag"
    assert manifest["version"] == "7"
    assert manifest["threads"] == 1
    assert manifest["precision"] == "fp32"


# --- flags go before the file ---------------------------------------------------------------------------


def test_the_file_s_value_is_used(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, device="rpi6"))
    assert code == 30
    assert "no device 'rpi6'" in err
    assert "did you mean rpi" in err


@pytest.mark.parametrize("first", [True, False])
def test_flags_override_the_file_wherever_they_stand(first: bool, edgepack: Edgepack, project: Path) -> None:
    flags, file = ["--device", "nowhere"], ["--config", config(project, device="rpi5")]
    code, _, err = edgepack("build", *(flags + file if first else file + flags))
    assert code == 30
    assert "no device 'nowhere'" in err


def test_an_argument_overrides_the_file(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "other.onnx", "--config", config(project, device="rpi5"))
    assert code == 10
    assert "other.onnx does not exist" in err
    assert "project" not in err


def test_numbers_need_no_quotes(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, name=5, version=2, threads=2, seconds=1))
    assert code == 30, err


@pytest.mark.parametrize("force", [True, False])
def test_switches(force: bool, edgepack: Edgepack, project: Path) -> None:
    with tarfile.open(project / "out.tar.gz", "w:gz") as archive:
        for name in ("manifest.json", "SHA256SUMS", "harness.py"):
            archive.addfile(tarfile.TarInfo(f"out/{name}"))
    code, _, _ = edgepack("build", "--config", config(project, force=force))
    assert code == (30 if force else 60)


@pytest.mark.parametrize("shape", ["y=1x8", ["y=1x8"]])
def test_an_input_shape_alone_or_in_a_list(shape: object, edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, device="rpi5", **{"input-shape": shape}))
    assert code == 13
    assert "the model has no input 'y'" in err


def test_several_input_shapes(edgepack: Edgepack, project: Path) -> None:
    shapes = ["x=1x8", "y=1x8"]
    code, _, err = edgepack("build", "--config", config(project, device="rpi5", input_shape=shapes))
    assert code == 13
    assert "the model has no input 'y'" in err


def test_a_key_without_a_value_leaves_the_default(edgepack: Edgepack, project: Path) -> None:
    """A line like `data:` is what remains when its value is deleted."""
    code, _, err = edgepack("build", "--config", config(project, precision="int8", device="rpi5", data=None))
    assert code == 24, err


@pytest.mark.parametrize("key", ["model", "output", "data", "evaluation", "labels", "preprocess", "name", "threads"])
def test_no_value_is_no_path(key: str, tmp_path: Path) -> None:
    (tmp_path / "edgepack.yaml").write_text(f"{key}:\n")
    assert read(tmp_path / "edgepack.yaml", {key: [f"--{key}"]}).get(key) is None


# --- paths ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("model", "gone.onnx", 10),
        ("data", "gone.npz", 21),
        ("eval", "gone.npz", 21),
        ("labels", "gone.txt", 25),
        ("annotations", "gone.json", 25),
        ("preprocess", "gone.yaml", 26),
    ],
)
def test_paths_are_relative_to_the_file(key: str, value: str, code: int, edgepack: Edgepack, project: Path) -> None:
    extra = {"data": "model.onnx"} if key == "preprocess" else {}
    if key == "annotations":
        np.savez(project / "eval.npz", x=models.random((3, 8)))
        extra = {"eval": "eval.npz", "metric": "map50", "decode": "yolov8", "precision": "fp32"}
    got, _, err = edgepack("build", "--config", config(project, device="rpi5", **{**extra, key: value}))
    assert got == code
    assert str(project / value) in err


def test_the_output_is_relative_to_the_file(edgepack: Edgepack, project: Path) -> None:
    (project / "out").mkdir()
    code, _, err = edgepack("build", "--config", config(project))
    assert code == 60
    assert f"{project / 'out'} exists" in err


def test_a_relative_config_path(edgepack: Edgepack, project: Path) -> None:
    config(project, device="rpi5", data="gone.npz")
    code, _, err = edgepack("build", "--config", "../project/edgepack.yaml")
    assert code == 21
    assert "../project/gone.npz does not exist" in err


def test_absolute_paths_stay(edgepack: Edgepack, project: Path, tmp_path: Path) -> None:
    file = config(project, device="rpi5", data=str(tmp_path / "gone.npz"))
    _, _, err = edgepack("build", "--config", file)
    assert f"{tmp_path / 'gone.npz'} does not exist" in err


def test_paths_on_the_command_line_are_relative_to_here(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, device="rpi5"), "--data", "gone.npz")
    assert code == 21
    assert "error: gone.npz does not exist" in err


def test_a_preset_is_no_path(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, device="rpi5", preprocess="imagenet"))
    assert code == 2
    assert "add --data or --eval" in err


# --- what is wrong with a file --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"), [("devise", "device"), ("precission", "precision"), ("input-shapes", "input-shape")]
)
def test_an_unknown_key_gets_a_suggestion(key: str, near: str, edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, **{key: "rpi5"}))
    assert code == 2
    assert f"unknown key '{key}'" in err
    assert f"did you mean {near}?" in err


@pytest.mark.parametrize("key", ["zzz", 5, True, "-o", "config"])
def test_a_key_like_none_gets_the_list(key: object, edgepack: Edgepack, project: Path) -> None:
    file = project / "edgepack.yaml"
    file.write_text(yaml.safe_dump({"model": "model.onnx", key: "rpi5"}))
    code, _, err = edgepack("build", "--config", file)
    assert code == 2
    assert "unknown key" in err
    assert "edgepack.yaml" in err


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "words", "a: [", "a: b: c"])
def test_a_file_that_is_no_table(text: str, edgepack: Edgepack, project: Path) -> None:
    (project / "edgepack.yaml").write_text(text)
    code, _, err = edgepack("build", "--config", project / "edgepack.yaml")
    assert code == 2
    assert "edgepack.yaml" in err


def test_a_file_that_is_not_there(edgepack: Edgepack, project: Path) -> None:
    for path, words in (("gone.yaml", "gone.yaml does not exist"), (project, "cannot be read")):
        code, _, err = edgepack("build", "--config", path)
        assert code == 2
        assert words in err


@pytest.mark.parametrize(("key", "value"), [("threads", "two"), ("seconds", "soon"), ("force", "maybe")])
def test_a_value_that_is_none_names_its_flag(key: str, value: str, edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, **{key: value}))
    assert code == 2
    assert f"--{key}" in err


def test_a_missing_flag_is_still_missing(edgepack: Edgepack, project: Path) -> None:
    (project / "edgepack.yaml").write_text("model: model.onnx\n")
    code, _, err = edgepack("build", "--config", project / "edgepack.yaml")
    assert code == 2
    assert "--output" in err


def test_every_flag_may_stand_in_a_file(edgepack: Edgepack, project: Path) -> None:
    command = typer.main.get_command(cli.app).commands["build"]  # type: ignore[attr-defined]
    flags = [
        flag.lstrip("-")
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("--") and flag not in ("--config", "--json")
    ]
    assert len(flags) > 12
    for flag in flags:
        code, _, err = edgepack("build", "--config", config(project, **{flag: "1"} if flag != "device" else {}))
        assert "unknown key" not in err, flag
        assert code in (2, 30, 31), err


def test_json_may_stand_in_a_file_like_any_flag(edgepack: Edgepack, project: Path) -> None:
    code, _, err = edgepack("build", "--config", config(project, json=True))
    assert code == 30, err


@pytest.mark.parametrize(("text", "states"), [("h=hn", ["h=hn"]), ("[h=hn, c=cn]", ["h=hn", "c=cn"])])
def test_states_may_stand_in_the_file(text: str, states: list[str], tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text(f"state: {text}\nio-layout: nhwc\nio-dtype: uint8\n")
    flags = {"state": ["--state"], "io_layout": ["--io-layout"], "io_dtype": ["--io-dtype"]}
    found = read(tmp_path / "edge.yaml", flags)
    assert found == {"state": states, "io_layout": "nhwc", "io_dtype": "uint8"}
