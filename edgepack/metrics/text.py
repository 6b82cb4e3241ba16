"""cer, wer: edits between the text read and the text that is there, over the length of the latter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgepack.data.samples import Feed
from edgepack.errors import LabelsError, MetricError
from edgepack.metrics.base import Answer, Metric, Truth, additive, percent, shape_words
from edgepack.metrics.decode import Options

# Where exporters of recognizers leave the characters, one a line.
METADATA = ("character", "dict")


def error_rate(
    name: str, options: Options, charset: Sequence[str] | None, metadata: Mapping[str, str]
) -> Metric[np.ndarray]:
    """Character (`cer`) or word (`wer`) error rate, all edits over all lengths; records are [edits, length].

    Nothing is normalized: case, accents and punctuation count. Words are what white space separates.
    """

    def record(answer: Answer, truth: Truth) -> np.ndarray:
        found = read_text(answer.outputs, options, charset, metadata)
        words = str(truth)
        if name == "wer":
            return np.array([edits(found.split(), words.split()), len(words.split())])
        return np.array([edits(found, words), len(words)])

    return Metric(
        name=name,
        higher_is_better=False,
        truth="text",
        alone=options.text("layout") == "tnc",
        record=record,
        scorer=additive(lambda sums: percent(sums[:, 0], sums[:, 1])),
    )


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and replacements that make `b` of `a`."""
    codes = {symbol: code for code, symbol in enumerate(dict.fromkeys([*a, *b]))}
    one, other = (np.array([codes[symbol] for symbol in text], np.int64) for text in (a, b))
    places = np.arange(len(other) + 1)
    row = places.copy()
    for number, symbol in enumerate(one, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (other != symbol))
        # An insertion continues the same row: its running minimum, once the cost of going right is taken off.
        row = np.minimum.accumulate(np.concatenate([[number], best]) - places) + places
    return int(row[-1])


def read_text(outputs: Feed, options: Options, charset: Sequence[str] | None, metadata: Mapping[str, str]) -> str:
    """Best path of connectionist temporal classification (Graves et al., 2006): argmax, merge repeats, drop blanks.

    The output is [1, steps, classes] (`layout=tnc`: [steps, 1, classes]) of scores, or [1, steps] of classes.
    """
    name, scores = options.pick(outputs, (2, 3))
    if options.text("layout") == "tnc" and scores.ndim == 3:
        scores = scores.transpose(1, 0, 2)
    whole = np.issubdtype(scores.dtype, np.integer)
    if len(scores) != 1 or whole != (scores.ndim == 2):
        raise MetricError(
            f"{name} is {shape_words(scores)}, which is no [1, steps, classes] of scores",
            "--decode ctc,output=NAME takes another output, layout=tnc one of [steps, 1, classes]",
        )
    best = scores[0] if whole else scores[0].argmax(axis=-1)
    symbols = alphabet(charset, metadata, None if whole else scores.shape[-1], options)
    blank = _blank(options, len(symbols))
    if whole and best.size and not 0 <= best.min() <= best.max() < len(symbols):
        raise MetricError(
            f"{name} answers class {best.max()}, and there are {len(symbols)} characters", "give --labels"
        )
    starts = np.concatenate([[True], best[1:] != best[:-1]]) if best.size else np.zeros(0, bool)
    return "".join(symbols[code] for code in best[starts & (best != blank)])


def alphabet(
    charset: Sequence[str] | None, metadata: Mapping[str, str], classes: int | None, options: Options
) -> list[str]:
    """The character of each class, from --labels, else from the model's metadata.

    1. As many characters as classes: the blank is among them.
    2. One fewer: the blank is put in at its place.
    3. Two fewer: a space follows them too, as PaddleOCR's `use_space_char` has it.

    An empty line stands for a space.
    """
    symbols = list(charset) if charset is not None else _from_metadata(metadata)
    missing = 1 if classes is None else classes - len(symbols)
    if missing not in (0, 1, 2):
        raise LabelsError(
            f"{len(symbols)} characters do not fit the model's {classes} classes",
            "the blank may be missing, or the blank and a space at the end; give the others in --labels, one a line",
        )
    symbols = [symbol or " " for symbol in symbols] + [" "] * (missing == 2)
    if missing:
        symbols.insert(_blank(options, len(symbols) + 1), "")
    return symbols


def _from_metadata(metadata: Mapping[str, str]) -> list[str]:
    for key in METADATA:
        if metadata.get(key):
            # Not splitlines: it ends lines at some characters that may be among those listed.
            return [line.removesuffix("\r") for line in metadata[key].removesuffix("\n").split("\n")]
    raise LabelsError(
        "nothing says which character each class is", "add --labels with one character a line, in the model's order"
    )


def _blank(options: Options, classes: int) -> int:
    blank = options.text("blank")
    return classes - 1 if blank == "last" else int(blank)
