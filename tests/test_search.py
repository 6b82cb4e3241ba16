"""Search: against forms whose drop and latency are known, so that the answer is known too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.errors import MetricError, UnsupportedOperator
from edgepack.metrics.merit import Quality
from edgepack.promise.search import Choice, Trial, judged, ladder, search
from edgepack.quantization.sensitivity import Injection

LAYERS = [f"layer{i}" for i in range(20)]
SHARES = dict.fromkeys(LAYERS, 1 / 20)


def quality(drop: float, error: float = 0.0) -> Quality:
    return Quality(
        source="", count=1000, sqnr_db=20.0, agreement=99.0, metric="top1", unit="points", higher_is_better=True,
        original=80.0, built=80.0 - drop, drop=drop, drop_low=drop - 1.96 * error, drop_high=drop + 1.96 * error,
    )  # fmt: skip


@dataclass
class Known:
    """Forms of a model in which each layer costs points unless it is float, and float layers cost time."""

    points: dict[str, float]
    slow: float = 2.0
    judgements: list[frozenset[str]] = field(default_factory=list)

    def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
        assert precision == "int8"
        self.judgements.append(keep_float)
        return quality(sum(points for layer, points in self.points.items() if layer not in keep_float))

    def time(self, forms: Sequence[tuple[str, frozenset[str]]]) -> list[float]:
        return [self.slow if p == "fp32" else 1 + (self.slow - 1) * len(kept) / 20 for p, kept in forms]

    def rank(self) -> list[Injection]:
        noisy = sorted(LAYERS, key=lambda layer: -self.points.get(layer, 0.0))
        return [Injection(layer=layer, operator="Conv", both_db=20.0 + 2 * i) for i, layer in enumerate(noisy)]


def run(forms: Known, budget: float = 0.5, *, fallback: bool = True, known: Sequence[Trial] = ()) -> Choice:
    return search(forms, budget, shares=SHARES, fallback=fallback, known=known)


def test_int8_alone_is_taken_where_it_keeps_the_budget() -> None:
    forms = Known(points={"layer3": 0.2})
    choice = run(forms)
    assert choice.chosen.precision == "int8" and choice.chosen.keep_float == ()
    assert len(forms.judgements) == 1


@pytest.mark.parametrize("bad", [1, 2, 3, 5, 7])
def test_as_few_layers_are_raised_as_keep_it(bad: int) -> None:
    forms = Known(points=dict.fromkeys(LAYERS[:bad], 1.0))
    choice = run(forms)
    assert choice.chosen.keep_float == tuple(sorted(LAYERS[:bad]))
    assert len(forms.judgements) <= 8


def test_float_is_the_answer_where_nothing_else_keeps_it() -> None:
    choice = run(Known(points=dict.fromkeys(LAYERS, 3.0)))
    assert choice.chosen.precision == "fp32" and choice.chosen.drop == 0
    assert "no int8 form" in choice.reason


def test_float_is_the_answer_where_int8_is_no_faster() -> None:
    forms = Known(points={}, slow=1.0)
    choice = run(forms)
    assert choice.chosen.precision == "fp32" and "no faster" in choice.reason


def test_where_int8_was_asked_for_the_least_loss_is_what_remains() -> None:
    choice = run(Known(points=dict.fromkeys(LAYERS, 3.0)), fallback=False)
    assert choice.chosen.precision == "int8" and not choice.chosen.keeps
    assert choice.chosen.drop == min(trial.drop for trial in choice.trials)


def test_an_interrupted_search_goes_on_where_it_stopped() -> None:
    first = Known(points=dict.fromkeys(LAYERS[:5], 1.0))
    whole = run(first)
    second = Known(points=first.points)
    again = run(second, known=whole.trials)
    assert again.chosen == whole.chosen and second.judgements == []


def test_when_the_time_is_up_no_new_form_is_tried() -> None:
    forms = Known(points=dict.fromkeys(LAYERS[:5], 1.0))
    choice = search(forms, 0.5, shares=SHARES, fallback=True, seconds=-1.0)
    assert len(forms.judgements) == 1
    assert choice.chosen.precision == "fp32" and not choice.finished and "time ran out" in choice.reason


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(LAYERS), st.floats(-1, 3), max_size=20), st.floats(0, 3))
def test_what_is_chosen_keeps_the_budget_on_the_search_part(points: dict[str, float], budget: float) -> None:
    forms = Known(points=points)
    choice = run(forms, budget)
    assert choice.chosen.keeps
    if choice.chosen.precision == "int8":
        assert forms.judge("int8", frozenset(choice.chosen.keep_float)).drop <= budget + 1e-6  # type: ignore[operator]
    assert len(choice.trials) <= 12


def test_without_a_metric_answers_that_differ_are_what_is_lost() -> None:
    trial = judged("int8", (), Quality(source="", count=10_000, sqnr_db=20.0, agreement=99.6), 0.5)
    assert trial.drop == pytest.approx(0.4) and 0.05 < trial.margin < 0.07 and trial.keeps


def test_where_the_device_is_another_kind_int8_is_believed_or_not() -> None:
    class Elsewhere(Known):
        def time(self, forms: Sequence[tuple[str, frozenset[str]]]) -> None:  # type: ignore[override]
            return None

    forms = Elsewhere(points=dict.fromkeys(LAYERS[:2], 1.0))
    believed = search(forms, 0.5, shares=SHARES, fallback=True, believed=True)
    assert believed.chosen.keep_float == ("layer0", "layer1") and believed.chosen.ms is None
    doubted = search(forms, 0.5, shares=SHARES, fallback=True)
    assert doubted.chosen.precision == "fp32" and "cannot be measured here" in doubted.reason


def test_other_precisions_are_tried_and_taken_where_they_are_faster() -> None:
    class Products(Known):
        def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
            return quality(0.1) if precision == "dynamic" else super().judge(precision, keep_float)

        def time(self, forms: Sequence[tuple[str, frozenset[str]]]) -> list[float]:
            return [0.5 if form[0] == "dynamic" else super(Products, self).time([form])[0] for form in forms]

    forms = Products(points=dict.fromkeys(LAYERS, 3.0))
    choice = search(forms, 0.5, shares=SHARES, fallback=True, others=["dynamic"])
    assert choice.chosen.precision == "dynamic" and choice.chosen.drop == 0.1


def test_a_model_without_an_int8_form_is_float_with_the_reason() -> None:
    class Recurrent(Known):
        def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
            raise UnsupportedOperator("nothing in this model can be computed in int8", "fp32")

    choice = search(Recurrent(points={}), 0.5, shares={}, fallback=True)
    assert choice.chosen.precision == "fp32" and choice.reason == "nothing in this model can be computed in int8"
    with pytest.raises(UnsupportedOperator):
        search(Recurrent(points={}), 0.5, shares={}, fallback=False)


def test_why_int8_was_not_taken_is_not_what_another_precision_is_refused_for() -> None:
    class Slow(Known):
        def judge(self, precision: str, keep_float: frozenset[str]) -> Quality:
            if precision == "dynamic":
                raise UnsupportedOperator("nothing here is computed in dynamic int8", "fp32")
            return super().judge(precision, keep_float)

    choice = search(Slow(points={}, slow=0.5), 0.5, shares=SHARES, fallback=True, others=["dynamic"])
    assert choice.chosen.precision == "fp32" and choice.reason.startswith("int8 is no faster here than float")


def test_a_margin_is_kept_but_never_more_than_half_the_budget() -> None:
    assert judged("int8", (), quality(0.3, error=0.1), 0.5).keeps
    assert not judged("int8", (), quality(0.45, error=0.1), 0.5).keeps
    assert judged("int8", (), quality(0.2, error=5.0), 0.5).keeps
    with pytest.raises(MetricError, match="nothing to hold against"):
        judged("int8", (), Quality(source="", count=1, sqnr_db=None, agreement=None), 0.5)


def test_the_ladder_weighs_noise_against_what_a_float_layer_costs() -> None:
    ranking = [
        Injection(layer="huge", operator="Conv", both_db=10.0),
        Injection(layer="small", operator="Gemm", both_db=12.0),
        Injection(layer="quiet", operator="Conv", both_db=60.0),
    ]
    steps = ladder(ranking, {"huge": 0.6, "small": 0.001, "quiet": 0.2})
    assert steps[0] == {"small"} and steps[1] == {"small", "huge"}
    assert len(steps) == 2  # with the third nearly all arithmetic would be float


def test_the_ladder_never_raises_everything() -> None:
    """Not even where most of the arithmetic has no weights, or its cost is unknown."""
    ranking = [Injection(layer=layer, operator="MatMul", both_db=10.0) for layer in LAYERS]
    assert max(len(step) for step in ladder(ranking, {})) == len(LAYERS) - 1
    assert ladder(ranking[:1], {}) == []
