"""The command line as a user and as a script meet it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgepack.device import read
from tests import models
from tests.conftest import Run
from tests.test_config import Answer, Edgepack, run_here
from tests.test_inspection import small_bundle

COMMANDS = ["build", "bench", "check", "inspect", "compare", "report", "demo", "devices"]
# The installed script, as its users type it, lies beside the interpreter.
SCRIPT = str(Path(sys.executable).with_name("edgepack"))


def plain(**more: str) -> dict[str, str]:
    """The environment without what colours the output, whatever runs these tests."""
    unwanted = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "EDGEPACK_DEBUG"}
    kept = {key: value for key, value in os.environ.items() if key not in unwanted}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200", **more}


def words(text: str) -> str:
    """Running text from a help page: without colours, boxes, line ends and double spaces."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯]", " ", text).split())


def process(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=plain(**environment))


@pytest.fixture
def edgepack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Edgepack:
    """The command line in this process, run in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: run_here(monkeypatch, capsys, *arguments)


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory)


@pytest.fixture
def folder(bundle: Path) -> Path:
    """Where the bundle `net` and its model.onnx lie."""
    return bundle.parent


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def only_json(text: str) -> Any:
    """What stdout holds, which must be JSON from the first byte to the last line's end."""
    assert text[0] in "{["
    assert text.endswith(("}\n", "]\n"))
    return json.loads(text)


# --- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_examples(command: str, edgepack: Edgepack) -> None:
    code, out, _ = edgepack(command, "--help")
    assert code == 0
    assert f"Usage: edgepack {command}" in words(out)
    assert f"edgepack {command}" in out.partition("Example")[2]


def test_help_lists_every_command(edgepack: Edgepack) -> None:
    for flag in ("--help", "-h"):
        code, out, err = edgepack(flag)
        assert (code, err) == (0, "")
        listed = re.findall(r"^│ (\w+) ", out, re.MULTILINE)
        assert [name for name in listed if name in COMMANDS] == COMMANDS


@pytest.mark.parametrize("command", ["build", "bench"])
def test_help_says_what_threads_are_by_default(command: str, edgepack: Edgepack) -> None:
    assert "all cores of the device" in words(edgepack(command, "--help")[1])


def test_help_says_what_the_name_is_by_default(edgepack: Edgepack) -> None:
    assert "the model file's" in words(edgepack("build", "--help")[1])


def test_without_a_command_there_is_help(edgepack: Edgepack) -> None:
    code, out, err = edgepack()
    assert code == 2
    assert "Usage: edgepack" in words(out + err)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_flags_that_exist(command: str, edgepack: Edgepack) -> None:
    options, _, examples = edgepack(command, "--help")[1].partition("Example")
    for flag in re.findall(r"--[a-z-]+", examples):
        assert flag in options


# --- what is imported -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    report = process(sys.executable, "-X", "importtime", "-m", "edgepack", *arguments).stderr
    imported = {line.rpartition("|")[2].strip() for line in report.splitlines() if line.startswith("import ")}
    assert {"typer", "edgepack.cli"} <= imported
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxslim", "openvino", "torch", "PIL", "yaml", "matplotlib"}
    assert not heavy & {name.partition(".")[0] for name in imported}


def test_importing_edgepack_loads_nothing_heavy() -> None:
    loaded = process(sys.executable, "-c", "import sys, edgepack; print(*sys.modules)").stdout.split()
    assert "edgepack" in loaded
    assert not {"numpy", "onnx", "onnxruntime", "typer", "yaml"} & set(loaded)


def test_the_python_api_stays_callable_in_any_order() -> None:
    """A module that is called like a function would take its place once it is imported."""
    code = "import edgepack, edgepack.cli; print([callable(getattr(edgepack, name)) for name in edgepack.__all__ * 2])"
    assert process(sys.executable, "-c", code).stdout.strip() == str([True] * 16)


def test_the_python_api_knows_what_it_lacks() -> None:
    import edgepack

    with pytest.raises(AttributeError, match="module 'edgepack' has no attribute 'quantise'"):
        _ = edgepack.quantise


# --- version, unknown commands, wrong flags -------------------------------------------------------------


def test_version(edgepack: Edgepack) -> None:
    assert edgepack("--version") == (0, f"edgepack {version('edgepack')}\n", "")


def test_the_installed_script_is_the_module() -> None:
    assert process(SCRIPT, "--version").stdout == process(sys.executable, "-m", "edgepack", "--version").stdout != ""


def test_an_unknown_command_gets_a_suggestion(edgepack: Edgepack) -> None:
    code, out, err = edgepack("biuld")
    assert (code, out) == (2, "")
    assert "No such command 'biuld'" in words(err)
    assert "build" in words(err).partition("'biuld'")[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("build model.onnx", "--output"),
        ("build -o OUT", "MODEL"),
        ("build model.onnx -o OUT --devise rpi5", "--devise"),
        ("bench net --threads many", "--threads"),
        ("bench net --threads 0", "--threads"),
        ("bench net --seconds 0", "--seconds"),
        ("bench net --seconds -1", "--seconds"),
        ("bench net --seconds nan", "--seconds"),
        ("bench net --seconds inf", "--seconds"),
        ("build model.onnx -o OUT --seconds -1", "--seconds"),
        ("build model.onnx -o OUT --seconds nan", "--seconds"),
        ("build model.onnx -o OUT --threads 0", "--threads"),
        ("build model.onnx -o OUT --precision int4", "int4"),
        ("inspect model.onnx --input-shape x", "--input-shape x"),
        ("inspect model.onnx --input-shape x=1xa", "--input-shape x=1xa"),
        ("inspect model.onnx --input-shape x=0x3", "--input-shape x=0x3"),
        ("inspect model.onnx --input-shape =1x3", "--input-shape =1x3"),
    ],
)
def test_wrong_flags_are_named(arguments: str, named: str, edgepack: Edgepack, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, out, err = edgepack(*arguments.replace("OUT", str(output)).split())
    assert (code, out) == (2, ""), err
    assert named in words(err)
    assert not output.exists()


# --- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("inspect gone.onnx --json", 10),
        ("build gone.onnx -o OUT --json", 10),
        ("build model.onnx -o OUT --device rpi6", 30),
        ("build model.onnx -o OUT --target tflight", 33),
        ("build model.onnx -o OUT --precision int8", 24),
        ("build model.onnx -o net", 60),
        ("inspect model.onnx --input-shape x=3x3", 13),
        ("check gone --json", 50),
        ("bench . --json", 50),
    ],
)
def test_an_error_is_one_line_and_a_hint(
    arguments: str, expected: int, edgepack: Edgepack, bundle: Path, tmp_path: Path
) -> None:
    """Nothing on stdout, no traceback, and an exit code that scripts can tell apart."""
    code, out, err = edgepack(*arguments.replace("OUT", str(tmp_path / "out")).split())
    assert (code, out) == (expected, "")
    first, *rest = err.splitlines()
    assert first.startswith("error: ")
    assert [line.partition(" ")[0] for line in rest] in ([], ["hint:"])


def test_debugging_shows_the_traceback() -> None:
    outcome = process(sys.executable, "-m", "edgepack", "inspect", "gone.onnx", EDGEPACK_DEBUG="1")
    assert "Traceback" in outcome.stderr
    assert "NotAModel" in outcome.stderr
    assert outcome.returncode != 0


# --- JSON -----------------------------------------------------------------------------------------------


def test_json_of_devices(edgepack: Edgepack) -> None:
    code, out, err = edgepack("devices", "--json")
    assert (code, err) == (0, "")
    found = only_json(out)
    assert list(found) == ["host", *read()]
    assert found["rpi5"]["arch"] == "aarch64"
    assert found["rpi5"]["targets"]["onnxruntime"] == ["fp32", "fp16", "int8", "dynamic", "w8", "w4"]


def test_json_of_a_build(folder: Path, tmp_path: Path, cli: Run) -> None:
    """In a process of its own: native code could write to stdout behind Python's back."""
    flags = ["--precision", "fp32", "--seconds", "0.05", "--json"]
    outcome = cli("build", folder / "model.onnx", "-o", tmp_path / "out", *flags, env=plain())
    assert (outcome.returncode, outcome.stderr) == (0, "")
    built = only_json(outcome.stdout)
    assert Path(built["bundle"]) == tmp_path / "out"
    assert Path(built["archive"]).is_file()
    assert built["precision"] == "fp32"
    assert built["check"]["ok"] is True
    assert built["latency"]["models"]["model"]["p50_ms"] > 0


def test_json_of_a_measurement(bundle: Path, cli: Run) -> None:
    outcome = cli("bench", bundle, "--seconds", "0.05", "--processes", "2", "--json", env=plain())
    assert (outcome.returncode, outcome.stderr) == (0, "")
    measured = only_json(outcome.stdout)
    assert set(measured["models"]) == {"model", "baseline"}
    assert measured["ratio"]["low"] <= measured["ratio"]["median"] <= measured["ratio"]["high"]


def test_json_of_an_inspected_model(edgepack: Edgepack) -> None:
    code, out, _ = edgepack("inspect", "model.onnx", "--device", "rpi5", "--json")
    found = only_json(out)
    assert code == 0
    assert found["operators"] == {"Gemm": 2, "Relu": 1}
    assert found["cost"]["macs"] == 8 * 16 + 16 * 4


def test_json_of_a_bundle(edgepack: Edgepack, bundle: Path) -> None:
    assert only_json(edgepack("inspect", bundle, "--json")[1])["whole"] is True
    assert only_json(edgepack("check", bundle, "--json")[1])["ok"] is True


def test_json_is_readable_where_the_terminal_knows_no_unicode(tmp_path: Path) -> None:
    onnx.save(models.mlp(), tmp_path / "prüfung.onnx")
    command = [sys.executable, "-m", "edgepack", "inspect", str(tmp_path / "prüfung.onnx"), "--json"]
    outcome = process(*command, LC_ALL="C", LANG="C")
    assert outcome.returncode == 0, outcome.stderr
    assert only_json(outcome.stdout)["path"].endswith("prüfung.onnx")


# --- tables ---------------------------------------------------------------------------------------------


def test_tables_for_people(edgepack: Edgepack, bundle: Path) -> None:
    model = edgepack("inspect", "model.onnx")[1]
    assert "x float32 N×8" in model
    assert "multiply-accumulates" in model
    assert "as built" in edgepack("inspect", bundle)[1]
    assert edgepack("check", bundle.with_name("net.tar.gz"))[1].startswith("ok: ")
    boards = edgepack("devices")[1]
    assert all(name in boards for name in ("host", "rpi4", "intel-n100"))


def test_a_small_cost_is_not_shown_as_none(edgepack: Edgepack) -> None:
    """192 multiply-accumulates are few, but not 0.0 M."""
    assert "0.0 M" not in edgepack("inspect", "model.onnx")[1]


def rename(bundle: Path, name: str) -> None:
    """Give the bundle another name, with the checksum that goes with it."""
    manifest, sums = bundle / "manifest.json", bundle / "SHA256SUMS"
    before = hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert before in sums.read_text()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "name": name}))
    after = hashlib.sha256(manifest.read_bytes()).hexdigest()
    sums.write_text(sums.read_text().replace(before, after))


@pytest.mark.parametrize("name", ["net[v2]", "a[/b]c", "[red]net"])
def test_a_name_with_brackets_is_shown_as_it_is(name: str, copy: Path, edgepack: Edgepack) -> None:
    rename(copy, name)
    code, out, err = edgepack("inspect", copy)
    assert code == 0, err
    assert f"{name} 1, made" in words(out)
    assert "as built" in out


@pytest.mark.parametrize("command", ["inspect", "check", "bench"])
@pytest.mark.parametrize("manifest", ['{"format": 1}', '{"format": 1, "target": "onnxruntime", "inputs": 5}'])
def test_a_manifest_that_lost_its_keys_is_a_broken_bundle(
    command: str, manifest: str, copy: Path, edgepack: Edgepack
) -> None:
    (copy / "manifest.json").write_text(manifest)
    code, out, err = edgepack(command, copy)
    if command == "inspect" and code == 0:
        assert "manifest.json has been altered" in words(out)
    else:
        assert code == 50, err


def test_a_damaged_bundle_is_not_shown_as_whole(edgepack: Edgepack, copy: Path) -> None:
    with (copy / "model" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert "model/model.onnx has been altered or damaged" in words(edgepack("inspect", copy)[1])
    for command in ("check", "bench"):
        code, _, err = edgepack(command, copy)
        assert code == 50
        assert "model/model.onnx has been altered" in err


# --- pipes and completion -------------------------------------------------------------------------------


def test_a_reader_that_has_enough_is_no_error_message() -> None:
    outcome = process("sh", "-c", f"'{sys.executable}' -m edgepack devices --json | true")
    assert outcome.stderr == ""


def test_the_completion_script_is_for_this_command() -> None:
    outcome = process(SCRIPT, _EDGEPACK_COMPLETE="source_bash")
    assert outcome.returncode == 0
    assert "_EDGEPACK_COMPLETE=complete_bash" in outcome.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_show_completion_from_a_shell() -> None:
    outcome = process("bash", "-c", f"'{SCRIPT}' --show-completion; exit $?", SHELL="/bin/bash")
    assert outcome.returncode == 0, outcome.stderr
    assert "complete -o default -F _edgepack_completion edgepack" in outcome.stdout
    assert subprocess.run(["bash", "-n"], input=outcome.stdout, text=True, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("build --device rpi", {"rpi-zero2w", "rpi3", "rpi4", "rpi5"}),
        ("inspect --device ho", {"host"}),
        ("build --target o", {"onnxruntime", "openvino"}),
        ("inspect --target o", {"onnxruntime", "openvino"}),
        ("demo --target o", {"onnxruntime", "openvino"}),
        ("build --precision f", {"fp32", "fp16"}),
        ("build --preprocess im", {"imagenet"}),
        ("build --metric ma", {"map50", "map"}),
        ("build --decode yo", {"yolov8", "yolov5"}),
        ("de", {"devices", "demo"}),
        ("bench --th", {"--threads"}),
    ],
)
def test_what_is_completed(line: str, completed: set[str], edgepack: Edgepack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_EDGEPACK_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"edgepack {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    answer: Answer = edgepack()
    assert set(answer[1].split()) == completed
