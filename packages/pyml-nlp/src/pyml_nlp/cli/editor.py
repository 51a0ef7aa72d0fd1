"""The line editor of a chat on a terminal, and the terminal while an answer comes."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .colour import has_colour

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyPressEvent

MAX_HISTORY = 1 << 20
"""Bytes of the history file; half of a longer one is dropped."""


def history_file() -> Path:
    """``pyml/chat-history`` in ``XDG_STATE_HOME``, else in ``~/.local/state``."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state") / "pyml" / "chat-history"


class Editor:
    """Reads texts from a terminal: editing, history, completion of commands. A pasted text may have several lines.

    Args:
        commands: the commands that Tab completes.
        history: the file of earlier texts, made for this user alone; None: this chat's texts only.

    Raises:
        OSError: the history cannot be written.
    """

    def __init__(self, commands: Sequence[str], history: Path | None) -> None:
        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # not every terminal answers; only menus need it
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        if history is not None:
            _prepare(history)
        keys = KeyBindings()
        keys.add("escape", "enter")(_new_line)
        self._session: Any = PromptSession(
            history=InMemoryHistory() if history is None else FileHistory(str(history)),
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
            key_bindings=keys,
            prompt_continuation="... ",
        )

    def read(self, more: bool) -> str | None:
        """The next text; None at Ctrl-D.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        prompt = "... " if more else "> "
        try:
            return str(self._session.prompt([("bold ansigreen", prompt)] if has_colour(sys.stdout) else prompt))
        except EOFError:
            return None


def _new_line(event: KeyPressEvent) -> None:
    event.current_buffer.insert_text("\n")


def _prepare(history: Path) -> None:
    """Make the history file, or shorten it."""
    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600))
    if history.stat().st_size > MAX_HISTORY:
        from pyml_nn.files import new_file

        data = history.read_bytes()
        _, _, kept = data[len(data) // 2 :].partition(b"\n\n#")  # each entry begins with a comment
        with new_file(history) as file:
            file.write(b"\n#" + kept)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """What is typed is neither shown nor read, except for Ctrl-C and its like; nothing happens without a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    side = sys.stdin.fileno()
    before = termios.tcgetattr(side)
    changed = list(before)
    changed[3] &= ~termios.ECHO
    termios.tcsetattr(side, termios.TCSANOW, changed)
    try:
        yield
    finally:
        termios.tcflush(side, termios.TCIFLUSH)
        termios.tcsetattr(side, termios.TCSANOW, before)
