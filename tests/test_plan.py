"""The plan: what each wish becomes on each board."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from edgepack import device
from edgepack.device import Device, available_cores, read
from edgepack.errors import DataNeeded, EdgepackError, MissingExtra, UnfitDevice, UnknownTarget, UsageError
from edgepack.plan import AS_IS, Plan, plan

BOARDS = read()
WISHES: dict[str, Any] = {
    "target": "auto",
    "precision": "auto",
    "has_data": False,
    "is_quantized": False,
    "threads": None,
}


def decide(board: str | Device, **wishes: object) -> Plan:
    return plan(BOARDS[board] if isinstance(board, str) else board, **{**WISHES, **wishes})


# --- the table ------------------------------------------------------------------------------------------

# Board, target, precision, data: target, precision, on trial.
TABLE = [
    ("rpi4", "auto", "auto", True, "onnxruntime", "int8", True),
    ("rpi4", "auto", "auto", False, "onnxruntime", "fp32", False),
    ("rpi4", "auto", "int8", True, "onnxruntime", "int8", False),
    ("rpi5", "auto", "auto", True, "onnxruntime", "int8", True),
    ("rpi5", "auto", "fp16", False, "onnxruntime", "fp16", False),
    ("rpi5", "openvino", "auto", True, "openvino", "fp32", False),
    ("rpi5", "openvino", "auto", False, "openvino", "fp32", False),
    ("rpi5", "openvino", "fp16", True, "openvino", "fp16", False),
    ("intel-avx2", "auto", "auto", True, "onnxruntime", "int8", True),
    ("intel-avx2", "openvino", "auto", True, "openvino", "int8", True),
    ("intel-avx2", "auto", "fp32", True, "onnxruntime", "fp32", False),
    ("intel-n100", "auto", "auto", True, "openvino", "int8", True),
    ("intel-n100", "auto", "auto", False, "openvino", "fp32", False),
    ("intel-n100", "onnxruntime", "int8", True, "onnxruntime", "int8", False),
    ("intel-vnni", "auto", "fp16", False, "openvino", "fp16", False),
    ("intel-vnni", "auto", "fp32", False, "openvino", "fp32", False),
]


@pytest.mark.parametrize(("board", "target", "precision", "data", "chosen", "built", "on_trial"), TABLE)
def test_what_is_built(
    board: str, target: str, precision: str, data: bool, chosen: str, built: str, on_trial: bool
) -> None:
    decision = decide(board, target=target, precision=precision, has_data=data)
    assert (decision.target_name, decision.precision, decision.on_trial) == (chosen, built, on_trial)
    assert decision.device is BOARDS[board]
    assert chosen in decision.target.REQUIREMENTS
    assert decision.reason


@pytest.mark.parametrize("board", BOARDS)
def test_auto_is_the_first_target_of_the_board(board: str) -> None:
    assert decide(board).target_name == next(iter(BOARDS[board].targets))


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("data", [True, False])
@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16", "int8"])
def test_every_wish_is_met_or_refused(board: str, data: bool, precision: str) -> None:
    """For each of the board's targets: a precision that is asked for and possible is the one that is built."""
    for target, able in BOARDS[board].targets.items():
        wishes = {"target": target, "precision": precision, "has_data": data}
        if precision != "auto" and precision not in able:
            with pytest.raises(UnfitDevice):
                decide(board, **wishes)
        elif precision == "int8" and not data:
            with pytest.raises(DataNeeded):
                decide(board, **wishes)
        else:
            built = decide(board, **wishes).precision
            assert built in able
            assert precision in ("auto", built)


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"has_data": False}, "--data"),
        ({"has_data": True}, "asimddp"),
        ({"has_data": True, "target": "openvino"}, "openvino"),
        ({"precision": "fp16"}, "asked for"),
        ({"is_quantized": True}, "integer operators"),
    ],
)
def test_the_reason_says_why(wishes: dict[str, object], words: str) -> None:
    assert words in decide("rpi5", **wishes).reason


# --- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("board", "wishes", "error", "words"),
    [
        ("rpi4", {"target": "openvino"}, UnfitDevice, "it runs onnxruntime"),
        ("rpi5", {"target": "openvino", "precision": "int8", "has_data": True}, UnfitDevice, "fp32, fp16"),
        ("rpi5", {"precision": "int8"}, DataNeeded, "--data"),
        ("rpi5", {"precision": "int4"}, UsageError, "auto, fp32, fp16, int8"),
        ("rpi5", {"precision": "INT8", "has_data": True}, UsageError, "int8"),
        ("rpi5", {"threads": 0}, UsageError, "--threads"),
        ("rpi5", {"threads": -2}, UsageError, "--threads"),
        ("rpi5", {"target": "onnxruntme"}, UnknownTarget, "did you mean onnxruntime?"),
        ("rpi5", {"target": "openvin"}, UnknownTarget, "did you mean openvino?"),
        ("rpi5", {"target": "zzz"}, UnknownTarget, "known targets: "),
        ("rpi5", {"target": "../edgepack"}, UnknownTarget, "no target"),
    ],
)
def test_what_cannot_be_is_refused(
    board: str, wishes: dict[str, object], error: type[EdgepackError], words: str
) -> None:
    with pytest.raises(error) as caught:
        decide(board, **wishes)
    assert words in str(caught.value)


def test_a_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match="openvino is not installed") as caught:
        decide("intel-n100")
    assert "edgepack[openvino]" in caught.value.hint
    assert decide("intel-n100", target="onnxruntime").target_name == "onnxruntime"


# --- models that are already quantized ------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["auto", "int8"])
@pytest.mark.parametrize("data", [True, False])
def test_a_quantized_model_is_packaged_as_it_is(precision: str, data: bool) -> None:
    decision = decide("rpi5", precision=precision, has_data=data, is_quantized=True)
    assert decision.precision == AS_IS
    assert not decision.on_trial


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_model_becomes_no_float(precision: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be made {precision}"):
        decide("rpi5", precision=precision, is_quantized=True)


def test_a_quantized_model_still_needs_a_target_that_runs_there() -> None:
    with pytest.raises(UnfitDevice):
        decide("rpi4", target="openvino", is_quantized=True)


# --- bits and threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("board", BOARDS)
def test_weights_have_7_bits_where_products_saturate(board: str) -> None:
    for target in BOARDS[board].targets:
        decision = decide(board, target=target)
        assert decision.scheme.weight_bits == (7 if board == "intel-avx2" else 8)
        assert replace(decision.scheme, weight_bits=8) == decision.target.SCHEME


def test_threads_are_the_cores_of_the_board() -> None:
    assert decide("rpi5").threads == 4
    assert decide(replace(BOARDS["rpi5"], cores=3)).threads == 3


def test_threads_as_asked_for() -> None:
    assert decide("rpi5", threads=2).threads == 2


def test_threads_here_are_the_cores_this_process_may_use() -> None:
    host = device.detect()
    assert decide(host).threads == available_cores()
    assert decide(replace(host, cores=1)).threads == 1


# --- what this machine's latency is worth ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "arch", "telling"),
    [
        ("avx2 avx_vnni", "x86_64", {"intel-n100", "intel-vnni"}),
        ("avx2 avx512_vnni", "x86_64", {"intel-n100", "intel-vnni"}),
        ("avx2", "x86_64", {"intel-avx2"}),
        ("asimd asimddp", "aarch64", {"rpi5"}),
        ("asimd", "aarch64", {"rpi4"}),
        ("", "riscv64", set()),
    ],
)
def test_latency_here_tells_about_boards_of_the_same_kind(
    here: str, arch: str, telling: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same architecture, and the int8 dot product on both or on neither."""
    monkeypatch.setattr(device, "_cpuinfo", lambda: {"flags": here})
    monkeypatch.setattr("platform.machine", lambda: arch)
    assert {name for name in BOARDS if decide(name).measurable_here} == telling
