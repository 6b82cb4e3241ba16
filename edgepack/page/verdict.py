"""The first section: is it faster, as good, smaller, and may one believe it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from edgepack.measuring.measurement import setting
from edgepack.page.facts import Measured, about, measurements, part_name, place, promise, single, sizes, sweeps
from edgepack.page.html import box, element
from edgepack.render import decibels, ms, size
from edgepack.results import Result
from edgepack.results.figures import quality

_SHADES = {"faster": "good", "slower": "bad", "same": "", "unclear": "wary"}


class Subject(NamedTuple):
    title: str
    subtitle: str


def subject(results: Sequence[Result]) -> Subject:
    """What the page is about."""
    known = [found for result in results if (found := about(result)) is not None]
    if not known:
        return Subject("Layers", ", ".join(str(result.data.get("path", result.path)) for result in results))
    names = list(dict.fromkeys(f"{one['name']} {one['version']}" for one in known))
    how = dict.fromkeys(f"{one['target']}, {one['precision']}, for {one['device']}" for one in known)
    where = list(dict.fromkeys(place(one) for _, one in measurements(results)))
    dates = sorted({one["created"][:10] for _, one in measurements(results) if "created" in one})
    words = [
        "; ".join(how),
        f"measured on {', '.join(where)}" if where else "",
        " to ".join(dates[:1] + dates[1:][-1:]),
    ]
    return Subject(", ".join(names), " · ".join(word for word in words if word))


def of(results: Sequence[Result]) -> list[str]:
    alerts = [
        f"Not valid: {doubt['words']}. {doubt['advice']}"
        for _, one in measurements(results)
        for doubt in one["doubts"]
        if doubt["severity"] == "invalid"
    ]
    cards = [_latency(one) for _, one in single(results)]
    cards += [card for _, measured in sweeps(results) for card in _best(measured)]
    cards += _once(_promise(found) for result in results if (found := promise(result)) is not None)
    cards += _once(_quality(found) for result in results if (found := quality(result)) is not None)
    cards += _once(_size(*counts) for result in results if (counts := sizes(result)) is not None)
    cards += [card for _, one in single(results) for card in _memory(one)]
    notes = sum(doubt["severity"] == "note" for _, one in measurements(results) for doubt in one["doubts"])
    if notes:
        cards.append(_card("Doubts", str(notes), "see below, before you rely on a small difference", "wary"))
    return [
        *(element("p", words, "alert") for words in dict.fromkeys(alerts)),
        *([box("div", cards, "cards")] if cards else []),
    ]


def _once(cards: Any) -> list[str]:
    return list(dict.fromkeys(cards))


def _card(what: str, figure: str, words: str, shade: str = "") -> str:
    return (
        f'<div class="card {shade}"><p class="what">{escape(what)}</p><p class="figure">{escape(figure)}</p>'
        f'<p class="quiet">{escape(words)}</p></div>'
    )


def _latency(one: Measured) -> str:
    ratio, model = one.get("ratio"), one["models"]["model"]
    limits = f"{ms(model['median_low_ms'])} to {ms(model['median_high_ms'])}"
    what = f"Latency, {setting(one)}, {place(one)}"
    if ratio is None:
        return _card(what, ms(model["median_ms"]), f"median; 95 %: {limits}")
    other = part_name(one, ratio["to"])
    figure = {
        "faster": f"{ratio['median']:.2f} times as fast",
        "slower": f"{ratio['median']:.2f} times as fast: slower",
        "same": f"as fast, within {100 * ratio['equivalence']:g} %",
        "unclear": f"unclear: {ratio['median']:.2f} times as fast",
    }[ratio["verdict"]]
    words = (
        f"as the {other.removeprefix('the ')}, 95 %: {ratio['low']:.2f} to {ratio['high']:.2f}; "
        f"median {ms(one['models'][ratio['to']]['median_ms'])} → {ms(model['median_ms'])}"
    )
    return _card(what, figure, words, "bad" if not one["valid"] else _SHADES[ratio["verdict"]])


def _best(measured: Sequence[Measured]) -> list[str]:
    """Of a sweep, where it is quickest and where it gets most done."""
    quick = min(measured, key=lambda one: one["models"]["model"]["median_ms"])
    most = max(measured, key=lambda one: one["models"]["model"]["throughput_per_s"])
    first, last = quick["models"]["model"], most["models"]["model"]
    return [
        _card("Lowest median of the sweep", ms(first["median_ms"]), f"{setting(quick)}, {place(quick)}"),
        _card("Most samples a second", f"{last['throughput_per_s']:,.4g}/s", f"{setting(most)}, {place(most)}"),
    ]


def _quality(judged: Mapping[str, Any]) -> str:
    count = f"on {judged['count']:,} samples"
    if judged["metric"] is not None:
        sign = -1 if judged["higher_is_better"] else 1
        limits = sorted(sign * judged[key] + 0.0 for key in ("drop_low", "drop_high") if judged[key] is not None)
        words = f"{sign * judged['drop'] + 0.0:+.2f} {judged['unit']}"
        words += f" (95 %: {limits[0]:+.2f} to {limits[1]:+.2f})" if len(limits) == 2 else ""
        shade = "bad" if judged["drop_low"] is not None and judged["drop_low"] > 0 else "good"
        return _card(
            f"{judged['metric']}, {count}", f"{judged['built']:.2f} %", f"{words}; original {judged['original']:.2f} %",
            shade,
        )  # fmt: skip
    if judged["agreement"] is not None:
        return _card(f"Answers, {count}", f"{judged['agreement']:.2f} %", "the same as the original's; no labels")
    if judged["sqnr_db"] is not None:
        return _card(f"Answers, {count}", decibels(judged["sqnr_db"]), "from the original's; no labels")
    return _card("Answers", "not judged", "no samples")


def _promise(promised: Mapping[str, Any]) -> str:
    limits = (
        "" if promised["drop_low"] is None else f" (95 %: {promised['drop_low']:.2f} to {promised['drop_high']:.2f})"
    )
    words = f"{promised['drop']:.2f} points of {promised['metric']} lost{limits}, {promised['max_drop']:g} allowed"
    return _card("Promise", "kept" if promised["kept"] else "missed", words, "good" if promised["kept"] else "bad")


def _size(original: int, model: int, archive: int | None) -> str:
    words = f"{100 * model / original:.1f} % of the original's {size(original)}"
    words += f"; archive {size(archive)}" if archive is not None else ""
    return _card("Model size", size(model), words, "good" if model < original else "")


def _memory(one: Measured) -> list[str]:
    after = one["models"]["model"]["peak_memory_mb"]
    if after is None:
        return []
    other = next((part for part in ("baseline", "against") if part in one["models"]), None)
    before = one["models"][other]["peak_memory_mb"] if other is not None else None
    words = f"of a process, the runtime included; {part_name(one, str(other))} {before:.0f} MB" if before else ""
    return [_card("Peak memory", f"{after:.0f} MB", words or "of a process, the runtime included")]
