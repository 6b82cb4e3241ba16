"""Every operator alone in LiteRT, with XNNPACK and with the builtin kernels, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepack import target
from edgepack.model import Model
from edgepack.reference import Session
from tests import tflite_cases as cases
from tests.tflite_cases import Case

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
TFLITE = target.load("tflite")
KERNELS = {
    "xnnpack": interpreter.OpResolverType.AUTO,
    "builtin": interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def lowered(proto: onnx.ModelProto, folder: Path) -> Path:
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    return folder / TFLITE.lower(Model.from_proto(copy), folder)


def run(path: Path, kernels: str, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session: Any = interpreter.Interpreter(str(path), experimental_op_resolver_type=KERNELS[kernels])
    session.allocate_tensors()
    answers: dict[str, np.ndarray] = session.get_signature_runner()(**feed)
    return answers


def distance(answer: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest number."""
    assert answer.shape == wanted.shape and answer.dtype == wanted.dtype
    if wanted.dtype.kind != "f":
        return float((answer != wanted).any())
    return float(np.abs(answer - wanted).max() / max(np.abs(wanted).max(), 1e-6))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", cases.FLOAT)
def test_float_answers_are_those_of_onnx_runtime(name: str, kernels: str, tmp_path: Path) -> None:
    case = cases.FLOAT[name]
    path = lowered(case.proto, tmp_path)
    session = Session(case.proto, threads=1)
    for seed in range(2):
        feed = case.feed(seed)
        wanted, answers = session.run(feed), run(path, kernels, feed)
        for output in session.outputs:
            assert distance(answers[output], wanted[output]) < 1e-5, output
