"""--metric module:function: what it is given, what it may return, and how it may fail."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgepack.data.samples import Boxes, Samples
from edgepack.errors import EdgepackError, MetricError
from edgepack.metrics import resolve
from edgepack.metrics.judge import evaluate
from edgepack.metrics.merit import Quality

LABELS = np.array([0.5, 1.5, 2.5, 3.5])
Score = Callable[..., Quality]
_numbers = itertools.count()


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Judge by the function `f` of a module with the text given: two models that answer n and n + 1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])

    def run(text: str, labels: np.ndarray | None = LABELS, boxes: tuple[Boxes, ...] | None = None) -> Quality:
        module = f"mine{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(text)
        samples = Samples(
            source="set", count=4, read=lambda index: {"x": np.array([[index]], np.float32)}, digest=str,
            labels=labels, boxes=boxes,
        )  # fmt: skip
        metric = resolve(f"{module}:f")
        return evaluate(lambda feed: {"z": feed["x"]}, lambda feed: {"z": feed["x"] + 1}, samples, metric)

    return run


def test_outputs_by_name_with_the_labels_of_the_same_samples(score: Score) -> None:
    """Errors of 0.5 each for the original, of -0.5 for the built model."""
    quality = score(
        "import numpy as np\n"
        "def f(outputs, labels):\n"
        "    assert isinstance(outputs, list) and isinstance(labels, list)\n"
        "    assert all(o['z'].shape == (1, 1) for o in outputs)\n"
        "    return np.mean([10 * (label - o['z'].item()) for o, label in zip(outputs, labels, strict=True)])\n"
    )
    assert (quality.original, quality.built, quality.drop) == (5, -5, 10)
    assert (quality.drop_low, quality.drop_high) == (10, 10)
    assert quality.metric is not None and quality.metric.endswith(":f") and quality.higher_is_better


def test_lower_may_be_better(score: Score) -> None:
    quality = score(
        "def f(outputs, labels):\n    return sum(o['z'].item() for o in outputs)\nf.lower_is_better = True\n"
    )
    assert quality.drop == 4 and quality.higher_is_better is False
    assert quality.drop_low == quality.drop_high == 4


def test_without_labels(score: Score) -> None:
    assert score("def f(outputs, labels):\n    return 100 * (labels == [None] * 4)\n", labels=None).original == 100


def test_boxes_are_plain_arrays(score: Score) -> None:
    one = Boxes(boxes=np.ones((1, 4)), classes=np.array([2]), ids=np.array([9]), crowd=np.array([False]))
    text = "def f(outputs, labels):\n    return sum(int(label['ids'][0]) for label in labels)\n"
    assert score(text, boxes=(one,) * 4).original == 36


def test_a_resample_that_cannot_be_judged_costs_the_interval_not_the_figure(score: Score) -> None:
    text = "def f(outputs, labels):\n    assert len(set(labels)) == 4\n    return 50\n"
    quality = score(text)
    assert quality.original == 50 and quality.drop_low is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def g(outputs, labels): ...\n", "has no attribute 'f'"),
        ("f = 3\n", "is no function"),
        ("import surely_not_there\n", "No module named 'surely_not_there'"),
        ("def f(:\n", "importing it fails: SyntaxError"),
        ("raise RuntimeError('two\\nlines')\n", "importing it fails: RuntimeError: two"),
        ("raise SystemExit(3)\n", "importing it fails: SystemExit: 3"),
        ("def f(outputs, labels):\n    return outputs[0]['logits']\n", "fails: KeyError: 'logits'"),
        ("def f(outputs):\n    return 1\n", "fails: TypeError"),
        ("def f(outputs, labels):\n    return 'good'\n", "fails: ValueError: could not convert"),
        ("def f(outputs, labels):\n    return None\n", "fails: TypeError"),
        ("def f(outputs, labels):\n    return float('nan')\n", "returned nan"),
    ],
)
def test_what_fails_is_one_line(text: str, message: str, score: Score) -> None:
    with pytest.raises(MetricError) as caught:
        score(text)
    assert message in caught.value.message and "\n" not in caught.value.message and caught.value.hint


@pytest.mark.parametrize("name", ["surely_not_there:f", "surely.not.there:f", ":f", "mine:", "../mine:f"])
def test_what_cannot_be_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(EdgepackError) as caught:
        resolve(name)
    assert name in caught.value.message
    assert sys.path == before
