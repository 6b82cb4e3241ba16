"""HTML from values: everything is escaped here, and only here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, what it is sorted by where that is not the text, and a CSS class."""

    text: str
    sort: float | str | None = None
    style: str = ""


def number(text: str, value: float | None, style: str = "") -> Cell:
    """A cell that is sorted by its number; without one it is last whichever way."""
    return Cell(text, sort="" if value is None else value, style=f"number {style}".strip())


def element(tag: str, text: str, style: str = "") -> str:
    """`text` is escaped."""
    return f"<{tag}{_class(style)}>{escape(text)}</{tag}>"


def box(tag: str, inner: Iterable[str], style: str = "") -> str:
    """`inner` is HTML."""
    return f"<{tag}{_class(style)}>{''.join(inner)}</{tag}>"


def section(name: str, title: str, inner: Sequence[str]) -> str:
    """A section with a heading that it is named by; nothing where there is nothing in it."""
    if not inner:
        return ""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{"".join(inner)}</section>'


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, sortable: bool = True) -> str:
    """A table whose first column heads its rows; with `sortable`, page.js sorts it by the buttons in its head."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    sortable = sortable and len(cells) > 1
    numeric = [all("number" in row[column].style for row in cells) for column in range(len(headings))]
    head = "".join(
        _heading(text, sortable, number) for text, number in zip(headings, numeric, strict=True)
    )  # fmt: skip
    body = "".join(f"<tr>{''.join(_cell(cell, index == 0) for index, cell in enumerate(row))}</tr>" for row in cells)
    style = "sortable" if sortable else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{_class(style)}><caption>{escape(caption)}</caption>"
        f"{f'<thead><tr>{head}</tr></thead>' if any(headings) else ''}<tbody>{body}</tbody></table></div>"
    )


def figure(svg: str, caption: str, style: str = "") -> str:
    """`svg` is markup as edgepack.page.plots makes it."""
    style = f"plot {style}".strip()
    return f'<figure class="{style}"><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def command(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def _heading(text: str, sortable: bool, number: bool) -> str:
    style = ' class="number"' if number else ""
    if not sortable or not text:
        return f'<th scope="col"{style}>{escape(text)}</th>' if text else "<td></td>"
    return f'<th scope="col"{style} aria-sort="none"><button type="button">{escape(text)}</button></th>'


def _cell(cell: Cell, heads: bool) -> str:
    tag = 'th scope="row"' if heads else "td"
    sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    # Long names of layers break at their slashes.
    text = escape(cell.text).replace("/", "/<wbr>") if heads else escape(cell.text)
    return f"<{tag}{_class(cell.style)}{sort}>{text}</{tag[:2]}>"


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
