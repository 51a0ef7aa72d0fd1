"""Batches with options a line, results in a file, interruptions; kept prompts; rolling contexts; draft models."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pyml_core.cpu import level

RULES = ("--max-tokens", "8", "--temperature", "0", "-q")
LINES: list[dict[str, Any]] = [
    {"prompt": "the cat"},
    {"prompt": "in the hat", "max_tokens": 3, "id": "short"},
    {"prompt": "the cat", "temperature": 1.5, "seed": 7, "top_k": 50},
    {"prompt": "ünï", "id": 4},
    {"prompt": "the cat", "stop": ["e"], "logprobs": 1},
    {"prompt": "to be or not", "logit_bias": {"5": 3.5}, "repetition_penalty": 1.2},
]


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def results(path: Path) -> dict[int, dict[str, Any]]:
    """The lines by index, without times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["index"] for line in found}) == len(found)
    return {line["index"]: {k: v for k, v in line.items() if not k.endswith("_ms")} for line in found}


def test_options_of_lines(commands: Any, model: Path, tmp_path: Path) -> None:
    """Each text is that of its own run with these options."""
    batch = write_jsonl(tmp_path / "batch.jsonl", LINES)
    result = commands.infer(model, "--batch-file", batch, "--output", tmp_path / "out.jsonl", *RULES)
    assert (result.code, result.stdout, result.stderr) == (0, b"", "")
    found = results(tmp_path / "out.jsonl")
    assert sorted(found) == list(range(len(LINES)))
    assert (found[1]["id"], found[3]["id"], found[1]["tokens"]) == ("short", 4, 3)
    assert "id" not in found[0]
    assert len(found[4]["logprobs"]) == found[4]["tokens"]
    alone = [
        ("--prompt", "the cat"), ("--prompt", "in the hat", "--max-tokens", "3"),
        ("--prompt", "the cat", "--temperature", "1.5", "--seed", "7", "--top-k", "50"),
        ("--prompt", "ünï"), ("--prompt", "the cat", "--stop", "e"),
        ("--prompt", "to be or not", "--logit-bias", "5=3.5", "--repetition-penalty", "1.2"),
    ]  # fmt: skip
    for index, options in enumerate(alone):
        assert commands.infer(model, *RULES, *options).text == found[index]["text"]
    shown = commands.infer(model, "--batch-file", batch, *RULES, "--json", "--together", "2").text.splitlines()
    assert [json.loads(line)["text"] for line in shown] == [found[index]["text"] for index in range(len(LINES))]


def test_resume(commands: Any, model: Path, tmp_path: Path) -> None:
    batch = write_jsonl(tmp_path / "batch.jsonl", LINES)
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    commands.infer(model, "--batch-file", batch, "--output", whole, *RULES)
    lines = whole.read_bytes().splitlines(keepends=True)
    cut_short = json.loads(lines[3]) | {"finish_reason": "timeout", "text": ""}
    for left in (b"", lines[0][:-5], b"".join(lines[:2]) + lines[2][:20], b"".join([lines[4], lines[1]])):
        part.write_bytes(left)
        result = commands.infer(model, "--batch-file", batch, "--output", part, "--resume", *RULES)
        assert (result.code, result.stderr) == (0, "")
        assert results(part) == results(whole)
    part.write_bytes(lines[0] + json.dumps(cut_short).encode() + b"\n")
    assert commands.infer(model, "--batch-file", batch, "--output", part, "--resume", *RULES).code == 0
    assert results(part) == results(whole)
    kept = part.read_bytes()
    again = commands.infer(model, "--batch-file", batch, "--output", part, "--resume", *RULES[:-1])
    assert again.code == 0
    assert f"  Resumed: {len(LINES)} of them are finished" in again.stderr.splitlines()
    assert part.read_bytes() == kept
    fresh = commands.infer(model, "--batch-file", batch, "--output", tmp_path / "new.jsonl", "--resume", *RULES)
    assert (fresh.code, results(tmp_path / "new.jsonl")) == (0, results(whole))


def test_an_interrupted_batch_goes_on(commands: Any, endless: Path, tmp_path: Path) -> None:
    """After Ctrl-C and after a kill: what was finished is there, the rest is made up for."""
    lines = [{"prompt": f"the cat {i}", "max_tokens": 5 if i % 2 else 150} for i in range(8)]
    batch = write_jsonl(tmp_path / "batch.jsonl", lines)
    options = ("--batch-file", batch, "--temperature", "0", "--together", "2", "--threads", "1", "-q")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert commands.infer(endless, *options, "--output", whole).code == 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        resume = ["--resume"] if part.exists() else []
        with commands.start("pyml-infer", endless, *options, "--output", part, *resume) as process:
            deadline = time.monotonic() + 60
            while not (part.exists() and part.read_bytes().count(b"\n") > len(resume)) and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(number)
            process.communicate(timeout=60)
        assert process.returncode in (code, 0)  # 0: it was done before
        assert all(line["finish_reason"] == "length" for line in results(part).values())
    assert commands.infer(endless, *options, "--output", part, "--resume").code == 0
    assert results(part) == results(whole)


def test_speed_is_told(commands: Any, model: Path, tmp_path: Path) -> None:
    batch = write_jsonl(tmp_path / "batch.jsonl", LINES[:2])
    stderr = commands.infer(model, "--batch-file", batch, "--temperature", "0", "--max-tokens", "2").stderr
    assert re.search(r"^  \d tokens \(\d+\.\d tokens/sec\)$", stderr, re.M), stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "line 2: expected a JSON object ("),
        ("[1]", "line 2: expected a JSON object, found [1]"),
        ("{}", "line 2: expected a prompt"),
        ('{"prompt": " "}', "line 2: expected a prompt"),
        ('{"prompt": 5}', "line 2: prompt: expected a string, found 5"),
        ('{"prompt": "a", "temprature": 1}', "line 2: unknown key 'temprature', expected frequency_penalty, "),
        ('{"prompt": "a", "temperature": "hot"}', 'line 2: temperature: expected a number, found "hot"'),
        ('{"prompt": "a", "max_tokens": true}', "line 2: max_tokens: expected a whole number, found true"),
        ('{"prompt": "a", "stop": [1]}', "line 2: stop: expected a string or a list of strings, found [1]"),
        ('{"prompt": "a", "temperature": -1}', "prompt 1: temperature must be >= 0.0, got -1"),
        ('{"prompt": "a", "max_tokens": -1}', "prompt 1: max_tokens must be >= 0, got -1"),
        ('{"prompt": "a", "logit_bias": {"x": 1}}', "line 2: logit_bias: expected an object of token ids and numbers"),
    ],
)
def test_bad_lines(line: str, message: str, commands: Any, model: Path, tmp_path: Path) -> None:
    (tmp_path / "batch.jsonl").write_text('{"prompt": "fine"}\n' + line + "\n")
    result = commands.infer(model, "--batch-file", tmp_path / "batch.jsonl", "--output", tmp_path / "out.jsonl", "-q")
    assert (result.code, result.stdout) == (1, b"")
    assert message in result.error
    assert not (tmp_path / "out.jsonl").exists()


def test_bad_outputs(commands: Any, model: Path, tmp_path: Path) -> None:
    batch = write_jsonl(tmp_path / "batch.jsonl", LINES[:2])
    out = tmp_path / "out.jsonl"

    def error(*options: object) -> str:
        result = commands.infer(model, "--batch-file", batch, *RULES, "--output", *options)
        assert result.code == 1
        return str(result.error)

    assert error(tmp_path / "missing" / "out.jsonl").endswith("cannot be written: No such file or directory")
    out.write_text("mine\n")
    assert error(out) == f"Error: {out}: the file exists (--resume goes on with it)"
    assert error(out, "--resume") == f"Error: {out} line 1: expected a result of this batch of 2 prompts"
    assert out.read_text() == "mine\n"
    out.write_text('{"index": 1, "prompt_tokens": 999, "finish_reason": "stop"}\n')
    assert "prompt_tokens for index 1, found 999: it is of another batch" in error(out, "--resume")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--output", "x.jsonl"), "--output is supported with --batch-file alone"),
        (("--together", "2"), "--together is supported with --batch-file alone"),
        (("--resume",), "--resume is supported with --output alone"),
        (("--keep", "4"), "--keep is supported with --overflow roll alone"),
        (("--overflow", "wrap"), "invalid value 'wrap' for '--overflow': expected one of error, roll"),
    ],
)
def test_usage(options: tuple[str, ...], message: str, commands: Any, model: Path) -> None:
    result = commands.infer(model, "--prompt", "x", *options)
    assert (result.code, result.error) == (2, f"Error: {message}")


# ---- kept prompts, rolling contexts, draft models


def test_a_prompt_cache(commands: Any, model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "prompt.cache"
    story = "the quick brown fox jumps over the lazy dog"
    options = ("--max-tokens", "6", "--temperature", "0")
    for prompt in (story, story, story + " and runs"):
        expected = commands.infer(model, "--prompt", prompt, *options, "-q").text
        assert commands.infer(model, "--prompt", prompt, *options, "--prompt-cache", cache, "-q").text == expected
    told = commands.infer(model, "--prompt", story, *options, "--prompt-cache", cache, "-v").stderr
    assert "  Prompt cache: " in told
    assert "generator.prefill tokens=1 " in told
    cache.write_bytes(b"nothing")
    result = commands.infer(model, "--prompt", story, *options, "--prompt-cache", cache, "-q")
    assert (result.code, result.stdout) == (1, b"")
    assert str(cache) in result.error
    assert cache.read_bytes() == b"nothing"


def test_a_prompt_cache_of_another_model(
    commands: Any, model: Path, tiny_dirs: dict[str, Path], tmp_path: Path
) -> None:
    """Of another file, of the same one loaded in another way, of another CPU level: refused, and left as it is."""
    cache = tmp_path / "prompt.cache"
    options = ("--prompt", "the cat in the hat", "--max-tokens", "2", "--prompt-cache", cache, "-q")
    assert commands.infer(model, *options).code == 0
    before = cache.read_bytes()
    cases: list[tuple[tuple[object, ...], dict[str, str], str]] = [
        ((tiny_dirs["gpt2_head20"],), {}, "model"),
        ((model, "--dtype", "bf16"), {}, "model"),
        ((model, "--kv-dtype", "f32"), {}, "dtype"),
        ((model,), {"PYML_CPU_LEVEL": "scalar"}, "level"),
    ]
    for arguments, environment, key in cases if level() != "scalar" else cases[:-1]:
        result = commands.infer(*arguments, *options, env=environment)
        assert (result.code, result.stdout) == (1, b"")
        assert f"{cache}: cannot load the KV cache: metadata {key}: expected " in result.error
    assert cache.read_bytes() == before


def test_a_rolling_context(commands: Any, model: Path) -> None:
    prompt = "the cat in the hat " * 20
    options = ("--prompt", prompt, "--max-tokens", "200", "--temperature", "0", "--json", "-q")
    refused = commands.infer(model, *options)
    assert refused.code == 1
    assert "Sequence length exceeded: max=128" in refused.error
    found = json.loads(commands.infer(model, *options, "--overflow", "roll", "--keep", "4").text)
    assert found["tokens"] == 200 or found["finish_reason"] == "stop"
    plain = commands.infer(model, *options, "--overflow", "roll", "--keep", "4", "--no-speculation").text
    assert json.loads(plain)["text"] == found["text"]


def test_a_draft_model(commands: Any, model: Path, tiny_dirs: dict[str, Path]) -> None:
    options = ("--prompt", "the cat in the hat", "--max-tokens", "20", "--temperature", "0", "-q")
    expected = commands.infer(model, *options).text
    assert commands.infer(model, *options, "--draft-model", model).text == expected
    other = commands.infer(model, *options, "--draft-model", tiny_dirs["gemma3"])
    assert other.code == 1
    assert "expected the vocabulary of" in other.error
