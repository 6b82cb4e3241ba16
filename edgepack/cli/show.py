"""What a command prints: its result on stdout, as a table or JSON, and its progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from edgepack.errors import Interrupted

if TYPE_CHECKING:
    from edgepack.progress import Progress


def render() -> Any:
    from edgepack import render

    return render


def show(data: object, as_json: bool, rendered: Callable[[], Any]) -> None:
    if as_json:
        import json

        typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        return
    from rich.console import Console

    Console(highlight=False).print(rendered())


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr, gone when the work is done; nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    count = TextColumn("{task.fields[count]}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), count, TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for old in tasks.values():
                    bar.remove_task(old)
                tasks.clear()
                tasks[what] = bar.add_task(what, total=total or None, count="")
            # Steps count samples, uploads bytes; a step of unknown length counts nothing.
            words = f"{done:,}/{total:,}" if total else ""
            bar.update(tasks[what], completed=done, total=total or None, count=words)

        try:
            yield report
        except KeyboardInterrupt:
            raise Interrupted("interrupted", "nothing was written") from None
