"""Figures in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepack.metrics.merit import Quality
from edgepack.render import drop_words

QUALITY = Quality(
    source="", count=9, sqnr_db=None, agreement=None, metric="top1", unit="points", higher_is_better=True,
    original=90.0, built=89.5, drop=0.5, drop_low=-0.25, drop_high=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (QUALITY, "-0.50 points (-1.00 to +0.25)"),
        (replace(QUALITY, higher_is_better=False), "+0.50 points (-0.25 to +1.00)"),
        (replace(QUALITY, drop=0.0, drop_low=0.0, drop_high=0.0), "+0.00 points (+0.00 to +0.00)"),
        (replace(QUALITY, drop_low=None, drop_high=None), "-0.50 points"),
    ],
)
def test_the_change_goes_with_the_figure(quality: Quality, words: str) -> None:
    """Down where accuracy is lost, up where an error rate grows."""
    assert drop_words(quality) == words
