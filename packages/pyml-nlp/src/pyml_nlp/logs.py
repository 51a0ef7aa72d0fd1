"""Logging: standard loggers, enabled by ``PYML_LOG`` or by a command's ``-v`` and ``-vv``.

``PYML_LOG`` has the grammar of Rust's RUST_LOG: ``target=level`` pairs separated by commas, where the target is the
name of a logger (``pyml``, ``pyml.source``, ``pyml.load``, ``pyml.tokenizer``, ``pyml.generator``, ``pyml.model``,
``pyml.command``, ``pyml.serve``, ``pyml.attn``, ``pyml.matmul``). A level alone applies to ``pyml``; a target alone
has level ``trace``. Levels: off, error, warn, info, debug, trace. Without PYML_LOG and outside of the command line
nothing is configured, and the application's logging handles the messages. Commands and PYML_LOG print messages on
stderr unchanged, and warnings after ``Warning:``.

A harmless fault in a model's files is a warning: one line of ``pyml.load`` or ``pyml.tokenizer`` that names the file,
the key and the consequence. Commands do not print it with ``-q``.

At ``debug`` the generator and the model's parts are timed; ``trace`` adds a line for each layer's attention and each
matrix product. The model is timed only while such lines are enabled.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError, quoted

if TYPE_CHECKING:
    from pyml_nn import Trace

TRACE = 5
OFF = logging.CRITICAL + 10
LEVELS = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}

TARGETS = ("pyml", *(f"pyml.{name}" for name in (
    "source", "load", "tokenizer", "generator", "model", "command", "serve", "attn", "matmul",
)))  # fmt: skip
"""All loggers."""

logging.addLevelName(TRACE, "TRACE")

root = logging.getLogger("pyml")
load = logging.getLogger("pyml.load")
source = logging.getLogger("pyml.source")
generator = logging.getLogger("pyml.generator")
model = logging.getLogger("pyml.model")
command = logging.getLogger("pyml.command")
serve = logging.getLogger("pyml.serve")
attention = logging.getLogger("pyml.attn")
matmul = logging.getLogger("pyml.matmul")


class LogSpecError(PymlError):
    """A ``PYML_LOG`` that cannot be parsed."""


def parse(spec: str) -> dict[str, int]:
    """Return levels by logger name.

    Raises:
        LogSpecError: an unknown level or target.
    """
    levels: dict[str, int] = {}
    for part in spec.split(","):
        directive = part.strip()
        if not directive:
            continue
        where = quoted(directive)
        target, equals, name = (piece.strip() for piece in directive.partition("="))
        if not equals and target.lower() in LEVELS:
            target, name = "pyml", target
        elif not equals:
            name = "trace"
        if target not in TARGETS:
            wanted = f"a target of {', '.join(TARGETS)}"
            if not equals:
                wanted = f"a level of {', '.join(LEVELS)}, or {wanted}"
            raise LogSpecError(f"PYML_LOG: expected {wanted}; found {quoted(target)} in {where}")
        if name.lower() not in LEVELS:
            raise LogSpecError(f"PYML_LOG: expected a level of {', '.join(LEVELS)}, found {quoted(name)} in {where}")
        levels[target] = LEVELS[name.lower()]
    return levels


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the current sys.stderr. Errors of a closed or full stderr are ignored."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """Return the message; a warning begins with "Warning: "."""
        text = super().format(record)
        return f"Warning: {text}" if record.levelno == logging.WARNING else text

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def tell(text: str, end: str = "\n") -> None:
    """Print a message that belongs to no logger on stderr. Errors of a closed or full stderr are ignored."""
    try:
        sys.stderr.write(text + end)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # full, closed, or None
        pass


def configure(levels: dict[str, int]) -> None:
    """Print messages of these levels on stderr. Loggers that an earlier call configured are reset."""
    names = [name for name in logging.root.manager.loggerDict if name == "pyml" or name.startswith("pyml.")]
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.handlers = [_StderrHandler()]
    root.propagate = False


def configure_cli(verbosity: int) -> None:
    """Configure a command: by ``PYML_LOG`` if set, else by ``verbosity`` (-1: -q, 0, 1: -v, 2 and more: -vv)."""
    spec = os.environ.get("PYML_LOG", "")
    if spec.strip():
        configure(parse(spec))
    elif verbosity == 0:
        # What a command has done, requests that it has answered, and downloads, which take long.
        told = dict.fromkeys(("pyml.command", "pyml.serve", "pyml.source"), logging.INFO)
        configure({"pyml": logging.WARNING, **told})
    else:
        configure({"pyml": {-1: logging.ERROR, 1: logging.DEBUG}.get(verbosity, TRACE)})


def configure_from_environment() -> None:
    """Configure from ``PYML_LOG``, if it is set and pyml's loggers have no handlers yet."""
    spec = os.environ.get("PYML_LOG", "")
    if spec.strip() and not root.handlers:
        configure(parse(spec))


def wants_timings() -> bool:
    """Return whether a run of the model must be timed for log lines."""
    return model.isEnabledFor(logging.DEBUG) or attention.isEnabledFor(TRACE) or matmul.isEnabledFor(TRACE)


def log_trace(trace: Trace) -> None:
    """Log the lines for the model's runs in this trace whose levels are enabled."""
    # start-up: the command line imports this module before it knows that it needs NumPy
    from pyml_nn.trace.lines import forward_lines, matmul_lines

    if attention.isEnabledFor(TRACE):
        _log(attention, TRACE, trace.attention_text())
    if matmul.isEnabledFor(TRACE):
        _log(matmul, TRACE, "\n".join(matmul_lines(trace.events)))
    if model.isEnabledFor(logging.DEBUG):
        _log(model, logging.DEBUG, "\n".join(forward_lines(trace.events, trace.screened)))


def _log(logger: logging.Logger, level: int, text: str) -> None:
    # perf: overheads.py attn_lines. One message for all lines, and none at all where only stderr would show it.
    if text and [type(handler) for handler in root.handlers] == [_StderrHandler] and not root.propagate:
        tell(text)
    elif text:
        logger.log(level, "%s", text)
