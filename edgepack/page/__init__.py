"""`report`: results become one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from edgepack._version import VERSION
from edgepack.errors import OutputExists, needs, writing
from edgepack.page import doubts, latency, layers, machine, made, reproduce, verdict
from edgepack.page.html import section
from edgepack.results import Result, read, understood


def report(results: Sequence[str | Path], output: str | Path, *, title: str | None = None, force: bool = False) -> Path:
    """Write a report of measurements, sweeps, builds, diagnoses and profiles (JSON files) and bundles.

    Args:
        title: the page's; the first bundle's name if not given.
        force: replace a file that is there.

    Raises:
        UnreadableResult, BrokenBundle: one of them cannot be read.
        MissingExtra: the part of edgepack that draws is not installed.
        OutputExists, WriteFailed: the file is there, or cannot be written.
    """
    output = Path(output)
    needs("matplotlib")
    if output.is_dir() or (output.exists() and not force):
        raise OutputExists(f"{output} exists", "choose another place with -o, or add --force to replace it")
    text = page([read(path) for path in results], title)
    partial = output.with_name(f".{output.name}.part")
    with writing(output):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)
    return output


def page(results: Sequence[Result], title: str | None = None) -> str:
    """The whole page.

    Raises:
        UnreadableResult: a result is damaged.
    """
    with understood(", ".join(result.path for result in results)):
        parts = [
            ("verdict", "Verdict", verdict.of(results)),
            ("latency", "Latency", latency.of(results)),
            ("layers", "Layers", layers.of(results)),
            ("made", "What was done to it", made.of(results)),
            ("machine", "The device", machine.of(results)),
            ("doubts", "Doubts", doubts.of(results)),
            ("reproduce", "How to reproduce this", reproduce.of(results)),
        ]
        about = verdict.subject(results)
    parts = [part for part in parts if part[2]]
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_resource("page.html")).substitute(
        title=escape(title or about.title),
        subtitle=escape(about.subtitle),
        version=escape(VERSION),
        style=_resource("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        contents="".join(f'<li><a href="#{name}">{escape(words)}</a></li>' for name, words, _ in parts),
        body="\n".join(section(name, words, inner) for name, words, inner in parts),
    )


def _resource(name: str) -> str:
    return (files("edgepack.page") / name).read_text(encoding="utf-8")
