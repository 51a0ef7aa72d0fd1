"""How the process of a command ends: when all is done, or at Ctrl-C, whenever that comes.

Nothing is imported here that takes time: until :func:`begin` is called, Ctrl-C ends in a traceback.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys

TYPE_CHECKING = False  # in place of typing's, whose import takes milliseconds
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

unwinding = False
"""Whether Ctrl-C raises KeyboardInterrupt. Only an assignment changes it in time: a signal may come before any call."""

told = False
"""Whether the user has been told of the interrupt."""


def begin() -> None:
    """From now on Ctrl-C ends the process with one line on stderr, exit code 130 and no traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as it is in the background
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = _unraisable


def interrupt(_: int, frame: FrameType | None) -> None:
    """The handler of Ctrl-C. An import is not unwound: an exception may be lost in it."""
    if not unwinding or _importing(frame):
        _leave_interrupted()
    raise KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """End the process. Taking everything apart, object by object, would be a tenth of a short command's time."""
    try:
        atexit._run_exitfuncs()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):  # of stdout, which the interpreter tells of
        sys.exit(code)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):  # nobody reads it, so that nobody can be told
        pass
    os._exit(code)


def _leave_interrupted() -> NoReturn:
    try:
        if not told and sys.stderr is not None:
            os.write(2, b"Error: interrupted\n")
    finally:  # also where nobody can be told
        os._exit(INTERRUPTED)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """For what is raised where nothing can catch it, in the end of an object."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _leave_interrupted()
    sys.__unraisablehook__(unraisable)
