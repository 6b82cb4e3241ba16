"""What a host says about itself, read from what scripts.FACTS printed."""

from __future__ import annotations

import re
from typing import Any


def read_facts(text: str) -> dict[str, Any]:
    """Each fact by name; None for what the host does not say."""
    sections = {}
    for section in re.split(r"^@@ ", text, flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        sections[title] = body.strip()
    python = dict(re.findall(r"^(\w+) (\S+)$", sections.get("python", ""), re.MULTILINE))
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB$", sections.get("memory", ""), re.MULTILINE))
    model = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", sections.get("cpu", ""), re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", sections.get("cpu", ""), re.MULTILINE)
    cores = len(re.findall(r"^processor\s*:", sections.get("cpu", ""), re.MULTILINE))
    disk = re.search(r"(\d+)\s+\d+%\s+\S*$", sections.get("disk", ""))
    glibc = re.fullmatch(r"glibc (\S+)", sections.get("glibc", ""))
    free = _number(python.get("free"))
    return {
        "machine": sections.get("machine") or python.get("machine"),
        "python": python.get("version"),
        "python_bits": _number(python.get("bits")),
        "glibc": python.get("glibc") or (glibc[1] if glibc else None),
        "memory_kb": _number(memory.get("MemTotal")),
        "memory_available_kb": _number(memory.get("MemAvailable")),
        "disk_free_bytes": int(disk[1]) * 1024 if free is None and disk else free,
        "cpu_flags": flags[1].split() if flags else None,
        "cpu": model[1].strip() if model else None,
        "cores": cores or None,
        "boot_id": sections.get("boot") or None,
    }


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
