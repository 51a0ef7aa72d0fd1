"""A chat on a terminal: editing, history, pasted texts, Ctrl-C."""

from __future__ import annotations

import json
import signal
import stat
import termios
from pathlib import Path
from typing import Any

from pyml_nlp.language_model import LanguageModel
from tests.cli.chats import GREEDY, conversation
from tests.cli.terminals import chat, plain

UP, TAB, LEAVE = b"\x1b[A", b"\t", b"\x04"
ENDLESS = ("--temperature", "0", "--threads", "1")


def test_editing_and_history(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    first, second = conversation(lm, "the cat", "the cat")
    with chat(commands, tmp_path, instruct, *GREEDY, "-q") as screen:
        screen.prompt()
        screen.type(b"the hat\x7f\x7f\x7fcat\r")  # three backspaces
        assert screen.prompt().endswith(f"> the cat\n{first}\n")
        screen.type(UP)
        screen.wait_for(b"the cat")
        screen.type(b"\r")
        assert screen.prompt().endswith(f"\n{second}\n")
        screen.type(LEAVE)
        assert screen.process.wait(60) == 0
    history = tmp_path / "pyml" / "chat-history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with chat(commands, tmp_path, instruct, *GREEDY, "-q") as screen:  # another day
        screen.prompt()
        screen.type(UP)
        screen.wait_for(b"the cat")
        screen.type(b"\r")
        assert screen.prompt().endswith(f"\n{first}\n")


def test_no_history(commands: Any, instruct: Path, tmp_path: Path) -> None:
    with chat(commands, tmp_path, instruct, "--no-history", "-q") as screen:
        screen.prompt()
        screen.type(b"/tokens\r")
        screen.wait_for(b"[0 messages")
        screen.prompt()
        screen.type(LEAVE)
        assert screen.process.wait(60) == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "pyml").write_text("a file where the folder should be")
    with chat(commands, tmp_path, instruct, "-q") as screen:
        assert "pyml/chat-history: the history is not kept: " in screen.prompt()


def test_a_long_history_is_shortened(commands: Any, instruct: Path, tmp_path: Path) -> None:
    history = tmp_path / "pyml" / "chat-history"
    history.parent.mkdir()
    history.write_text("".join(f"\n# 2026-01-01\n+text {index}\n" for index in range(50_000)))
    size = history.stat().st_size
    assert size > 1 << 20
    with chat(commands, tmp_path, instruct, "-q") as screen:
        screen.prompt()
        screen.type(UP)
        screen.wait_for(b"text 49999")
    assert 0.49 * size < history.stat().st_size < 0.51 * size
    assert history.read_text().startswith("\n# 2026-01-01\n+text ")


def test_a_pasted_text_is_one_message(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    (answer,) = conversation(lm, "the cat\nin\nthe hat")
    with chat(commands, tmp_path, instruct, *GREEDY) as screen:
        screen.prompt()
        screen.type(b"\x1b[200~the cat\nin\nthe hat\x1b[201~")
        screen.wait_for(b"the hat")
        screen.type(b"\r")
        assert f"\n{answer}\n" in screen.prompt()
        screen.type(f"/save {tmp_path}/chat.json\r".encode())
        screen.wait_for(b"[2 messages written")
    assert json.loads((tmp_path / "chat.json").read_text())[0]["content"] == "the cat\nin\nthe hat"


def test_an_open_text_has_another_prompt(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    (answer,) = conversation(lm, "the\ncat")
    with chat(commands, tmp_path, instruct, *GREEDY) as screen:
        screen.prompt()
        screen.type(b'"""the\r')
        if "..." not in screen.prompt():
            screen.wait_for(b"...")
        screen.type(b'cat"""\r')
        assert f"\n{answer}\n" in screen.prompt()
        screen.type(b'"""not this\r')
        screen.prompt()
        screen.interrupt(b"(Ctrl-D or /quit leaves)")  # drops it
        screen.prompt()
        screen.type(b"/tokens\r")
        screen.wait_for(b"[2 messages, ")


def test_commands_are_completed(commands: Any, instruct: Path, tmp_path: Path) -> None:
    with chat(commands, tmp_path, instruct) as screen:
        screen.prompt()
        screen.type(b"/tok")
        screen.wait_for(b"/tok")
        screen.type(TAB)
        screen.wait_for(b"ens")
        screen.type(b"\r")
        screen.wait_for(b"[0 messages, 0 of 128 tokens of the context]")


def test_ctrl_c_at_the_prompt(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    (answer,) = conversation(lm, "the cat")
    with chat(commands, tmp_path, instruct, *GREEDY) as screen:
        screen.prompt()
        screen.type(b"not this")
        screen.wait_for(b"not this")
        screen.interrupt(b"(Ctrl-D or /quit leaves)")
        screen.prompt()
        screen.type(b"the cat\r")
        assert f"\n{answer}\n" in plain(screen.wait_for(b"tokens/s)"))
        screen.prompt()
        screen.type(b"/quit\r")
        assert screen.process.wait(60) == 0


def test_ctrl_c_stops_an_answer(commands: Any, endless_instruct: Path, tmp_path: Path) -> None:
    with chat(commands, tmp_path, endless_instruct, *ENDLESS) as screen:
        screen.prompt()
        screen.type(b"the cat\r")
        screen.wait_for(b"\x1b[?2004l")
        for _ in range(2):  # it goes on by itself
            assert screen.wait_for(b"e") is not None
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"stopped]")
        screen.prompt()
        screen.type(f"/save {tmp_path}/chat.json\r".encode())
        screen.wait_for(b"[2 messages written")
        screen.prompt()
        said = json.loads((tmp_path / "chat.json").read_text())
        assert len(said[1]["content"]) >= 2
        screen.type(b"and then\r")
        screen.wait_for(b"\x1b[?2004l")
        screen.wait_for(b"e")
        for _ in range(3):  # an impatient user does not lose the chat
            screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"stopped]")
        screen.prompt()
        screen.type(LEAVE)
        assert screen.process.wait(60) == 0


def test_what_is_typed_while_it_answers_is_dropped(commands: Any, endless_instruct: Path, tmp_path: Path) -> None:
    """It is neither shown in the answer nor sent; afterwards the terminal is as it was."""
    with chat(commands, tmp_path, endless_instruct, *ENDLESS) as screen:
        before = termios.tcgetattr(screen.side)
        assert before[3] & termios.ECHO
        screen.prompt()
        screen.type(b"the cat\r")
        screen.wait_for(b"\x1b[?2004l")
        screen.wait_for(b"e")
        assert not termios.tcgetattr(screen.side)[3] & termios.ECHO
        screen.type(b"/quit now\r")
        screen.wait_for(b"e")
        screen.process.send_signal(signal.SIGINT)
        assert "/quit" not in plain(screen.wait_for(b"stopped]"))
        screen.prompt()
        screen.type(b"/tokens\r")
        assert "/quit" not in plain(screen.wait_for(b"[2 messages"))
        screen.prompt()
        screen.type(LEAVE)
        assert screen.process.wait(60) == 0
        assert termios.tcgetattr(screen.side) == before


def test_a_signal_leaves_the_terminal_as_it_was(commands: Any, endless_instruct: Path, tmp_path: Path) -> None:
    with chat(commands, tmp_path, endless_instruct, *ENDLESS) as screen:
        before = termios.tcgetattr(screen.side)
        screen.prompt()
        screen.type(b"the cat\r")
        screen.wait_for(b"\x1b[?2004l")
        screen.wait_for(b"e")
        screen.process.terminate()
        assert screen.process.wait(60) == -signal.SIGTERM
        assert termios.tcgetattr(screen.side) == before


def test_colours(commands: Any, instruct: Path, tmp_path: Path) -> None:
    for settings, colours in (({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with chat(commands, tmp_path, instruct, "--no-history", env=settings) as screen:
            shown = screen.wait_for(b">")
            screen.type(b"/nothing\r")
            shown += screen.wait_for(b"there is no command /nothing")
            assert (b"\x1b[2mA chat with a context of 128 tokens." in shown) is colours
            assert (b"\x1b[31mError:\x1b[0m" in shown) is colours
