"""Search and report: two halves that stay what they are when samples come and go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepack.data.samples import Samples
from edgepack.data.split import split
from edgepack.errors import NoSamples

PROPERTY = settings(max_examples=60, deadline=None, database=None)


def numbered(names: list[int], labels: list[int] | None = None) -> Samples:
    """Samples that are known by a number."""
    return Samples(
        source="set",
        count=len(names),
        read=lambda index: {"x": np.array([[names[index]]])},
        digest=lambda index: f"digest of {names[index]}",
        labels=np.array(labels) if labels is not None else None,
    )


def held(samples: Samples) -> list[int]:
    return [int(samples.read(index)["x"][0, 0]) for index in range(samples.count)]


labels_of = st.lists(st.integers(0, 4), min_size=2, max_size=80)


@PROPERTY
@given(labels_of, st.integers(0, 9))
def test_two_halves_of_all_samples(labels: list[int], seed: int) -> None:
    search, report = split(numbered(list(range(len(labels))), labels), seed)
    assert sorted(held(search) + held(report)) == list(range(len(labels)))
    assert report.count - search.count in (0, 1)


@PROPERTY
@given(labels_of)
def test_each_class_is_halved(labels: list[int]) -> None:
    search, report = split(numbered(list(range(len(labels))), labels))
    assert search.labels is not None and report.labels is not None
    one, other = Counter(search.labels.tolist()), Counter(report.labels.tolist())
    assert all(abs(one[label] - other[label]) <= 1 for label in set(labels))
    assert [labels[number] for number in held(search)] == search.labels.tolist()


@PROPERTY
@given(labels_of, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(labels: list[int], random: object) -> None:
    names = list(range(len(labels)))
    shuffled = names.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    search, _ = split(numbered(names, labels))
    again, _ = split(numbered(shuffled, [labels[name] for name in shuffled]))
    assert set(held(search)) == set(held(again))


@PROPERTY
@given(labels_of, st.integers(0, 4))
def test_a_sample_more_moves_few_others(labels: list[int], label: int) -> None:
    names = list(range(len(labels)))
    before = set(held(split(numbered(names, labels))[0]))
    after = set(held(split(numbered([*names, len(names)], [*labels, label]))[0]))
    assert len((before ^ after) - {len(names)}) <= 3


def test_a_seed_is_a_split() -> None:
    samples = numbered(list(range(100)))
    assert held(split(samples, 1)[0]) == held(split(samples, 1)[0]) != held(split(samples, 2)[0])


def test_classes_of_one_sample_are_on_both_sides() -> None:
    search, report = split(numbered(list(range(100)), list(range(100))))
    assert (search.count, report.count) == (50, 50)


def test_copies_stay_on_one_side() -> None:
    search, report = split(numbered([number // 3 for number in range(90)]))
    assert not set(held(search)) & set(held(report))
    assert report.count >= search.count > 30


def test_most_of_the_samples_report_even_where_one_has_many_copies() -> None:
    for seed in range(8):
        search, report = split(numbered([0] * 10 + [1, 2]), seed)
        assert report.count >= search.count > 0


def test_texts_and_maps_are_no_classes() -> None:
    for labels in (np.array(["a", "b", "c", "d"]), np.zeros((4, 2, 2), int)):
        samples = Samples(source="", count=4, read=lambda index: {}, digest=str, labels=labels)
        assert split(samples)[0].count == 2


@pytest.mark.parametrize("count", [0, 1, 5])
def test_equal_samples_cannot_be_split(count: int, tmp_path: Path) -> None:
    with pytest.raises(NoSamples, match="cannot be split"):
        split(numbered([7] * count))
