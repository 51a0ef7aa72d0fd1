"""``--chat`` and ``--interactive``, through pipes and on a terminal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp.language_model import LanguageModel
from tests.cli.chats import GREEDY, answer, conversation, with_template

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


def test_messages_in_a_batch(commands: Any, instruct: Path, model: Path, lm: LanguageModel, tmp_path: Path) -> None:
    """Lines with messages are chats, with or without --chat; other lines are what that says."""
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
    lines: list[dict[str, Any]] = [{"messages": said, "id": "a"}, {"prompt": "in the hat"}]
    (tmp_path / "batch.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain = lm.generate_text("in the hat", 6, temperature=0)
    for flags, second in (((), plain), (("--chat",), answer(lm, "in the hat"))):
        result = commands.infer(instruct, *GREEDY, *flags, "--batch-file", tmp_path / "batch.jsonl", "--json")
        found = [json.loads(line) for line in result.text.splitlines()]
        assert [line["text"] for line in found] == [answer(lm, said), second]
        assert (found[0]["id"], found[0]["prompt_tokens"]) == ("a", len(lm.chat_ids(said)))
    refused = commands.infer(model, *GREEDY, "--batch-file", tmp_path / "batch.jsonl", "-q")
    assert refused.code == 1
    assert refused.error.startswith("Error: line 1: ")
    assert "the model has no chat template" in refused.error
    assert refused.text.startswith("[1] ")


def test_no_template(commands: Any, model: Path) -> None:
    for flag in ("--chat", "--interactive"):
        result = commands.infer(model, flag, "-q", stdin=b"Hi")
        assert (result.code, result.stdout) == (1, b"")
        assert "the model has no chat template" in result.error
        assert "HuggingFaceTB/SmolLM2-135M-Instruct" in result.error


def test_the_template_is_looked_for_before_weights_are_read(commands: Any, tiny_ggufs: dict[str, Path]) -> None:
    result = commands.run("pyml", "chat", tiny_ggufs["gemma3"], env={"PYML_LOG": "info"}, stdin=b"")
    assert result.code == 1
    assert "the model has no chat template" in result.stderr
    assert "Loading tensors" not in result.stderr


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
        "[5 messages written to chat.json]", "Error: expected /save FILE",
        "  /clear            forget the chat but for the system message",
        "Error: no/where: the chat cannot be written: No such file or directory",
        "Error: there is no command /nothing; /help shows them all", "Error: chat template: Not that",
    ):  # fmt: skip
        assert line in result.stderr
    assert result.stderr.count("tokens/s), cut off by max_tokens]") == 3


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


# ---- pyml chat


def test_load_and_save(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    said = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the cat"}]
    said.append({"role": "assistant", "content": answer(lm, said)})
    (tmp_path / "chat.json").write_text(json.dumps(said))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "roles.json").write_text('[{"role": "a|b", "content": ""}]')
    stdin = "/load list.json\n/load roles.json\n/load none.json\n/load\n/load chat.json\nand\n/save after.json\n"
    result = commands.run("pyml", "chat", instruct, *GREEDY, stdin=stdin.encode(), cwd=tmp_path)
    assert result.code == 0
    expected = answer(lm, [*said, {"role": "user", "content": "and"}])
    assert result.text == f"{expected}\n"
    assert len(json.loads((tmp_path / "after.json").read_text())) == 5
    for line in (
        "Error: list.json: expected a JSON list of messages, each an object",
        "Error: messages[0]: role: expected a word such as 'user', got 'a|b'",
        "Error: none.json: No such file or directory", "Error: expected /load FILE",
        "[3 messages read from chat.json]", "[5 messages written to after.json]",
    ):  # fmt: skip
        assert line in result.stderr.splitlines()
    begun = commands.run("pyml", "chat", instruct, *GREEDY, "-q", "--load", "chat.json", stdin=b"and\n", cwd=tmp_path)
    assert (begun.stdout, begun.stderr) == (result.stdout, "")
    refused = commands.run("pyml", "chat", instruct, "-q", "--load", "list.json", stdin=b"and\n", cwd=tmp_path)
    assert (refused.code, refused.error) == (1, "Error: list.json: expected a JSON list of messages, each an object")


def test_retry(commands: Any, instruct: Path, lm: LanguageModel, tmp_path: Path) -> None:
    """Another answer, of the same message; the earlier one is forgotten."""
    rules = ("--temperature", "2", "--seed", "3", "--max-tokens", "6", "--threads", "1")
    stdin = b"/retry\nthe cat\n/retry\n/retry\n/save chat.json\nand\n"
    result = commands.run("pyml", "chat", instruct, *rules, stdin=stdin, cwd=tmp_path)
    assert result.stderr.count("Error: there is no message to answer again") == 1
    options: dict[str, Any] = {"temperature": 2, "seed": 3, "max_tokens": 6}
    answers = [lm.chat_text("the cat", **options, sample_index=index) for index in range(3)]
    assert len(set(answers)) == 3
    said = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": answers[2]}]
    last = lm.chat_text([*said, {"role": "user", "content": "and"}], **options)
    assert result.text == "".join(f"{text}\n" for text in [*answers, last])
    assert json.loads((tmp_path / "chat.json").read_text()) == said


def test_set_and_tokens(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    stdin = (
        "/set\n/set temperature 0\n/set max-tokens 3\n/set top-k\n/tokens\nthe cat\n/tokens\n"
        "/set temprature 1\n/set temperature -1\n/set temperature hot\n/set stop xyz\n/tokn\n"
    )
    result = commands.run("pyml", "chat", instruct, "--threads", "1", stdin=stdin.encode())
    assert result.text == lm.chat_text("the cat", max_tokens=3, temperature=0) + "\n"
    prompt = len(lm.chat_ids("the cat"))
    for line in (
        "  temperature 0.8", "  max_tokens 128", "  seed off", "[temperature 0.0]", "[max_tokens 3]", "  top_k off",
        "[0 messages, 0 of 128 tokens of the context]", f"[2 messages, {prompt + 2} of 128 tokens of the context]",
        "Error: /set temperature: must be a finite number >= 0.0, got -1",
        "Error: /set temperature: must be a number, got 'hot'", '[stop ["xyz"]]',
        "Error: there is no command /tokn; did you mean /tokens?",
    ):  # fmt: skip
        assert line in result.stderr.splitlines()
    assert "Error: /set temprature: did you mean temperature?" in result.stderr


def test_answers_end_where_the_model_ends_them(commands: Any, instruct: Path, lm: LanguageModel) -> None:
    """Without --max-tokens, or where the context is full."""
    expected = lm.chat("the cat", max_tokens=1000, temperature=0)
    text = "".join(step.text for step in expected)
    greedy = ("--temperature", "0", "--threads", "1")
    result = commands.run("pyml", "chat", instruct, *greedy, stdin=b"the cat\n")
    assert result.text == text + "\n"
    assert ("the context is full: /clear begins a new chat" in result.stderr) == (expected.finish_reason == "length")
    assert commands.infer(instruct, *greedy, "--interactive", stdin=b"the cat\n").text == result.text
