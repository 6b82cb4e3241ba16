"""Operators of a runtime, put back to the layers that they compute."""

from __future__ import annotations

from onnx import helper

from edgepack.measuring.origin import LAYOUT, QUANTIZE, Executed, flattened, origins
from tests import models

node = helper.make_node
CHAIN = [
    node("Conv", ["x", "w1"], ["c1"], name="one"),
    node("BatchNormalization", ["c1", "s", "b", "m", "v"], ["n1"], name="norm"),
    node("Relu", ["n1"], ["r1"], name="relu"),
    node("Conv", ["r1", "w2"], ["c2"], name="two"),
    node("Add", ["c2", "r1"], ["y"], name="add"),
]


def ran(name: str, **facts: object) -> Executed:
    return Executed(**{"name": name, "kind": "Conv", "us": 1.0, **facts})  # type: ignore[arg-type]


def names(*executed: Executed) -> list[list[str]]:
    return [[CHAIN[index].name for index in origin.nodes] for origin in origins(executed, CHAIN)]


def test_what_was_fused_goes_with_its_layer_whichever_name_survived() -> None:
    expected = [["one", "norm", "relu"], ["two", "add"]]
    assert names(ran("a", claims=("one",)), ran("b", claims=("two",))) == expected
    assert names(ran("a", makes=("r1",), reads=("x",)), ran("b", makes=("y",), reads=("r1",))) == expected
    assert names(ran("a", claims=("r1",)), ran("b", claims=("y",))) == expected


def test_what_lies_between_known_tensors_is_one_operator() -> None:
    """A norm spelled out: only its last node keeps its name."""
    spelled = [
        node("Gemm", ["x", "w"], ["a"], name="first"),
        node("ReduceMean", ["a"], ["mean"], name="mean"),
        node("Sub", ["a", "mean"], ["centred"], name="sub"),
        node("Mul", ["centred", "centred"], ["square"], name="square"),
        node("ReduceMean", ["square"], ["variance"], name="variance"),
        node("Sqrt", ["variance"], ["root"], name="root"),
        node("Div", ["centred", "root"], ["y"], name="div"),
    ]
    executed = [
        ran("first", kind="Gemm", reads=("x",), makes=("a",)),
        ran("norm", kind="LayerNormalization", reads=("a",), makes=("y",)),
    ]
    assert [origin.nodes for origin in origins(executed, spelled)] == [(0,), (1, 2, 3, 4, 5, 6)]


def test_conversions_belong_to_whose_tensor_they_convert_and_claim_nothing() -> None:
    executed = [
        ran("q", kind="QuantizeLinear", role=QUANTIZE, reads=("x",), makes=("x_int",)),
        ran("a", claims=("one",), reads=("x_int",), makes=("blocked",)),
        ran("back", kind="ReorderOutput", role=LAYOUT, reads=("blocked",), makes=("r1",)),
        ran("b", claims=("two",), reads=("r1",)),
    ]
    found = origins(executed, CHAIN)
    assert [[CHAIN[index].name for index in origin.nodes] for origin in found] == [
        ["one"], ["one", "norm", "relu"], ["relu"], ["two", "add"],
    ]  # fmt: skip
    assert found[0].counted == found[2].counted == () and found[1].counted == (0, 1, 2)


def test_a_split_layer_counts_once_for_what_multiplies() -> None:
    executed = [
        ran("product", kind="MatMul", us=2.0, claims=("one",)),
        ran("bias", kind="Add", us=9.0, claims=("one",)),
        ran("b", claims=("two",)),
    ]
    counted = [origin.counted for origin in origins(executed, CHAIN)]
    assert sorted(index for part in counted for index in part) == [0, 1, 2, 3, 4] and 0 in counted[0]


def test_constants_are_no_layers_and_branches_are() -> None:
    branch = helper.make_graph([node("Relu", ["x"], ["t"], name="inner")], "then", [], [])
    proto = models.model(
        [
            node("Constant", [], ["c"], value_float=1.0),
            node("Neg", ["c"], ["d"]),
            node("Add", ["x", "d"], ["a"], name="outer"),
            node("If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=branch),
        ],
        {"x": [1]},
        {"y": [1]},
    )
    assert [found.name for found in flattened(proto.graph)] == ["outer", "if", "inner", "inner"]
