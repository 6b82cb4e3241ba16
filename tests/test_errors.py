"""docs/errors.md, edgepack/errors.py and the device's harness say the same about exit codes, and every error hints."""

from __future__ import annotations

import ast
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from edgepack import errors
from edgepack._root import TARGETS
from edgepack.bundles import here
from edgepack.errors import EdgepackError

ROOT = Path(__file__).parent.parent
HARNESS = TARGETS / "device" / "harness.py"
DEVICE_CODE = [HARNESS, *sorted((HARNESS.parent / "edgepack_device").glob("*.py"))]
# Exit codes that are no error's: done, and (in the harness) a command line that cannot be read.
_PLAIN = {0, errors.UsageError.exit_code}
# Raised to be caught two calls up: no user reads them.
_INTERNAL = {"edgepack/cost.py ShapeNeeded", "edgepack/passes/simplify.py CleanupError"}


class Row(NamedTuple):
    code: int
    error: str
    when: str
    example: str


def table() -> list[Row]:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[2:3].isdigit()]
    return [Row(int(code), *rest) for code, *rest in rows]


def below(kind: type[EdgepackError]) -> Iterator[type[EdgepackError]]:
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


def kinds() -> list[type[EdgepackError]]:
    return [kind for kind in below(EdgepackError) if kind.__module__ == "edgepack.errors"]


# --- the table --------------------------------------------------------------------------------------------


def test_the_table_lists_every_error_with_its_code_and_no_other() -> None:
    listed = {(row.error.strip("`"), row.code) for row in table() if row.error.startswith("`")}
    assert listed == {(kind.__name__, kind.exit_code) for kind in kinds()}


def test_the_table_lists_internal_errors() -> None:
    assert [row.code for row in table() if not row.error.startswith("`")] == [errors.INTERNAL_ERROR]


def test_the_table_is_in_order_and_has_no_gaps() -> None:
    rows = table()
    assert [row.code for row in rows] == sorted(row.code for row in rows)
    for row in rows:
        assert row.when
        assert re.fullmatch("`.+`", row.example)


def test_the_hints_of_the_docs_name_the_harness_codes() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    named = re.search(r"uses\s+the same codes: ([\d, and]+)", text)
    assert named is not None
    assert {int(code) for code in re.findall(r"\d+", named[1])} == set(harness_codes()) - {0}


# --- the codes --------------------------------------------------------------------------------------------


def test_a_code_belongs_to_one_error() -> None:
    """A subclass without a code of its own shares its parent's on purpose."""
    own = [kind.exit_code for kind in kinds() if "exit_code" in vars(kind)]
    counts = Counter([*own, EdgepackError.exit_code, errors.INTERNAL_ERROR, 0])
    assert [code for code, count in counts.items() if count > 1] == []


def test_codes_are_such_as_a_shell_can_tell_from_signals() -> None:
    for kind in kinds():
        assert 1 < kind.exit_code < 126 or kind is errors.Interrupted
    assert errors.Interrupted.exit_code == 128 + signal.SIGINT


def test_every_error_says_when_it_is_raised() -> None:
    for kind in kinds():
        assert kind.__doc__ and kind.__doc__ != EdgepackError.__doc__


def test_every_error_is_raised_somewhere() -> None:
    sources = [*(ROOT / "edgepack").rglob("*.py"), *TARGETS.rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "errors.py")
    text += (ROOT / "edgepack" / "errors.py").read_text(encoding="utf-8").partition("INTERNAL_ERROR")[2]
    unused = [kind.__name__ for kind in kinds() if not re.search(rf"\b{kind.__name__}\b", text)]
    assert not unused


# --- the harness ------------------------------------------------------------------------------------------


def harness_codes() -> dict[int, str]:
    """The harness's exit codes by its own docstring."""
    text = ast.get_docstring(ast.parse(HARNESS.read_text(encoding="utf-8"))) or ""
    codes = text.partition("Exit codes: ")[2]
    return {int(code): words.strip() for code, words in re.findall(r"(\d+) ([^,.]+)", codes)}


def codes_in_harness() -> set[int]:
    """The codes that it and its modules raise."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in DEVICE_CODE]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and called(node) == "HarnessError"]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}  # type: ignore[misc]


def test_the_harness_documents_the_codes_it_ends_with() -> None:
    assert set(harness_codes()) - {0} >= codes_in_harness()
    assert codes_in_harness() >= set(harness_codes()) - _PLAIN


def test_the_harness_means_the_same_by_a_code() -> None:
    known = {kind.exit_code for kind in kinds()}
    assert set(harness_codes()) - {0} <= known
    assert set(here._ERRORS) == set(harness_codes()) - _PLAIN
    for code, kind in here._ERRORS.items():
        assert kind.exit_code == code


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (errors.UsageError, "usage"),
        (errors.UnreadableSample, "cannot be read"),
        (errors.BrokenBundle, "incomplete or altered"),
        (errors.WrongOutput, "wrongly"),
        (errors.RunFailed, "runtime"),
        (errors.UnfitHost, "machine"),
        (errors.WriteFailed, "no space"),
    ],
)
def test_the_harness_describes_a_code_as_the_error_does(kind: type[EdgepackError], word: str) -> None:
    assert word in " ".join(harness_codes()[kind.exit_code].split())


# --- messages and hints -----------------------------------------------------------------------------------


def called(call: ast.Call) -> str:
    return (
        call.func.id
        if isinstance(call.func, ast.Name)
        else call.func.attr
        if isinstance(call.func, ast.Attribute)
        else ""
    )


def raised_without_hint(path: Path, names: set[str], arguments: int) -> list[str]:
    """Where one of the named errors is raised with fewer arguments than it has with a hint."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and called(node.exc) in names:
            file, name = path.relative_to(ROOT).as_posix(), called(node.exc)
            given = len(node.exc.args) + len(node.exc.keywords)
            if given < arguments and f"{file} {name}" not in _INTERNAL:
                found.append(f"{file}:{node.lineno} {name}")
    return found


def test_every_error_is_raised_with_a_hint() -> None:
    names = {kind.__name__ for kind in kinds()}
    sources = [*(ROOT / "edgepack").rglob("*.py"), *TARGETS.glob("*/__init__.py")]
    assert [place for path in sorted(sources) for place in raised_without_hint(path, names, 2)] == []


def test_every_error_of_the_harness_has_a_hint() -> None:
    assert [place for path in DEVICE_CODE for place in raised_without_hint(path, {"HarnessError"}, 3)] == []


def test_message_and_hint_are_one_line_each() -> None:
    error = EdgepackError("first\n  second\tthird", "do\nthis")
    assert (error.message, error.hint) == ("first second third", "do this")
    assert str(error) == "first second third (do this)"


def test_an_optional_module_that_breaks_inside_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_there.py").write_text("import surely_not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="surely_not_there"):
        errors.needs("half_there")
    with pytest.raises(errors.MissingExtra):
        errors.needs("surely_not_there")
