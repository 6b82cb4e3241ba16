"""Models that are hard to quantize, whole builds: each is as close to float as others are, or refused by name.

What every case says is what must come of it: the layers left float and why, or the error and its words.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepack import errors
from edgepack.building.pipeline import build
from edgepack.building.result import Build
from edgepack.errors import EdgepackError
from tests import models
from tests.conftest import Run

node = helper.make_node
random = models.random
IMAGES = models.images(40, seed=1)
ROWS = random((40, 8), 1)
PLANES = random((40, 3, 8, 8), 1)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Int8 comes within `sqnr_db` of float; the build's notes hold `words`."""

    proto: onnx.ModelProto
    x: np.ndarray
    sqnr_db: float = 35.0
    words: str = ""
    target: str = "onnxruntime"


@dataclass(frozen=True, kw_only=True)
class Refused:
    proto: onnx.ModelProto
    x: np.ndarray
    error: type[EdgepackError]
    words: tuple[str, ...]
    # Whether float is built all the same.
    only_int8: bool = False


def convnet(**changes: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The convnet with the named weights changed."""
    proto = models.convnet()
    for tensor in proto.graph.initializer:
        if tensor.name in changes:
            array = changes[tensor.name](numpy_helper.to_array(tensor).copy()).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return proto


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array * factor


def put(places: int | slice | tuple[int, ...], number: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[places] = number
        return array

    return change


def net(
    nodes: Sequence[onnx.NodeProto],
    takes: Sequence[int | str],
    gives: Sequence[int | str],
    opset: int = 17,
    ir_version: int = 8,
    **weights: np.ndarray,
) -> onnx.ModelProto:
    """A model from x to y."""
    return models.model(nodes, {"x": takes}, {"y": gives}, weights, opset=opset, ir_version=ir_version)


def rows(
    nodes: Sequence[onnx.NodeProto], gives: Sequence[int | str] = ("N", 4), **weights: np.ndarray
) -> onnx.ModelProto:
    return net(nodes, ["N", 8], gives, **weights)


def planes(nodes: Sequence[onnx.NodeProto], **weights: np.ndarray) -> onnx.ModelProto:
    return net(nodes, ["N", 3, 8, 8], ["N", 3, 8, 8], **weights)


def renamed(name: str) -> onnx.ModelProto:
    proto = models.convnet()
    for each in proto.graph.node:
        each.name = name
    return proto


def with_outputs(proto: onnx.ModelProto, shape: Sequence[int | str], *names: str) -> onnx.ModelProto:
    for name in names:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return proto


def unreached(only: bool = False) -> onnx.ModelProto:
    """A layer `k` for the columns where a row of x exceeds 1e9: for none."""
    seen = "x" if only else "h"
    nodes = [
        *([] if only else [node("Gemm", ["x", "w"], ["h"], transB=1)]),
        node("Greater", ["x", "big"], ["above"]),
        node("NonZero", ["above"], ["places"]),
        node("Slice", ["places", "one", "two", "zero"], ["columns"]),
        node("Squeeze", ["columns", "zero"], ["index"]),
        node("Gather", [seen, "index"], ["chosen"], axis=1),
        node("Reshape", ["chosen", "eights"], ["flat"]),
        node("Gemm", ["flat", "w2"], ["k"]),
        node("ReduceSum", ["k"], ["sum"], keepdims=0),
        node("Add", [seen, "sum"], ["y"]),
    ]
    numbers = {"one": np.array([1]), "two": np.array([2]), "zero": np.array([0]), "eights": np.array([-1, 8])}
    big = np.array(1e9, np.float32)
    return rows(nodes, ["N", 8], w=random((8, 8)), w2=random((8, 4)), big=big, **numbers)


def inside_if() -> onnx.ModelProto:
    """A layer in a branch that is never taken."""
    y = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 4])
    weight = numpy_helper.from_array(random((4, 8)), "inner_w")
    then = helper.make_graph([node("Gemm", ["h", "inner_w"], ["t"], transB=1)], "then", [], [y], [weight])
    other = helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N", 4])
    cut = {"a": np.array([0]), "b": np.array([4]), "c": np.array([1])}
    held = [numpy_helper.from_array(array, name) for name, array in cut.items()]
    orelse = helper.make_graph([node("Slice", ["h", "a", "b", "c"], ["e"])], "else", [], [other], held)
    nodes = [
        node("Gemm", ["x", "w"], ["h"], transB=1),
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "big"], ["condition"]),
        node("If", ["condition"], ["y"], then_branch=then, else_branch=orelse),
    ]
    return rows(nodes, w=random((8, 8)), big=np.array(1e9, np.float32))


def masked(after: str, least: float) -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "w"], ["h"], transB=1),
        node("Add", ["h", "mask"], ["a"]),
        node(after, ["a"], ["s"]),
        node("MatMul", ["s", "w2"], ["y"]),
    ]
    return rows(nodes, w=random((8, 8)), w2=random((8, 4), 2), mask=np.array([0] * 7 + [least], np.float32))


def gemm_with(bias: np.ndarray) -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Gemm", ["h", "w2"], ["y"])]
    return net(nodes, [4, 8], [4, 4], w=random((4, 8)), b=bias, w2=random((4, 4), 2))


def twice(first: str, second: str, **attributes: int) -> onnx.ModelProto:
    """One square weight in two layers; `attributes` are of the first."""
    nodes = [
        node(first, ["x", "w"], ["h"], **attributes),
        node("Relu", ["h"], ["r"]),
        node(second, ["r", "w"], ["y"]),
    ]
    return rows(nodes, ["N", 8], w=random((8, 8)))


def old() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        node("Clip", ["n"], ["r"], min=0.0, max=6.0),
        node("Dropout", ["r"], ["d"], ratio=0.5),
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    weights = {"w": random((8, 3, 3, 3)), "w2": random((4, 8), 7), "b2": random((4,), 8)}
    norm = {name: random((8,), seed) for seed, name in enumerate(("b", "s", "t", "m"), 2)}
    return net(nodes, ["N", 3, 8, 8], ["N", 4], 7, 6, **weights, **norm, v=np.abs(random((8,), 9)) + np.float32(0.1))


ZERO = times(0)
CONVS = ("w1", "b1", "w2", "b2", "w3", "b3")

KEPT = {
    # numbers
    "an all-zero channel": Kept(proto=convnet(w1=put(0, 0), b1=put(0, 0)), x=IMAGES),
    "a zero channel with a bias": Kept(proto=convnet(w1=put(0, 0), b1=put(0, 5)), x=IMAGES),
    "dead depthwise channels": Kept(proto=convnet(w2=put(slice(8), 0), b2=put(slice(8), 0)), x=IMAGES),
    "an all-zero layer": Kept(proto=convnet(w3=ZERO, b3=ZERO), x=IMAGES),
    "all-zero weights": Kept(proto=convnet(**dict.fromkeys((*CONVS, "w4", "b4"), ZERO)), x=IMAGES, sqnr_db=200),
    "weights of 1e-38": Kept(proto=convnet(w3=times(1e-38)), x=IMAGES),
    "denormal weights": Kept(proto=convnet(w3=times(1e-42)), x=IMAGES),
    "scales that would underflow": Kept(proto=convnet(w1=times(1e-30), b1=times(1e-30), w2=times(1e-9)), x=IMAGES),
    "activations of 1e-20": Kept(proto=convnet(w1=times(1e-20), b1=times(1e-20), w2=times(1e20)), x=IMAGES),
    "weights of 1e30": Kept(proto=convnet(w4=times(1e30)), x=IMAGES),
    "activations of 1e30": Kept(proto=convnet(w3=times(1e30), w4=times(1e-30)), x=IMAGES),
    "inputs of 1e30": Kept(proto=convnet(w1=times(1e-30)), x=IMAGES * np.float32(1e30)),
    "an infinite bias": Kept(
        proto=convnet(b2=put(1, -np.inf)), x=IMAGES, words="its weights or bias are infinite: Conv"
    ),
    "one weight of a Conv": Kept(
        proto=net(
            [node("Conv", ["x", "w"], ["c"]), node("Conv", ["c", "w2"], ["y"])],
            ["N", 1, 8, 8],
            ["N", 1, 8, 8],
            w=np.full((1, 1, 1, 1), 2, np.float32),
            w2=np.full((1, 1, 1, 1), 0.5, np.float32),
        ),
        x=random((40, 1, 8, 8)),
    ),
    "one weight of a MatMul": Kept(
        proto=net([node("MatMul", ["x", "w"], ["y"])], ["N", 1], ["N", 1], w=np.full((1, 1), 2, np.float32)),
        x=random((40, 1)),
    ),
    # activations
    # Every pixel answers alike, and so errs alike: by a step of the last activation.
    "zeros everywhere": Kept(proto=models.convnet(), x=IMAGES * 0, sqnr_db=28.0),
    "a constant input": Kept(proto=models.convnet(), x=IMAGES * 0 + 3),
    "inputs of 1e-30": Kept(proto=models.convnet(), x=IMAGES * np.float32(1e-30), sqnr_db=28.0),
    "a layer that reads only zeros": Kept(
        proto=rows(
            [
                node("Gemm", ["x", "w", "b"], ["h"], transB=1),
                node("Relu", ["h"], ["r"]),
                node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
            ],
            w=random((8, 8)),
            b=np.full(8, -100, np.float32),
            w2=random((4, 8), 2),
            b2=random((4,), 3),
        ),
        x=ROWS,
    ),
    "a layer that no sample reaches": Kept(proto=unreached(), x=ROWS, words="no sample reaches k, so float"),
    "a layer inside If": Kept(proto=inside_if(), x=ROWS, words="inside control flow: Gemm"),
    "a mask of -inf before Softmax": Kept(proto=masked("Softmax", -np.inf), x=ROWS),
    "a mask of -inf before Relu": Kept(proto=masked("Relu", -np.inf), x=ROWS),
    "a mask of the least float": Kept(proto=masked("Relu", float(np.finfo(np.float32).min)), x=ROWS),
    # forms of layers
    "no names": Kept(proto=renamed(""), x=IMAGES),
    "a weight that is a summand too": Kept(
        proto=planes(
            [
                node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
                node("Add", ["c", "v"], ["a"]),
                node("Conv", ["a", "v"], ["y"]),
            ],
            w=random((3, 3, 3, 3)),
            v=random((1, 3, 1, 1), 2),
        ),
        x=PLANES,
    ),
    "a weight that is an answer too": Kept(
        proto=with_outputs(
            rows([node("Gemm", ["x", "w"], ["y"], transB=1), node("Identity", ["w"], ["z"])], w=random((4, 8))),
            [4, 8],
            "z",
        ),
        x=ROWS,
    ),
    "a weight twice": Kept(proto=twice("MatMul", "MatMul"), x=ROWS),
    "a weight in two layouts": Kept(proto=twice("Gemm", "Gemm", transB=1), x=ROWS),
    "a weight of two operators": Kept(proto=twice("Gemm", "MatMul"), x=ROWS),
    "a weight that is data too": Kept(
        proto=rows(
            [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["v", "w"], ["k"]), node("Add", ["h", "k"], ["y"])],
            w=random((8, 4)),
            v=random((1, 8), 3),
        ),
        x=ROWS,
    ),
    "one bias of two layers": Kept(
        proto=planes(
            [
                node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
                node("Relu", ["c"], ["r"]),
                node("Conv", ["r", "w2", "b"], ["y"]),
            ],
            w=random((3, 3, 3, 3)),
            w2=random((3, 3, 1, 1), 2),
            b=random((3,), 3),
        ),
        x=PLANES,
    ),
    "a MatMul with a vector": Kept(
        proto=rows(
            [node("Gemm", ["x", "w"], ["h"], transB=1), node("MatMul", ["h", "v"], ["y"])],
            ["N"],
            w=random((4, 8)),
            v=random((4,), 2),
        ),
        x=ROWS,
        words="its weights are a vector: MatMul",
    ),
    "a MatMul in batches": Kept(
        proto=net([node("MatMul", ["x", "w"], ["y"])], ["N", 3, 4, 8], ["N", 3, 4, 5], w=random((3, 8, 5))),
        x=random((40, 3, 4, 8), 2),
    ),
    "a Gemm with alpha": Kept(
        proto=rows(
            [node("Gemm", ["x", "w"], ["h"], transB=1, alpha=0.5), node("Gemm", ["h", "w2"], ["y"])],
            w=random((4, 8)),
            w2=random((4, 4), 2),
        ),
        x=ROWS,
        words="alpha or beta is not 1: Gemm",
    ),
    "a Gemm with one number as its bias": Kept(proto=gemm_with(np.array(0.5, np.float32)), x=ROWS),
    "a Gemm with a bias of one row": Kept(proto=gemm_with(random((1, 4), 5)), x=ROWS),
    "a Gemm with a bias by row": Kept(proto=gemm_with(random((4, 1), 5)), x=ROWS, words="its bias differs by row"),
    "a Gemm with a bias matrix": Kept(proto=gemm_with(random((4, 4), 5)), x=ROWS, words="its bias differs by row"),
    "answers that are read inside": Kept(
        proto=with_outputs(
            planes(
                [
                    node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
                    node("Relu", ["c"], ["r"]),
                    node("Conv", ["r", "w2"], ["y"]),
                ],
                w=random((3, 3, 3, 3)),
                w2=random((3, 3, 1, 1), 2),
            ),
            ["N", 3, 8, 8],
            "c",
            "r",
        ),
        x=PLANES,
        sqnr_db=30,
    ),
    "an input that is an answer": Kept(
        proto=with_outputs(planes([node("Conv", ["x", "w"], ["y"])], w=random((3, 3, 1, 1))), ["N", 3, 8, 8], "x"),
        x=PLANES,
    ),
    "opset 7": Kept(proto=old(), x=PLANES),
}  # fmt: skip

REFUSED = {
    "NaN in a weight": Refused(
        proto=convnet(w2=put((1, 0, 1, 1), np.nan)),
        x=IMAGES,
        error=errors.NotAModel,
        words=("'w2' hold NaN in 1 of 144",),
    ),
    "NaN in a bias": Refused(
        proto=convnet(b2=put(1, np.nan)), x=IMAGES, error=errors.NotAModel, words=("'b2' hold NaN in 1 of 16",)
    ),
    "NaN in a summand": Refused(
        proto=masked("Softmax", np.nan), x=ROWS, error=errors.NotAModel, words=("'mask' hold NaN",)
    ),
    "infinity in a weight": Refused(
        proto=convnet(w2=put((1, 0, 1, 1), np.inf)),
        x=IMAGES,
        error=errors.SamplesError,
        words=("answers NaN or infinity in 'y'", "'w2' hold infinity"),
    ),
    "weights that overflow": Refused(
        proto=convnet(w3=times(1e38), w4=times(1e38)),
        x=IMAGES,
        error=errors.SamplesError,
        words=("the original itself answers NaN or infinity in 'y'",),
    ),
    "NaN among activations": Refused(
        proto=rows([node("Log", ["x"], ["l"]), node("Gemm", ["l", "w"], ["y"], transB=1)], w=random((4, 8))),
        x=ROWS,
        error=errors.SamplesError,
        words=("the original itself answers NaN or infinity in 'y'",),
    ),
    "NaN on one sample": Refused(
        proto=rows([node("Log", ["x"], ["l"]), node("Gemm", ["l", "w"], ["y"], transB=1)], w=random((4, 8))),
        x=np.where(np.arange(40)[:, None] == 3, -1, np.abs(ROWS) + 1).astype(np.float32),
        error=errors.SamplesError,
        words=("tensor 'l' is NaN or infinite on sample",),
        only_int8=True,
    ),
    "two nodes of a name": Refused(
        proto=renamed("same"), x=IMAGES, error=errors.CleanupError, words=("two nodes with same node name (same)",)
    ),
    "nothing but a vector": Refused(
        proto=rows([node("MatMul", ["x", "v"], ["y"])], ["N"], v=random((8,))),
        x=ROWS,
        error=errors.UnsupportedOperator,
        words=("nothing in this model can be computed in int8", "its weights are a vector: MatMul"),
        only_int8=True,
    ),
    "nothing but a layer that no sample reaches": Refused(
        proto=unreached(only=True),
        x=ROWS,
        error=errors.SamplesError,
        words=("'flat' is empty on every sample",),
        only_int8=True,
    ),
    "nothing but a product of a vector": Refused(
        proto=net([node("MatMul", ["x", "w"], ["y"])], [8], [5], w=random((8, 5))),
        x=ROWS,
        error=errors.UnsupportedOperator,
        words=("nothing in this model can be computed in int8", "its data is a vector: MatMul"),
        only_int8=True,
    ),
    "no operator with an int8 form": Refused(
        proto=net(
            [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
            [5, 1, 3],
            [5, 1, 1, 4],
            w=random((1, 16, 3)),
            r=random((1, 16, 4)),
        ),
        x=random((40, 5, 1, 3)),
        error=errors.UnsupportedOperator,
        words=("no int8 form: LSTM",),
        only_int8=True,
    ),
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Build]:
    def run(case: Kept | Refused, precision: str = "int8", target: str = "onnxruntime") -> Build:
        onnx.save(case.proto, tmp_path / "model.onnx")
        np.savez(tmp_path / "calib.npz", x=case.x)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # what overflows or divides by zero is no handling
            return build(
                tmp_path / "model.onnx",
                tmp_path / "out",
                data=tmp_path / "calib.npz",
                precision=precision,
                target=target,
                seconds=0,
                threads=1,
            )

    return run


@pytest.mark.parametrize("case", KEPT.values(), ids=KEPT.keys())
def test_int8_is_close_to_float(make: Callable[..., Build], case: Kept) -> None:
    built = make(case)
    assert built.precision == "int8" and built.quality is not None and built.quality.sqnr_db is not None
    assert built.quality.sqnr_db >= case.sqnr_db
    assert case.words in " ".join(built.notes)
    assert ("float:" in " ".join(built.notes)) == bool(case.words)


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_it_is_refused_by_name(make: Callable[..., Build], tmp_path: Path, case: Refused) -> None:
    with pytest.raises(case.error) as refusal:
        make(case)
    for word in case.words:
        assert word in refusal.value.message
    assert refusal.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calib.npz", "model.onnx"]


@pytest.mark.parametrize("name", [name for name, case in REFUSED.items() if not case.only_int8])
def test_float_is_refused_where_the_model_itself_is_broken(make: Callable[..., Build], name: str) -> None:
    case = REFUSED[name]
    with pytest.raises(case.error) as refusal:
        make(case, "fp32")
    assert all(word in refusal.value.message for word in case.words)


def test_the_command_line_says_it_in_a_line_and_a_hint(cli: Run, tmp_path: Path) -> None:
    case = REFUSED["NaN in a weight"]
    onnx.save(case.proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calib.npz", x=case.x)
    done = cli("build", "model.onnx", "-o", "out", "--data", "calib.npz", cwd=tmp_path)
    assert done.returncode == errors.NotAModel.exit_code and done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: the weights 'w2' hold NaN") and hint.startswith("hint: did the training diverge")


def test_a_lone_nan_may_be_a_fill_value(make: Callable[..., Build]) -> None:
    proto = rows(
        [
            node("Gemm", ["x", "w"], ["h"], transB=1),
            node("IsNaN", ["h"], ["odd"]),
            node("Where", ["odd", "fill", "h"], ["y"]),
        ],
        w=random((4, 8)),
        fill=np.array(np.nan, np.float32),
    )
    assert make(Kept(proto=proto, x=ROWS)).precision == "int8"
