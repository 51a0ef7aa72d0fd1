"""PYML_LOG's grammar, the messages of each level, and the exact form of the lines."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from pyml_nlp import logs
from pyml_nlp.logs import OFF, TRACE
from pyml_nn import Event, attention_lines
from pyml_nn.trace.lines import forward_lines


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    handlers, propagate, level = logs.root.handlers[:], logs.root.propagate, logs.root.level
    yield
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("pyml."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    logs.root.handlers, logs.root.propagate = handlers, propagate
    logs.root.setLevel(level)


@pytest.mark.parametrize(
    ("spec", "levels"),
    [
        ("", {}),
        ("debug", {"pyml": logging.DEBUG}),
        ("pyml=debug", {"pyml": logging.DEBUG}),
        ("pyml=trace", {"pyml": TRACE}),
        ("pyml", {"pyml": TRACE}),
        ("pyml=off", {"pyml": OFF}),
        ("pyml=WARN", {"pyml": logging.WARNING}),
        ("pyml=debug,pyml.attn=trace", {"pyml": logging.DEBUG, "pyml.attn": TRACE}),
        (" pyml = info , pyml.matmul = error ,", {"pyml": logging.INFO, "pyml.matmul": logging.ERROR}),
        ("error,pyml.generator", {"pyml": logging.ERROR, "pyml.generator": TRACE}),
        ("pyml=info,pyml=trace", {"pyml": TRACE}),
    ],
)
def test_grammar(spec: str, levels: dict[str, int]) -> None:
    assert logs.parse(spec) == levels


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pyml=loud", "expected a level of off, error, warn, info, debug, trace, found 'loud' in 'pyml=loud'"),
        ("pyml=", "found '' in 'pyml='"),
        ("numpy=debug", "expected a target of pyml, pyml.source, "),
        ("pyml.att=trace", "pyml.attn, pyml.matmul; found 'pyml.att' in 'pyml.att=trace'"),
        ("verbose", "expected a level of off, error, warn, info, debug, trace, or a target of pyml, "),
        ("=debug", "found '' in '=debug'"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(logs.LogSpecError, match="PYML_LOG: .*" + re.escape(message)):
        logs.parse(spec)


def levels_shown(capsys: pytest.CaptureFixture[str]) -> set[str]:
    for level in ("error", "warning", "info", "debug"):
        getattr(logs.root, level)(level)
    logs.root.log(TRACE, "trace")
    return set(capsys.readouterr().err.splitlines())


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-1, {"error"}),
        (0, {"error", "Warning: warning"}),
        (1, {"error", "Warning: warning", "info", "debug"}),
        (2, {"error", "Warning: warning", "info", "debug", "trace"}),
    ],
)
def test_verbosity(
    verbosity: int, shown: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYML_LOG", raising=False)
    logs.configure_cli(verbosity)
    assert levels_shown(capsys) == shown


def test_the_environment_wins_over_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYML_LOG", "pyml=error")
    logs.configure_cli(2)
    assert levels_shown(capsys) == {"error"}


def test_configuring_again_resets(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure({"pyml": TRACE, "pyml.attn": logging.INFO})
    assert not logs.attention.isEnabledFor(TRACE)
    logs.configure({"pyml": TRACE})
    assert logs.attention.isEnabledFor(TRACE)
    assert len(logs.root.handlers) == 1


def test_a_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    logs.root.handlers = []
    monkeypatch.delenv("PYML_LOG", raising=False)
    logs.configure_from_environment()
    assert logs.root.handlers == []
    monkeypatch.setenv("PYML_LOG", "pyml=debug")
    logs.configure_from_environment()
    assert len(logs.root.handlers) == 1
    handler = logs.root.handlers[0]
    monkeypatch.setenv("PYML_LOG", "pyml=info")  # set up already: not again
    logs.configure_from_environment()
    assert logs.root.handlers == [handler]
    assert logs.root.level == logging.DEBUG


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_no_stderr_is_no_problem(stderr: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stderr else None)
    logs.configure({"pyml": logging.INFO})
    logs.root.info("unheard")


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("pyml=info", False),
        ("pyml=debug", True),
        ("pyml=trace", True),
        ("pyml.generator=debug", False),
        ("pyml.model=debug", True),
        ("pyml.attn=trace", True),
        ("pyml.attn=debug", False),
        ("pyml.matmul=trace", True),
    ],
)
def test_the_model_is_timed_only_if_somebody_looks(spec: str, wanted: bool) -> None:
    logs.configure(logs.parse(spec))
    assert logs.wants_timings() is wanted


def step_events(step: int, kind: str) -> list[Event]:
    def event(name: str, ms: float, layer: int | None = None, phase: str = "", **facts: object) -> Event:
        return Event(name, layer, phase, kind, step, 14, 0, ms, **facts)  # type: ignore[arg-type]

    attention = "layers.0.attention"
    return [
        event("embedding", 0.09),
        event(f"{attention}.norm", 0.5, 0),
        event(
            f"{attention}.qkv", 10.41, 0, "QKV", bytes=13_900_000, flops=171_300_000, shape="[14,640]x[1536,640] q8_0"
        ),
        event(f"{attention}.prepare", 1.259, 0),
        event(f"{attention}.prepare.QKnorm", 1.14, 0, "QKnorm"),
        event(f"{attention}.prepare.RoPE", 0.119, 0, "RoPE"),
        event(f"{attention}.attend", 4.579, 0),
        event(f"{attention}.attend.QK^T", 3.539, 0, "QK^T"),
        event(f"{attention}.attend.softmax", 0.056, 0, "softmax"),
        event(f"{attention}.attend.A*V", 0.984, 0, "A*V"),
        event(f"{attention}.out", 1.343, 0, "out"),
        event(attention, 17.6, 0),
        event("final_norm", 0.02),
        event("head", 3.01, flops=335_544_320),
        event("forward", 22.5),
    ]


class GivenTrace:
    """A trace of these events."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.screened = False

    def attention_text(self) -> str:
        return "\n".join(attention_lines(self.events))


def log(events: list[Event]) -> None:
    logs.log_trace(GivenTrace(events))  # type: ignore[arg-type]


def test_lines_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure({"pyml": TRACE})
    log(step_events(0, "prefill") + step_events(1, "decode"))
    lines = capsys.readouterr().err.splitlines()
    attention = (
        "[attn] layer=0 QKV=10.410ms QKnorm=1.140ms RoPE=0.119ms QK^T=3.539ms softmax=0.056ms A*V=0.984ms out=1.343ms"
    )
    assert lines.count(attention) == 2
    assert (
        lines.count("[perf] matmul layers.0.attention.qkv [14,640]x[1536,640] q8_0 10.410ms (1.3 GB/s, 16.5 GFLOP/s)")
        == 2
    )
    forward = "[perf] model.forward embedding=0.090ms layers=18.091ms norm=0.020ms projection=3.010ms total=22.500ms"
    assert lines.count(forward) == 2
    assert len(lines) == 6


def test_heads_that_are_computed_whole() -> None:
    """Screened ones count where the last round computed all rows that were left."""

    def heads(*rounds: tuple[str, int]) -> str:
        head = [Event("head.screen", None, "", "decode", 0, 1, 0, 1.0, flops=1000)]
        head += [Event(f"head.{name}", None, "", "decode", 0, 1, 0, 0.1, rescored=rows) for name, rows in rounds]
        (line,) = forward_lines([*head, Event("forward", None, "", "decode", 0, 1, 0, 2.0)], screened=True)
        return line.rpartition(" ")[2]

    assert heads(("rescore", 64)) == "full_heads=0"
    (line,) = forward_lines([one for one in step_events(0, "decode") if one.layer is None], screened=True)
    assert line.endswith(" total=22.500ms full_heads=1")
    assert heads(("rescore", 64), ("refine", 32), ("complete", 0)) == "full_heads=0"
    assert heads(("rescore", 64), ("refine", 0), ("complete", 936)) == "full_heads=1"


def test_lines_of_a_run_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure({"pyml": logging.DEBUG})
    log(step_events(0, "prefill"))
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["model.forward"]


def test_one_target_alone(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(logs.parse("pyml=off,pyml.attn=trace"))
    log(step_events(0, "prefill"))
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == ["[attn]"]


def test_lines_for_handlers_of_an_application(capsys: pytest.CaptureFixture[str]) -> None:
    """With any other handler there are records, one for the lines of a kind."""
    logs.configure(logs.parse("pyml=off,pyml.attn=trace"))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logs.root.addHandler(handler)
    try:
        log(step_events(0, "prefill"))
    finally:
        logs.root.removeHandler(handler)
    assert [(record.name, record.levelno) for record in records] == [("pyml.attn", TRACE)]
    assert records[0].getMessage().startswith("[attn] layer=0 QKV=10.410ms")
    assert records[0].getMessage() in capsys.readouterr().err
