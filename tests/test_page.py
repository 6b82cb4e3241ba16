"""The report's HTML: what is in it, and that nothing gets into it or out of it unasked."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import edgepack
from edgepack.errors import MissingExtra, NotAModel, OutputExists, UnreadableResult, WriteFailed
from edgepack.page import page
from edgepack.results import read
from tests.measured import built, diagnosis, doubt, measurement, promise, saved, surroundings, times
from tests.test_config import run_here

pytest.importorskip("matplotlib", reason="the report extra is not installed")

HOSTILE = "<script>alert(1)</script>$title&\"'"
_EMPTY = {"meta", "link", "br", "img", "wbr", "hr", "input"}


class Structure(HTMLParser):
    """Tags that are open, ids, and the text of each kind of element."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def structure(text: str) -> Structure:
    found = Structure()
    found.feed(text)
    assert found.open == []
    return found


def profile(**times_us: float) -> dict[str, Any]:
    """A layer an operator, as `bench --profile` writes it, and two conversions."""
    total = sum(times_us.values()) + 20.0
    operators = [
        {
            "name": f"op{index}", "kind": "QLinearConv", "role": "compute", "us": us, "share": us / total,
            "layers": [
                {"name": name, "output": f"{name}_output_0", "operator": "Conv"},
                {"name": "relu", "output": "relu_output_0", "operator": "Relu"},
            ],
            "precision": "uint8", "macs": 1_000_000, "bytes": 100, "gops": None, "of_peak": None,
        }
        for index, (name, us) in enumerate(times_us.items())
    ]  # fmt: skip
    conversion = {"name": "q", "kind": "QuantizeLinear", "role": "quantize", "us": 10.0, "share": 10 / total}
    operators += 2 * [{**conversion, "layers": [], "precision": "fp32", "macs": 0, "bytes": 1, "gops": None}]
    about = {"name": "net", "version": "1", "target": "onnxruntime", "precision": "int8", "device": "rpi5"}
    return {
        "kind": "profile", "format": 1, "bundle": about, "threads": 1, "host": "local", "operators": operators,
        "operators_us": total, "end_to_end_us": total + 5, "coverage": 0.98, "notes": ["estimated"],
        "environment": surroundings(), "created": "2026-05-01T12:00:00Z",
    }  # fmt: skip


def of(folder: Path, *results: dict[str, Any]) -> str:
    return page([read(saved(folder, f"r{index}.json", data)) for index, data in enumerate(results)])


def everything(folder: Path, name: str = "net") -> str:
    about = {"name": name, "version": "1", "target": "onnxruntime", "precision": "int8", "device": "rpi5"}
    sweep = [measurement(times(2.0), times(3.0), threads=n, batch=b) for n in (1, 2) for b in (1, 4)]
    return of(
        folder,
        measurement(times(1.0), times(2.0), to="baseline", about=about, doubts=[doubt(words=f"others: {name}")]),
        {"kind": "sweep", "format": 2, "measurements": sweep},
        built(promise=promise(), name=name, notes=[f"note {name}"]),
        diagnosis((name, "conv1", "dense")),
        profile(**{name: 50.0, "conv1": 25.0, "softmax": 25.0}),
    )


def test_the_page_is_whole_and_its_ids_are_its_own(tmp_path: Path) -> None:
    found = structure(everything(tmp_path))
    assert len(found.ids) == len(set(found.ids))
    sections = [name for name in found.ids if f"{name}-title" in found.ids]
    assert sections == ["verdict", "latency", "layers", "made", "machine", "doubts", "reproduce"]
    used = {value[1:] for _, name, value in found.attributes if name == "href" and value.startswith("#")}
    used |= set(re.findall(r"url\(#([^)]+)\)", " ".join(value for _, _, value in found.attributes)))
    assert used <= set(found.ids)


def test_the_verdict_comes_first_and_says_by_how_much(tmp_path: Path) -> None:
    text = " ".join(structure(everything(tmp_path)).text)
    verdict = text[text.rindex("Verdict") : text.index("All runs (strong)")]
    assert "2.00 times as fast" in verdict or "1.99 times as fast" in verdict or "2.01 times as fast" in verdict
    for words in ("as the float original, 95 %:", "kept", "85.00 %", "3 MB", "25.0 % of the original", "Doubts"):
        assert words in verdict


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    text = everything(tmp_path, HOSTILE)
    found = structure(text)
    assert found.tags.count("script") == 1
    assert "alert(1)</script>" not in text
    # The layer, the note, the doubt, the bundle and the command that measured it.
    for words in (HOSTILE, f"note {HOSTILE}", f"others: {HOSTILE}", f"{HOSTILE} 1: onnxruntime, int8"):
        assert any(words in one for one in "".join(found.text).split("\n") + found.text), words


def test_nothing_is_fetched_and_nothing_may_be(tmp_path: Path) -> None:
    text = everything(tmp_path)
    found = structure(text)
    sources = [value for _, name, value in found.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert {value for value in sources if not value.startswith("#")} == {"data:,"}
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/2000/svg)", text)
    policy = next(value for tag, name, value in found.attributes if tag == "meta" and "default-src" in value)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_tables_and_plots_can_be_read_without_seeing_them(tmp_path: Path) -> None:
    found = structure(everything(tmp_path))
    assert found.tags.count("caption") == found.tags.count("table") > 5
    assert {value for tag, name, value in found.attributes if tag == "th" and name == "scope"} == {"col", "row"}
    assert found.tags.count("th") == sum(tag == "th" and name == "scope" for tag, name, _ in found.attributes)
    labels = [value for tag, name, value in found.attributes if tag == "svg" and name == "aria-label"]
    assert len(labels) == found.tags.count("svg") and all(labels)


def test_plots_take_their_colours_from_the_page(tmp_path: Path) -> None:
    drawn = re.findall(r"<svg.*?</svg>", everything(tmp_path), re.DOTALL)
    assert len(drawn) >= 6
    for svg in drawn:
        assert (set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#ffffff"} and "var(--ink)" in svg) or "var(--quiet)" in svg
        assert "<style" not in svg and "<metadata" not in svg


def test_time_stands_beside_error(tmp_path: Path) -> None:
    """The first layer goes by its output's name in a diagnosis, by its node's in a profile."""
    text = of(tmp_path, diagnosis(("conv0_output_0", "conv1", "dense")), profile(conv0=60.0, softmax=20.0))
    found = structure(text)
    text = text.replace("<wbr>", "")
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', text[text.index(">Layers;") :])
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", rest) for name, rest in rows}
    timed, judged = ["60.0 µs", "60.0 %", "uint8", "33.3"], ["30.0 dB", "40.0 dB", "33.0 dB", "60.0 %", "10.0 %"]
    assert cells["conv0_output_0"] == ["QLinearConv", *timed, *judged]
    assert cells["softmax"] == ["QLinearConv", "20.0 µs", "20.0 %", "uint8", "100.0", "", "", "", "", ""]
    assert cells["dense"] == ["Conv", "", "", "", "", "40.0 dB", "40.0 dB", "33.0 dB", "10.0 %", "40.0 %"]
    assert cells["(Q/DQ)"][:3] == ["QuantizeLinear", "20.0 µs", "20.0 %"]
    assert "By layer: time, µs beside share of the int8 error, %" in [value for _, _, value in found.attributes]


def test_a_layer_is_joined_by_its_output_where_names_differ(tmp_path: Path) -> None:
    times = profile(n1=60.0)
    times["operators"][0]["layers"][0].update(name="some/Gemm", output="scores")
    text = of(tmp_path, diagnosis(("scores", "conv1", "dense")), times).replace("<wbr>", "")
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', text[text.index(">Layers;") :])
    assert "60.0 µs" in dict(rows)["scores"] and "30.0 dB" in dict(rows)["scores"]


STEP = {"bytes_before": 12_000_000, "bytes_after": 3_000_000, "nodes_before": 94, "nodes_after": 1_200}


def test_passes_stand_with_what_they_did_to_size(tmp_path: Path) -> None:
    """As `build --json` says it; a bundle's manifest holds the same."""
    forms = [
        {"form": "ranges by minmax, at once", "sqnr_db": 21.5, "chosen": False},
        {"form": "ranges by mse, at once", "sqnr_db": 24.5, "chosen": True},
    ]
    steps = [{"name": "simplify", "note": "clean-up", **STEP}, {"name": "quantize", "note": "12 in int8", **STEP}]
    text = of(tmp_path, built(steps=steps, forms=forms, notes=["clean-up", "7-bit"])).replace("<wbr>", "")
    table = text[text.index(">Passes, in the order") : text.index(">Forms of int8")]
    for words in ("quantize", "12 MB", "3 MB", "94 → 1,200", "12 in int8"):
        assert words in table, words
    assert table.index("simplify") < table.index("quantize")
    compared = text[text.index(">Forms of int8") : text.index(">Beside the passes")]
    assert compared.index("21.5 dB") < compared.index("24.5 dB") < compared.rindex("yes")
    after = text[text.index(">Beside the passes") :]
    assert "7-bit" in after and "<li>clean-up</li>" not in after


def test_what_is_not_valid_stands_above_all(tmp_path: Path) -> None:
    bad = measurement(times(1.0), doubts=[doubt("throttled", "invalid", "the clock was held down")])
    text = of(tmp_path, bad)
    assert text.index("Not valid: the clock was held down") < text.index('class="cards"')


@pytest.mark.parametrize("kind", ["measurement", "sweep", "build", "diagnosis", "profile"])
def test_each_kind_makes_a_page_by_itself(kind: str, tmp_path: Path) -> None:
    single = measurement(times(1.0))
    results = {
        "measurement": single, "sweep": {"kind": "sweep", "format": 2, "measurements": [single, single]},
        "build": built({**built()["quality"], "metric": None, "agreement": None, "sqnr_db": None}),
        "diagnosis": diagnosis(), "profile": profile(conv0=50.0),
    }  # fmt: skip
    structure(of(tmp_path, results[kind]))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    assert everything(tmp_path) == everything(tmp_path)


def test_commands_to_reproduce_it(tmp_path: Path) -> None:
    text = " ".join(structure(everything(tmp_path)).text)
    assert "edgepack bench net --against net --threads 1,2 --batch 1,4 --seconds 5 --min-runs 50 --processes 10" in text
    assert (
        "edgepack build MODEL -o out --name net --version 1 --device rpi5 --target onnxruntime --max-drop 0.5" in text
    )
    assert "edgepack inspect model.onnx --layers --target onnxruntime --data" in text


# --- files ------------------------------------------------------------------------------------------------


def test_a_file_that_is_there_stays_unless_forced(tmp_path: Path) -> None:
    result, output = saved(tmp_path, "r.json", measurement(times(1.0))), tmp_path / "report.html"
    output.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExists):
        edgepack.report([result], output)
    assert output.read_text(encoding="utf-8") == "mine"
    assert edgepack.report([result], output, title="A <b>", force=True) == output
    assert "<h1>A &lt;b&gt;</h1>" in output.read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "report.html"]


def test_a_report_beside_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed):
        edgepack.report([saved(tmp_path, "r.json", measurement(times(1.0)))], tmp_path / "no" / "report.html")


def test_damaged_results_write_nothing(tmp_path: Path) -> None:
    damaged = built()
    del damaged["sizes"]["model"]
    with pytest.raises(UnreadableResult, match=r"r\.json is damaged: 'model' is missing"):
        edgepack.report([saved(tmp_path, "r.json", damaged)], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_without_the_extra_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match="matplotlib") as caught:
        edgepack.report([saved(tmp_path, "r.json", measurement(times(1.0)))], tmp_path / "report.html")
    assert "edgepack[report]" in caught.value.hint
    assert not issubclass(MissingExtra, NotAModel)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = saved(tmp_path, "r.json", measurement(times(1.0)))
    assert run_here(monkeypatch, capsys, "report", result) == (0, "report: report.html\n", "")
    assert run_here(monkeypatch, capsys, "report", result)[0] == OutputExists.exit_code
    assert (
        run_here(monkeypatch, capsys, "report", result, "--force", "--json")[1] == '{\n  "report": "report.html"\n}\n'
    )
