"""What pyml says about its work: standard logging, switched on by ``PYML_LOG`` or by a command's ``-v`` and ``-vv``.

``PYML_LOG`` has the grammar of Rust's RUST_LOG: ``target=level`` pairs separated by commas, where the target is the
name of a logger (``pyml``, ``pyml.source``, ``pyml.load``, ``pyml.tokenizer``, ``pyml.generator``, ``pyml.model``,
``pyml.attn``, ``pyml.matmul``); a level alone is that of ``pyml``, a target alone has level ``trace``. Levels: off,
error, warn, info, debug, trace. Without PYML_LOG and outside of the command line nothing is set up, and messages go
wherever the application's logging sends them. Commands and PYML_LOG print a message on stderr as it is, a warning
after ``Warning:``.

What a model's files have that is wrong and does no harm is a warning: one line of ``pyml.load``, or of
``pyml.tokenizer``, that names the file, the key and what is done about it. Commands do not print it with ``-q``.

At ``debug`` the generator and the model's parts are timed; ``trace`` adds a line for each layer's attention and each
matrix product. The model is timed only while somebody wants such a line.
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

logging.addLevelName(TRACE, "TRACE")

root = logging.getLogger("pyml")
load = logging.getLogger("pyml.load")
source = logging.getLogger("pyml.source")
generator = logging.getLogger("pyml.generator")
model = logging.getLogger("pyml.model")
attention = logging.getLogger("pyml.attn")
matmul = logging.getLogger("pyml.matmul")


class LogSpecError(PymlError):
    """A ``PYML_LOG`` that cannot be understood."""


def parse(spec: str) -> dict[str, int]:
    """Levels by logger name.

    Raises:
        LogSpecError: a level that is none, a target outside of ``pyml``, or an empty one.
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
        if target != "pyml" and not target.startswith("pyml."):
            raise LogSpecError(f"PYML_LOG: expected a target pyml or pyml.*, found {quoted(target)} in {where}")
        if name.lower() not in LEVELS:
            raise LogSpecError(f"PYML_LOG: expected a level of {', '.join(LEVELS)}, found {quoted(name)} in {where}")
        levels[target] = LEVELS[name.lower()]
    return levels


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever sys.stderr is at the moment; a closed or full stderr is no reason to stop."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> object:
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        """The message; a warning is told from the rest by a word in front, as errors of commands are."""
        text = super().format(record)
        return f"Warning: {text}" if record.levelno == logging.WARNING else text

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def tell(text: str, end: str = "\n") -> None:
    """Print on stderr what is no logger's; a closed or full stderr is no reason to stop."""
    try:
        sys.stderr.write(text + end)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # full, closed, or None
        pass


def configure(levels: dict[str, int]) -> None:
    """Print messages of these levels on stderr; loggers that an earlier call set are reset."""
    names = [name for name in logging.root.manager.loggerDict if name == "pyml" or name.startswith("pyml.")]
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.setLevel(logging.WARNING)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.handlers = [_StderrHandler()]
    root.propagate = False


def configure_cli(verbosity: int) -> None:
    """Set up a command: ``PYML_LOG`` if it is set, else ``verbosity`` (-1 for -q, 0, 1 for -v, 2 and more for -vv)."""
    spec = os.environ.get("PYML_LOG", "")
    if spec.strip():
        configure(parse(spec))
    else:
        configure({"pyml": {-1: logging.ERROR, 0: logging.INFO, 1: logging.DEBUG}.get(verbosity, TRACE)})


def configure_from_environment() -> None:
    """Set up from ``PYML_LOG`` if it is set and nobody has set up pyml's loggers yet."""
    spec = os.environ.get("PYML_LOG", "")
    if spec.strip() and not root.handlers:
        configure(parse(spec))


def wants_timings() -> bool:
    """Whether a run of the model has to be timed for its lines to be printed."""
    return model.isEnabledFor(logging.DEBUG) or attention.isEnabledFor(TRACE) or matmul.isEnabledFor(TRACE)


def log_trace(trace: Trace) -> None:
    """Print the lines of the model's runs in this trace, as far as their levels are wanted."""
    from pyml_nn.trace.lines import forward_lines, matmul_lines

    if attention.isEnabledFor(TRACE):
        _log(attention, TRACE, trace.attention_lines())
    if matmul.isEnabledFor(TRACE):
        _log(matmul, TRACE, matmul_lines(trace.events))
    if model.isEnabledFor(logging.DEBUG):
        _log(model, logging.DEBUG, forward_lines(trace.events))


def _log(logger: logging.Logger, level: int, lines: list[str]) -> None:
    """Lines as one message: a message a line takes longer than making them."""
    if lines:
        logger.log(level, "%s", "\n".join(lines))
