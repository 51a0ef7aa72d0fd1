"""The audit's plan and arithmetic on made-up measurements; its files; comparing two of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from audit_makers import LENGTHS, LIMITS, measurements, step

from pyml_core import PymlError
from pyml_nlp.audit import analyse as analysis
from pyml_nlp.audit import compare, curves, report
from pyml_nlp.audit.analyse import analyse
from pyml_nlp.audit.html import html
from pyml_nlp.audit.markdown import markdown
from pyml_nlp.audit.measurements import FORMAT, LINEAR, SQUARE, VERSION, OperationSum, parse
from pyml_nlp.audit.plan import LENGTHS as ALL_LENGTHS
from pyml_nlp.audit.plan import make_plan, parse_numbers
from pyml_nlp.audit.sections import Shown, Table
from pyml_nn.files import NewFile

# ---- the plan


def test_the_default_plan_fits_the_context() -> None:
    plan = make_plan(32768, 18)
    assert plan.prompt_lengths == ALL_LENGTHS
    assert (plan.reference, plan.repetitions, plan.layers) == (128, 5, ())
    assert make_plan(1024, 12).prompt_lengths == (16, 32, 64, 128, 256, 512)
    assert make_plan(8, 1).prompt_lengths == (6,)
    with pytest.raises(PymlError, match="context: expected at least 4 positions to audit, found 3"):
        make_plan(3, 1)
    for context in (4, 5, 8, 17, 64, 130):
        plan = make_plan(context, 1)
        assert max(plan.prompt_lengths) + plan.decode_steps + 1 <= context
        assert plan.reference + plan.jitter_steps < context


def test_an_explicit_plan() -> None:
    plan = make_plan(256, 4, [64, 16, 64], repetitions=7, layers=(3, 0))
    assert (plan.prompt_lengths, plan.reference, plan.layers) == ((16, 64), 64, (3, 0))
    assert (plan.repetitions_of(16), plan.repetitions_of(4096)) == (7, 3)
    with pytest.raises(PymlError, match=r"prompt length: expected 1 to 243 .*got 250"):
        make_plan(256, 4, [250])
    with pytest.raises(PymlError, match="layer: expected 0 to 3, which the model has, got 4"):
        make_plan(256, 4, layers=[4])


def test_the_estimate_counts_every_stage() -> None:
    plan = make_plan(32768, 18)
    stages = plan.stages(limits=1.0, cold=2.0, load=0.5, token=0.001, step=0.01)
    seconds = {stage.text: stage.seconds for stage in stages}
    assert len(seconds) == len(stages) == plan.cold_runs - 1 + 2 + len(plan.prompt_lengths) + 2
    assert seconds["cold prefill and decode, run 3 of 3"] == 2.0
    assert seconds["loading"] == 0.5
    assert seconds["the machine's limits again"] == 1.0
    assert seconds["prompt of 4096 tokens, and decode steps after it"] > plan.repetitions_of(4096) * 4.096
    quick = make_plan(32768, 18, quick=True).stages(1.0, 2.0, 0.5, 0.001, 0.01)
    assert sum(stage.seconds for stage in quick) < sum(seconds.values()) / 4


def test_lists_of_numbers() -> None:
    assert parse_numbers("16,4-6, 5") == (4, 5, 6, 16)
    for text in ("", "a", "3-1", "-1", "1,,2", "1-9999999"):
        with pytest.raises(ValueError, match=r".*"):
            parse_numbers(text)


# ---- analysis


def test_a_power_law_is_found_again() -> None:
    fit = curves.fit({n: 3.0 * n**1.5 for n in LENGTHS})
    assert fit is not None
    assert fit.exponent == pytest.approx(1.5)
    assert fit.factor == pytest.approx(3.0)
    assert fit.r2 == pytest.approx(1.0)
    assert fit.at(100) == pytest.approx(3000.0)
    assert curves.fit({16: 1.0}) is None
    flat = curves.fit({16: 2.0, 32: 2.0})
    assert flat is not None
    assert flat.exponent == pytest.approx(0.0, abs=1e-9)


def test_exponents_of_an_audit() -> None:
    fits = analyse(measurements()).fits
    assert fits["prefill"][LINEAR].exponent == pytest.approx(1.0)
    assert fits["prefill"][SQUARE].exponent == pytest.approx(2.0)
    assert fits["decode"]["QK^T"].exponent == pytest.approx(1.0)
    assert fits["decode"][LINEAR].exponent == pytest.approx(0.0, abs=1e-9)


def test_the_crossing_is_between_measured_lengths() -> None:
    crossing = analyse(measurements()).crossing
    assert crossing is not None
    assert crossing.tokens == pytest.approx(1000.0)
    assert crossing.measured


def test_the_crossing_by_continuing() -> None:
    low, high = {n: 100.0 * n for n in LENGTHS}, {n: 0.05 * n**2 for n in LENGTHS}
    crossing = curves.crossing(low, high)
    assert crossing is not None
    assert crossing.tokens == pytest.approx(2000.0, rel=0.01)
    assert not crossing.measured


def test_curves_are_continued_by_the_pairs_that_windows_leave() -> None:
    """One layer of two has a window: the quadratic parts grow as its pairs do, not as a power of the length."""
    windows = [128, 0]

    def quadratic(n: float) -> float:
        return 0.3 * n + 0.002 * sum(curves.pairs(0, n, window) for window in windows)

    low, high = {n: 40.0 + 3.0 * n for n in LENGTHS}, {n: quadratic(n) for n in LENGTHS}
    crossing = curves.crossing(low, high, windows)
    assert crossing is not None
    assert not crossing.measured
    assert quadratic(crossing.tokens) == pytest.approx(40.0 + 3.0 * crossing.tokens, rel=0.01)
    assert curves.crossing(low, {n: 2.0 * n for n in LENGTHS}, [128]) is None


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        ({n: 2.0 * n for n in LENGTHS}, (16.0, True)),  # above from the beginning
        ({n: 0.5 * n for n in LENGTHS}, None),  # never: they grow alike
        ({n: 1e-9 * n**2 for n in LENGTHS}, None),  # so far that the curves say nothing
        ({16: 20.0, **{n: 0.5 * n for n in LENGTHS[1:]}}, None),  # above at first only
        ({}, None),
    ],
)
def test_other_crossings(high: dict[int, float], expected: tuple[float, bool] | None) -> None:
    crossing = curves.crossing({n: 1.0 * n for n in LENGTHS}, high)
    assert (crossing and (crossing.tokens, crossing.measured)) == expected


def test_scaling_knows_windows() -> None:
    """A decode step behind N tokens sees N + 1 keys, or its window."""
    m = measurements()
    work = {row.part: row.expected for row in analysis.scaling(m.point("prefill", 128), m.point("decode", 128), [0])}
    assert work["QKV"] == 128.0
    assert work["softmax"] == pytest.approx(128 * 129 / 2 / 129)
    assert [curves.pairs(0, 5, 0), curves.pairs(0, 5, 2), curves.pairs(4, 1, 2)] == [15, 9, 2]
    assert analysis.kv_read([0, 4], 100, 9) == (10 + 4) * 50


def test_the_roof() -> None:
    wide = analysis.position(OperationSum("a", 1, 1.0, 10_000_000, 20_000_000, True), LIMITS)
    assert wide.bound == "memory"
    assert wide.roof_gop_s == 40.0
    assert wide.share == pytest.approx(0.5)
    assert wide.lost_ms == pytest.approx(0.5)
    deep = analysis.position(OperationSum("a", 1, 1.0, 1000, 100_000_000, False), LIMITS)
    assert deep.bound == "arithmetic"
    assert deep.roof_gop_s == 200.0
    assert deep.share == pytest.approx(0.5)
    copy = analysis.position(OperationSum("a", 1, 1.0, 20_000_000, 0, False), LIMITS)
    assert copy.bound == "memory"
    assert copy.share == pytest.approx(1.0)
    assert analysis.position(OperationSum("a", 1, 0.0, 0, 0, False), LIMITS).share == 0


def test_causes_of_slow_steps() -> None:
    steps = [step(1.0, mhz=3000.0)] * 20 + [
        step(2.0, new_page=True, faults=500), step(3.0, faults=500), step(4.0, switches=3),
        step(5.0, mhz=2000.0), step(5.0, mhz=3000.0, loop=60.0), step(6.0, mhz=3000.0), step(1.05, mhz=3000.0),
    ]  # fmt: skip
    jitter = analysis.jitter(steps)
    assert (jitter.median, jitter.longest, jitter.slow) == (1.0, 6.0, 6)
    assert jitter.causes == {
        analysis.NEW_PAGE: 1.0, analysis.FIRST_TOUCH: 2.0, analysis.SCHEDULER: 3.0, analysis.CLOCK: 8.0,
        analysis.UNKNOWN: 5.0,
    }  # fmt: skip
    assert jitter.p95 <= jitter.p99 <= jitter.longest


# ---- files


def test_the_report_can_be_read_back(tmp_path: Path) -> None:
    m = measurements()
    report.write(tmp_path, m, analyse(m))
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}
    again = compare.read(tmp_path / "report.json")
    assert asdict(again)["model"] == asdict(m.model)
    assert again.sweep[3].wall_ms == pytest.approx(m.sweep[3].wall_ms, rel=1e-5)
    assert set(json.loads((tmp_path / "report.json").read_text())) == {"format", "version", "measurements", "analysis"}


def test_an_infinite_number_is_never_written() -> None:
    m = measurements()
    dead = replace(m, sweep=[replace(p, parts_ms={name: [0.0] * 5 for name in p.parts_ms}) for p in m.sweep])
    text = report.to_json(dead, analyse(dead))
    assert "Infinity" not in text
    assert "NaN" not in text
    markdown(dead, analyse(dead))
    html(dead, analyse(dead))


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three files the last one has no room: none of them is put in place."""
    m = measurements()
    (tmp_path / "report.md").write_text("before")
    synced = []

    def sync(file: NewFile) -> None:
        synced.append(file)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(NewFile, "sync", sync)
    with pytest.raises(PymlError, match="the report cannot be written: No space left on device"):
        report.write(tmp_path, m, analyse(m))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.md", "before")]


def test_an_interrupted_audit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that it made are removed; earlier ones stay."""

    def interrupted(source: object, dtype: str, threads: int | None, plan: Any, tell: object) -> None:
        plan(1024, 2)
        assert (tmp_path / "new" / "report").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "measure", interrupted)
    monkeypatch.setattr(report, "model_info", lambda model: None)
    with pytest.raises(KeyboardInterrupt):
        report.audit(None, "auto", 1, None, None, (), True, tmp_path / "new" / "report", lambda *_: None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with pytest.raises(AssertionError):
        report.audit(None, "auto", 1, None, None, (), True, tmp_path / "old", lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_numbers_in_tables() -> None:
    table = Table(["a", "b", "c"], [[1955.54, "x", Shown(1e6, "1.0 MB")], [-0.0001, "", ""], [12.345, "", ""]])
    assert [table.text(row[0]) for row in table.rows] == ["1956", "0.000", "12.35"]
    assert [table.is_numeric(column) for column in range(3)] == [True, False, True]
    assert table.text(table.rows[0][2]) == "1.0 MB"


def document() -> dict[str, Any]:
    m = measurements()
    return dict(json.loads(report.to_json(m, analyse(m))))


def test_the_schema() -> None:
    value = document()
    assert (value["format"], value["version"]) == (FORMAT, VERSION)
    assert parse(value).reference == 128
    changes: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda v: v.update(format="other"), "expected a report that pyml audit wrote"),
        (lambda v: v.update(version=9), "expected version 2 of the report, found 9"),
        (lambda v: v["measurements"].pop("threads"), r"measurements\.threads: expected a value, found none"),
        (lambda v: v["measurements"].update(threads="2"), r"measurements\.threads: expected int, found '2'"),
        (lambda v: v["measurements"]["sweep"][1].update(wall_ms=3), r"sweep\[1\]\.wall_ms: expected a list, found 3"),
        (lambda v: v["measurements"]["model"].update(types=[]), r"model\.types: expected an object, found \[\]"),
        (lambda v: v.update(measurements=None), "measurements: expected an object, found None"),
    ]
    for change, message in changes:
        broken = document()
        change(broken)
        with pytest.raises(PymlError, match=message):
            parse(broken)


def test_a_report_without_other_options_can_be_read() -> None:
    """Reports of earlier versions have none."""
    value = document()
    assert [choice.option for choice in parse(value).choices] == ["--threads 1"]
    del value["measurements"]["choices"]
    m = parse(value)
    assert m.choices == []
    assert "No other options were measured." in markdown(m, analyse(m))


def test_bad_report_files(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(PymlError, match=r"text\.json: expected a report that pyml audit wrote"):
        compare.read(tmp_path / "text.json")
    with pytest.raises(PymlError, match=r"missing\.json: No such file or directory"):
        compare.read(tmp_path / "missing.json")


def test_markdown() -> None:
    m = measurements()
    text = markdown(m, analyse(m))
    assert text.startswith("# Performance audit: a-model.gguf\n")
    for line in text.splitlines():  # tables: every row of one has as many cells
        if line.startswith("|"):
            assert line.endswith("|")
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 13
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block[0]
    assert "| QK^T |" in text
    assert "| 64x (quadratic) |" in text
    assert "| --threads 1 | 0.51x | 0.80x | 19.0 MB |" in text


class Page(HTMLParser):
    """Counts elements and checks that they nest."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_well_formed_and_needs_nothing_else() -> None:
    m = replace(measurements(), model=replace(measurements().model, name="</script><b>&"))
    page = Page()
    source = html(m, analyse(m))
    page.feed(source)
    page.close()
    assert page.open == []
    assert not [tag for tag, _ in page.seen if tag in ("link", "img", "iframe", "b")]
    assert not [attributes for _, attributes in page.seen if attributes.keys() & {"src", "href"}]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)
    charts = [str(attributes["data-chart"]) for tag, attributes in page.seen if tag == "figure"]
    assert charts == ["groups", "components", "scaling", "roofline", "jitter", "heatmap", "timeline"]
    assert any(attributes.get("name") == "viewport" for _, attributes in page.seen)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    assert data is not None
    shown = json.loads(data.group(1))
    assert [line["name"] for line in shown["scaling"]["prefill"]][1:3] == [LINEAR, SQUARE]
    assert shown["crossing"] == pytest.approx(1000.0)
    assert len(shown["jitter"]["steps"]) == 30
