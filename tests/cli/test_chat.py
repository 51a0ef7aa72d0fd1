"""``--chat`` and ``--interactive``, through pipes and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp.language_model import LanguageModel

GREEDY = ("--temperature", "0", "--threads", "1", "--max-tokens", "6")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' and m.content == 'never' %}{{ raise_exception('Not that') }}"
    "{% endif %}[{{ m.role }}{{ mood }}]{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def with_template(folder: Path, copy: Path, template: str = TEMPLATE) -> Path:
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(template)
    return copy


@pytest.fixture(scope="module")
def instruct(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a chat template; its context holds 128 tokens."""
    return with_template(model, tmp_path_factory.mktemp("instruct") / "model")


@pytest.fixture(scope="module")
def endless_instruct(endless: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that never ends an answer."""
    return with_template(endless, tmp_path_factory.mktemp("endless-instruct") / "model")


@pytest.fixture(scope="module")
def lm(instruct: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(instruct, threads=1) as loaded:
        yield loaded


def answer(lm: LanguageModel, messages: Any, **options: Any) -> str:
    generation = lm.chat(messages, max_tokens=6, temperature=0, **options)
    return "".join(step.text for step in generation)


# ---- --chat


def test_a_prompt_is_what_a_user_says(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    for flags, messages, variables in (
        ((), [], {}),
        (("--system", "Bé brief"), [{"role": "system", "content": "Bé brief"}], {}),
        (("--chat-arg", "mood=3"), [], {"mood": 3}),
        (("--chat-arg", "mood=a b", "--chat-arg", "x=[1]"), [], {"mood": "a b", "x": [1]}),
    ):
        messages = [*messages, {"role": "user", "content": "the <|endoftext|> cat"}]
        result = commands.infer(instruct, *GREEDY, "--chat", "--prompt", "the <|endoftext|> cat", "--json", *flags)
        found = json.loads(result.text)
        assert found["prompt_tokens"] == len(lm.chat_ids(messages, variables=variables))
        assert found["text"] == answer(lm, messages, variables=variables)
    assert lm.eos_ids.isdisjoint(lm.chat_ids("the <|endoftext|> cat"))


def test_tools(commands: Any, model: Path, tmp_path: Path) -> None:
    instruct = with_template(model, tmp_path / "model", "{{ tools | tojson }}{{ messages[0].content }}")
    file = tmp_path / "tools.json"
    file.write_text('[{"type": "function", "function": {"name": "the cat"}}]')
    with pyml_nlp.load(instruct, threads=1) as lm:
        expected = lm.chat_ids("hat", tools=json.loads(file.read_text()))
    result = commands.infer(instruct, *GREEDY, "--chat", "--prompt", "hat", "--json", "--tools", file)
    assert json.loads(result.text)["prompt_tokens"] == len(expected)
    for content, message in (
        ("[1]", "expected a JSON list of functions, each an object"),
        ("{}", "expected a JSON list of functions, each an object"),
        ("[", "expected a JSON list of functions: "),
    ):
        file.write_text(content)
        result = commands.infer(instruct, "--chat", "--prompt", "hat", "-q", "--tools", file)
        assert result.code == 1
        assert result.error.startswith(f"Error: {file}: {message}")
    result = commands.infer(instruct, "--chat", "--prompt", "hat", "-q", "--tools", tmp_path / "none.json")
    assert (result.code, result.error) == (1, f"Error: {tmp_path / 'none.json'}: No such file or directory")


def test_a_batch(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("the cat\n\nin the hat\n")
    result = commands.infer(instruct, *GREEDY, "--chat", "--batch-file", tmp_path / "prompts.txt", "--json")
    texts = [json.loads(line)["text"] for line in result.text.splitlines()]
    assert texts == [answer(lm, "the cat"), answer(lm, "in the hat")]


def test_no_template(commands: Any, model: Path) -> None:
    for flag in ("--chat", "--interactive"):
        result = commands.infer(model, flag, "-q", stdin=b"Hi")
        assert (result.code, result.stdout) == (1, b"")
        assert "the model has no chat template" in result.error
        assert "HuggingFaceTB/SmolLM2-135M-Instruct" in result.error


def test_the_template_refuses(commands: Any, instruct: Path) -> None:
    result = commands.infer(instruct, "--chat", "--prompt", "never", "-q")
    assert (result.code, result.error) == (1, "Error: chat template: Not that")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--system", "x"), "the argument '--system <TEXT>' requires '--chat' or '--interactive'"),
        (("--tools", "x"), "the argument '--tools <FILE>' requires '--chat' or '--interactive'"),
        (("--chat-arg", "a=1"), "the argument '--chat-arg <NAME=VALUE>' requires '--chat' or '--interactive'"),
        (("--chat", "--chat-arg", "a"), "invalid value 'a' for '--chat-arg': expected NAME=VALUE"),
        (("--chat", "--chat-arg", "1=a"), "invalid value '1=a' for '--chat-arg': expected NAME=VALUE"),
        (("--interactive", "--prompt", "x"), "the argument '--interactive' cannot be used with '--prompt <TEXT>'"),
        (("--interactive", "--json"), "the argument '--interactive' cannot be used with '--json'"),
        (("--interactive", "--echo"), "the argument '--interactive' cannot be used with '--echo'"),
        (("--interactive", "--batch-file", "x"), "cannot be used with '--batch-file <PATH>'"),
        (("--interactive", "--trace-out", "x.json"), "cannot be used with '--trace-out <PATH>'"),
        (("--interactive", "--prompt-cache", "x"), "cannot be used with '--prompt-cache <PATH>'"),
    ],
)
def test_usage(flags: tuple[str, ...], message: str, commands: Any, instruct: Path) -> None:
    result = commands.infer(instruct, *flags)
    assert result.code == 2
    assert message in result.error


# ---- --interactive with a pipe


def conversation(lm: LanguageModel, *messages: str, system: str | None = None) -> list[str]:
    """The answers, each of a whole new run."""
    said: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
    for message in messages:
        said.append({"role": "user", "content": message})
        lm.prefix_cache.clear()
        said.append({"role": "assistant", "content": answer(lm, said)})
    return [message["content"] for message in said if message["role"] == "assistant"]


def test_turns(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    stdin = 'the cat\n\n"""\nin\nthe hat\n"""\nand\\\nso\n//on\n'
    result = commands.infer(instruct, *GREEDY, "--interactive", "-q", "--system", "x", stdin=stdin.encode())
    assert (result.code, result.stderr) == (0, "")
    answers = conversation(lm, "the cat", "in\nthe hat", "and\nso", "/on", system="x")
    assert result.text == "".join(text + "\n" for text in answers)


def test_commands(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    stdin = (
        "/system\nthe cat\n/system be brief\n/system\nand\n/save chat.json\n/clear\nthe hat\n/save\n/save no/where\n"
        "/help\n/nothing\nnever\n/save after.json\n/quit\nnot this\n"
    )
    result = commands.infer(instruct, *GREEDY, "--interactive", stdin=stdin.encode(), cwd=tmp_path)
    assert result.code == 0
    first = answer(lm, "the cat")
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "and"},
    ]
    second = answer(lm, said)
    (third,) = conversation(lm, "the hat", system="be brief")
    assert result.text == f"{first}\n{second}\n{third}\n"
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert saved == [*said, {"role": "assistant", "content": second}]
    assert answer(lm, saved[:2]) == answer(lm, [said[0], said[1]])  # lm.chat accepts it
    assert [m["content"] for m in json.loads((tmp_path / "after.json").read_text())] == ["be brief", "the hat", third]
    for line in (
        "[There is no system message]", "[The system message is set]", "be brief", "[The chat is cleared]",
        "[5 messages written to chat.json]", "Error: expected /save FILE", "  /clear         forget the chat but for",
        "Error: no/where: the chat cannot be written: No such file or directory",
        "Error: there is no command /nothing; /help shows them all", "Error: chat template: Not that", "Goodbye!",
    ):  # fmt: skip
        assert line in result.stderr
    assert result.stderr.count("tok/s), cut off by --max-tokens]") == 3


def test_a_full_context(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    long = "the cat in the hat " * 7
    stdin = f"{long}\n{long}\n/clear\nthe cat\n".encode()
    result = commands.infer(instruct, *GREEDY, "--interactive", "--max-tokens", "100", "-q", stdin=stdin)
    assert result.code == 0
    assert result.stderr.startswith("Error: the chat is too long: Sequence length exceeded: max=128, actual=")
    assert result.stderr.rstrip().endswith("/clear begins a new one")
    assert result.text.count("\n") >= 2
    loud = commands.infer(instruct, *GREEDY, "--interactive", "--max-tokens", "100", stdin=f"{long}\n".encode())
    if "stop" not in loud.stderr:
        assert "the context is full: /clear begins a new chat" in loud.stderr


def test_options_of_texts_hold_for_answers(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    options = ("--temperature", "1.5", "--seed", "3", "--top-k", "9", "--max-tokens", "20", "--threads", "1", "-q")
    expected = "".join(step.text for step in lm.chat("cat", max_tokens=20, temperature=1.5, seed=3, top_k=9))
    assert commands.infer(instruct, *options, "--interactive", stdin=b"cat\n").text == expected + "\n"
    matched = commands.infer(instruct, *options, "--interactive", "--regex", "(yes|no)", stdin=b"cat\nhat\n").text
    assert set(matched.split()) <= {"yes", "no"}
    assert len(matched.split()) == 2
    long = b"the cat in the hat " * 7 + b"\n"
    rolled = commands.infer(instruct, *options, "--interactive", "--overflow", "shift", stdin=long * 3)
    assert (rolled.code, rolled.stderr) == (0, "")


def test_bad_utf8(commands: Any, instruct: Path) -> None:
    result = commands.infer(instruct, "--interactive", "-q", stdin=b"a\xff\n")
    assert (result.code, result.error) == (2, "Error: stdin: expected UTF-8, got byte 0xff at offset 1 of a line")


def test_no_input(commands: Any, instruct: Path) -> None:
    for stdin in (b"", b"\n\n", b'"""', b"\\"):
        result = commands.infer(instruct, "--interactive", "-q", stdin=stdin)
        assert (result.code, result.stdout, result.stderr) == (0, b"", "")


def test_nobody_reads(commands: Any, endless_instruct: Path) -> None:
    options = ("--interactive", "-q", "--max-tokens", "100000", "--threads", "1")
    with commands.start("pyml-infer", endless_instruct, *options, stdin=subprocess.PIPE) as process:
        process.stdin.write(b"the cat\n")
        process.stdin.flush()
        process.stdout.read(3)
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


# ---- on a terminal


class Terminal:
    """A process on a terminal of its own, and all that it has written there."""

    def __init__(self, process: Any, side: int) -> None:
        self.process = process
        self._side = side
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self._side, text)

    def interrupt(self, answer: bytes) -> None:
        """Ctrl-C until it is answered: a signal just before input() begins to wait is seen with the next one."""
        for _ in range(20):
            self.process.send_signal(signal.SIGINT)
            if self._read_until(answer, 3):
                break
        self.wait_for(answer, 0)

    def wait_for(self, text: bytes, seconds: float = 60) -> bytes:
        """Read until this text arrives; returns the output before it, and forgets both."""
        assert self._read_until(text, seconds), (text, self.seen)
        before, _, self.seen = self.seen.partition(text)
        return before

    def _read_until(self, text: bytes, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self._side], [], [], max(0, end - time.monotonic()))
            try:
                part = os.read(self._side, 65536) if ready else b""
            except OSError:  # no process has it open any more
                part = b""
            if not part:
                return False
            self.seen += part
        return True


@contextmanager
def terminal(commands: Any, *arguments: object) -> Iterator[Terminal]:
    side, other = pty.openpty()
    with commands.start(
        "pyml-infer", *arguments, stdin=other, stdout=other, stderr=other, env={"TERM": "dumb", "INPUTRC": "/dev/null"}
    ) as process:
        os.close(other)
        try:
            yield Terminal(process, side)
        finally:
            process.kill()
            os.close(side)


def test_editing_history_and_leaving(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    with terminal(commands, instruct, *GREEDY, "--interactive", "-q") as screen:
        screen.wait_for(b"> ")
        screen.type(b"the hat\x7f\x7f\x7fcat\n")  # three backspaces
        first, second = conversation(lm, "the cat", "the cat")
        shown = screen.wait_for(b"\r\n> ")
        assert shown.replace(b"\r\n", b"\n").endswith(b"\n" + first.encode())
        screen.type(b"\x10\n")  # the last line again
        shown = screen.wait_for(b"\r\n> ")
        assert b"the cat" in shown
        assert shown.replace(b"\r\n", b"\n").endswith(b"\n" + second.encode())
        screen.type(b"\x04")
        assert screen.process.wait(60) == 0


def test_ctrl_c_at_the_prompt(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    with terminal(commands, instruct, *GREEDY, "--interactive") as screen:
        screen.wait_for(b"\n> ")
        screen.type(b"not this")
        screen.wait_for(b"not this")
        screen.interrupt(b"(Ctrl-D or /quit leaves)")
        screen.wait_for(b"\n> ")
        screen.type(b"the cat\n")
        (text,) = conversation(lm, "the cat")
        assert text.encode() in screen.wait_for(b"tok/s)").replace(b"\r\n", b"\n")
        screen.wait_for(b"\n> ")
        screen.type(b"/quit\n")
        screen.wait_for(b"Goodbye!")
        assert screen.process.wait(60) == 0


def test_ctrl_c_stops_an_answer(commands: Any, endless_instruct: Path, tmp_path: Path) -> None:
    options = ("--temperature", "0", "--threads", "1", "--max-tokens", "200000")
    with terminal(commands, endless_instruct, *options, "--interactive") as screen:
        screen.wait_for(b"\n> ")
        screen.type(b"the cat\n")
        screen.wait_for(b"the cat\r\n")
        for _ in range(2):  # it goes on by itself
            assert screen.wait_for(b"e") is not None
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"stopped]")
        screen.wait_for(b"\n> ")
        screen.type(f"/save {tmp_path}/chat.json\n".encode())
        screen.wait_for(b"[2 messages written")
        screen.wait_for(b"\n> ")
        said = json.loads((tmp_path / "chat.json").read_text())
        assert len(said[1]["content"]) >= 2
        screen.type(b"and then\n")
        screen.wait_for(b"and then\r\n")
        screen.wait_for(b"e")
        for _ in range(3):  # an impatient user does not lose the chat
            screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"stopped]")
        screen.wait_for(b"\n> ")  # before, the terminal itself would take Ctrl-D
        screen.type(b"\x04")
        assert screen.process.wait(60) == 0
