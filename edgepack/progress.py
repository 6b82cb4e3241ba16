"""How far a long piece of work is."""

from __future__ import annotations

from collections.abc import Callable

# Called with what is being done, how much of it is done, and of how much (0: unknown).
Progress = Callable[[str, int, int], None]
