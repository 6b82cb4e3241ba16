from __future__ import annotations

from onnx import helper

from edgepack.passes.rewrite import rewrite
from edgepack.reference import Session
from tests import models
from tests.test_fold_batchnorm import built, conv, norm

node = helper.make_node
FEED = {"x": models.random([2, 3, 8, 8])}


def test_rewrites_follow_each_other() -> None:
    gate = node("HardSigmoid", ["a"], ["g"], alpha=1 / 6, beta=0.5)
    swish = node("Mul", ["a", "g"], ["y"])
    given = models.in_edgepack(built(conv(), norm("c", "n"), node("Mul", ["n", "k"], ["a"]), gate, swish))
    result = rewrite(given, Session(given), [FEED])
    assert dict(result.model.operators) == {"Conv": 1, "HardSwish": 1}
    assert result.figures == {"HardSigmoid": 0, "HardSwish": 1, "folded": 1}
    assert "1 HardSwish" in result.note


def test_a_rewrite_that_changes_the_answers_is_dropped() -> None:
    given = models.in_edgepack(built(conv(), norm("c", "y")))
    other = models.in_edgepack(built(conv(), norm("c", "y"), seed=3))
    result = rewrite(given, Session(other), [FEED])
    assert result.model is given
    assert "fold_batchnorm dropped: it changes the answers" in result.note


def test_nothing_to_rewrite() -> None:
    given = models.in_edgepack(models.mlp())
    result = rewrite(given, Session(given), [{"x": models.random([2, 8])}])
    assert result.model is given
    assert result.note == ""
