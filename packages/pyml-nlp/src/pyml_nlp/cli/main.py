"""Entry points of the commands. Every error is one line on stderr and an exit code.

Exit codes: 2 for anything wrong on the command line; 1 for a file, a model, memory, or output that cannot be written;
130 after Ctrl-C; else 0. ``PYML_DEBUG=1`` adds the traceback of any error.
"""

from __future__ import annotations

import gc
import os
import sys

from . import ending
from .ending import INTERRUPTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    import click

_LONGEST = 2000  # characters of a message, which may quote other programs


def main() -> NoReturn:
    """``pyml``."""
    _command("pyml")


def infer_main() -> NoReturn:
    """``pyml-infer``, the same as ``pyml infer``."""
    _command("pyml-infer")


def bench_main() -> NoReturn:
    """``pyml-bench``, the same as ``pyml bench``."""
    _command("pyml-bench")


def audit_main() -> NoReturn:
    """``pyml-audit``, the same as ``pyml audit``."""
    _command("pyml-audit")


def _command(name: str) -> NoReturn:
    ending.begin()
    ending.leave(run(name, sys.argv[1:]))


def run(name: str, arguments: Sequence[str]) -> int:
    """Run the command of this name; prints its error, if any, and returns its exit code."""
    # NumPy's matrix library is not used here; its threads would compete with the kernels' while a model loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(200_000)  # modules and a model's vocabulary allocate much and free little: collect garbage rarely
    try:
        try:
            ending.unwinding = True
            return _run(name, arguments)
        finally:
            ending.unwinding = False
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except MemoryError as error:
        return _fail(str(error) or "out of memory", 1)
    except Exception as error:
        return _unexpected(error)


def _run(name: str, arguments: Sequence[str]) -> int:
    import click

    from .output import OutputClosed

    command = commands() if name == "pyml" else load_command(name.removeprefix("pyml-"))
    try:
        return command.main(list(arguments), prog_name=name, standalone_mode=False) or 0
    except click.UsageError as error:
        from .usage import message

        return _fail(message(error), 2)
    except click.Abort:
        return _fail("interrupted", INTERRUPTED)
    except OutputClosed:
        return 0  # the reader has seen enough


def _unexpected(error: Exception) -> int:
    if isinstance(error, ImportError):  # a package that is missing, or a kernel that was not rebuilt: it says which
        return _fail(str(error), 1)
    from pyml_core.errors import PymlError

    if isinstance(error, PymlError):
        return _fail(str(error), 1)
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}", 1)
    return _fail(
        f"internal error: {type(error).__name__}: {error} (please report it; PYML_DEBUG=1 shows the traceback)", 1
    )


def _fail(message: str, code: int) -> int:
    if os.environ.get("PYML_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exc()
    ending.told = ending.told or code == INTERRUPTED
    tell_error(message)
    return code


def tell_error(message: str) -> None:
    """Print an error on stderr, on one line."""
    if sys.stderr is not None:
        from .colour import RED, coloured

        start = coloured("Error:", RED, sys.stderr)
        print(f"{start} {' '.join(message.splitlines())[:_LONGEST]}", file=sys.stderr)


def load_command(name: str) -> click.Command:
    """The click command of this name, from the module of this name."""
    from importlib import import_module

    command: click.Command = import_module(f".{name}", __package__).command
    return command


def commands() -> click.Group:
    """``pyml``, whose subcommands are imported when they are called."""
    from .group import Commands

    return Commands("pyml", load_command)


if __name__ == "__main__":
    main()
