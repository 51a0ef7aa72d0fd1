"""Batches with options a line, results in a file, interruptions; kept prompts; context shifts; draft models."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
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
    shown = commands.infer(model, "--batch-file", batch, *RULES, "--json", "--max-batch-size", "2").text.splitlines()
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
    assert f"Resumed: {len(LINES)} of {len(LINES)} texts are finished" in again.stderr.splitlines()
    assert part.read_bytes() == kept
    fresh = commands.infer(model, "--batch-file", batch, "--output", tmp_path / "new.jsonl", "--resume", *RULES)
    assert (fresh.code, results(tmp_path / "new.jsonl")) == (0, results(whole))


def test_an_interrupted_batch_goes_on(commands: Any, endless: Path, tmp_path: Path) -> None:
    """After Ctrl-C and after a kill: finished results are kept, the others are made later."""
    lines = [{"prompt": f"the cat {i}", "max_tokens": 5 if i % 2 else 150} for i in range(8)]
    batch = write_jsonl(tmp_path / "batch.jsonl", lines)
    options = ("--batch-file", batch, "--temperature", "0", "--max-batch-size", "2", "--threads", "1", "-q")
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
    assert re.search(r"^\d prompts, \d tokens in \d+\.\d\d s \(\d+\.\d tokens/s\)$", stderr, re.M), stderr


# ---- lines that are wrong

BAD = [
    ('{"prompt": "a"', "expected JSON: Expecting ',' delimiter"),
    ("[1]", "expected a JSON object, got [1]"),
    ("{}", "expected a prompt"),
    ('{"prompt": " "}', "expected a prompt"),
    ('{"prompt": 5}', "prompt must be a text, got 5"),
    ('{"prompt": "a", "temprature": 1}', "unknown key 'temprature', did you mean temperature?"),
    ('{"prompt": "a", "heat": 1}', "unknown key 'heat', expected adapter, frequency_penalty, "),
    ('{"prompt": "a", "messages": []}', "expected a prompt or messages, got both"),
    ('{"prompt": "a", "temperature": "hot"}', "temperature must be a number, got 'hot'"),
    ('{"prompt": "a", "temperature": -1}', "temperature must be a finite number >= 0.0, got -1"),
    ('{"prompt": "a", "min_p": 1' + "0" * 350 + "}", "min_p must be a number below 1.8e308, got an integer of"),
    ('{"prompt": "a", "seed": 1' + "0" * 900 + "}", "expected integers of at most 640 digits, got one of 901"),
    ('{"prompt": "a", "presence_penalty": 1e999}', "presence_penalty must be a finite number, got inf"),
    ('{"prompt": "a", "max_tokens": true}', "max_tokens must be a whole number, got True"),
    ('{"prompt": "a", "max_tokens": 3.0}', "max_tokens must be a whole number, got 3.0"),
    ('{"prompt": "a", "max_tokens": -1}', "max_tokens must be >= 0, got -1"),
    ('{"prompt": "a", "stop": [1]}', "stop must be a text, got 1"),
    ('{"prompt": "a", "stop_ids": [18446744073709551616]}', "stop_ids must be token ids, got 18446744073709551616"),
    ('{"prompt": "a", "stop_ids": [5000]}', "stop_ids must be token ids below "),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias must be token ids, got 'x'"),
    ('{"prompt": "a", "logit_bias": {"3": "1"}}', "logit_bias must be a number, got '1'"),
    ('{"prompt": "a", "order": "top_p"}', "order must be a list of names, got 'top_p'"),
    ('{"prompt": "\\udc00"}', "prompt must be Unicode characters, got half a surrogate pair"),
    ('{"prompt": "a", "stop": ["b", "\\ud900"]}', "stop must be Unicode characters, got half a surrogate pair"),
    ('{"prompt": "a", "regex": "\\uD8ab"}', "regex must be Unicode characters, got half a surrogate pair"),
    ('{"prompt": "a", "id": "\\ud83d"}', "id must be Unicode characters, got half a surrogate pair"),
    ('{"prompt": "a", "id": [1]}', "id must be a text or a whole number, got [1]"),
    ('{"prompt": "a", "schema": "{}"}', "schema must be an object, got '{}'"),
    ('{"prompt": "a", "regex": "b", "grammar": "c"}', "expected one of schema, regex and grammar"),
    ('{"prompt": "' + "a " * 200 + '"}', "Sequence length exceeded: max=128"),
]
"""Lines, and the beginnings of their errors."""


def write_bad(path: Path, lines: list[str]) -> Path:
    """A batch of these lines, each with a good one before it."""
    path.write_text("".join(f'{{"prompt": "the cat", "id": {n}}}\n\n{line}\n' for n, line in enumerate(lines)))
    return path


def test_a_bad_line_is_that_lines_error(commands: Any, model: Path, tmp_path: Path) -> None:
    batch = write_bad(tmp_path / "batch.jsonl", [line for line, _ in BAD])
    out = tmp_path / "out.jsonl"
    result = commands.infer(model, "--batch-file", batch, "--output", out, *RULES)
    assert (result.code, result.stdout) == (1, b"")
    assert (
        result.error
        == f"Error: {len(BAD)} of {2 * len(BAD)} prompts failed, the first: line 3: {results(out)[1]['error']}"
    )
    found = results(out)
    assert sorted(found) == list(range(2 * len(BAD)))
    assert {found[2 * n]["text"] for n in range(len(BAD))} == {found[0]["text"]}
    for number, (_, message) in enumerate(BAD):
        failed = found[2 * number + 1]
        assert failed["error"].startswith(message)
        assert len(failed["error"]) < 500
        assert "\n" not in failed["error"]
        assert (failed["line"], failed["finish_reason"]) == (3 * number + 3, "error")
    shown = commands.infer(model, "--batch-file", batch, "--json", *RULES)
    assert (shown.code, shown.error) == (1, result.error)
    listed = [json.loads(line) for line in shown.text.splitlines()]
    assert [line["index"] for line in listed] == list(range(2 * len(BAD)))
    assert [line.get("error") for line in listed] == [found[index].get("error") for index in range(2 * len(BAD))]


def test_without_json_stderr_tells_of_bad_lines(commands: Any, model: Path, tmp_path: Path) -> None:
    batch = write_bad(tmp_path / "batch.jsonl", [line for line, _ in BAD[:3]])
    good = write_jsonl(tmp_path / "good.jsonl", [{"prompt": "the cat"}])
    text = commands.infer(model, "--batch-file", good, *RULES).text.removeprefix("[0]")
    result = commands.infer(model, "--batch-file", batch, *RULES)
    assert (result.code, result.text) == (1, "".join(f"[{index}]{text}" for index in (0, 2, 4)))
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines):
        assert line.startswith(f"Error: line {3 * number + 3}: {BAD[number][1]}")
    words = tmp_path / "words.txt"
    words.write_bytes(b"\xef\xbb\xbfthe cat\n\xff\n" + b"the cat")
    result = commands.infer(model, "--batch-file", words, *RULES)
    assert (result.code, result.text) == (1, f"[0]{text}[2]{text}")
    assert result.error == "Error: line 2: expected UTF-8, got byte 0xff at offset 0"


def test_a_mended_line_is_made_by_resume(commands: Any, model: Path, tmp_path: Path) -> None:
    batch, out = tmp_path / "batch.jsonl", tmp_path / "out.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt": "the cat"}, {"prompt": "in the hat", "top_p": 7, "id": "mended"}, {"prompt": "a", "seed": "x"},
    ]  # fmt: skip
    options = ("--batch-file", batch, "--output", out, *RULES)
    write_jsonl(batch, lines)
    assert commands.infer(model, *options).code == 1
    again = commands.infer(model, *options, "--resume")
    assert (again.code, again.error[:32]) == (1, "Error: 2 of 3 prompts failed, th")
    assert results(out)[1] == {
        "index": 1, "id": "mended", "line": 2, "finish_reason": "error",
        "error": "top_p must be in (0.0, 1.0], got 7 (1 is off)",
    }  # fmt: skip
    del lines[1]["top_p"]
    write_jsonl(batch, lines)
    assert commands.infer(model, *options, "--resume").code == 1
    assert [results(out)[index]["finish_reason"] for index in range(3)] == ["length", "length", "error"]
    assert results(out)[1]["id"] == "mended"
    del lines[2]["seed"]
    write_jsonl(batch, lines)
    assert commands.infer(model, *options, "--resume").code == 0
    lines[0]["top_k"] = 1.5
    write_jsonl(batch, lines)
    assert "line 1: expected no text for index 0, found " in commands.infer(model, *options, "--resume").error


def test_a_text_that_fails_ends_alone(commands: Any, model: Path, tmp_path: Path) -> None:
    """Errors that show when a text begins, and in the middle of one."""
    pytest.importorskip("llguidance")
    with pyml_nlp.load(model) as lm:
        never = {str(token): "-inf" for token in (*lm.ids("x"), *lm.ids("y"))}
    biases = json.dumps(never).replace('"-inf"', "-Infinity")
    bad = ['{"prompt": "a", "regex": "("}', f'{{"prompt": "a", "regex": "a[xy]b", "logit_bias": {biases}}}']
    out = tmp_path / "out.jsonl"
    batch = write_bad(tmp_path / "batch.jsonl", [*bad, *bad])
    assert commands.infer(model, "--batch-file", batch, "--output", out, *RULES).code == 1
    found = results(out)
    assert found[1]["error"].startswith("regex: ")
    assert found[3]["error"].startswith("logit_bias leaves no token that could stand at position ")
    assert [found[index]["text"] for index in (0, 2, 4, 6)] == [found[0]["text"]] * 4
    assert (found[5]["error"], found[7]["error"]) == (found[1]["error"], found[3]["error"])


def test_options_that_are_null_are_not_given(commands: Any, model: Path, tmp_path: Path) -> None:
    names = ("id", "max_tokens", "temperature", "top_k", "seed", "stop", "stop_ids", "logit_bias", "order", "overflow")
    nulls = dict.fromkeys((*names, "keep", "logprobs", "sample", "include_stop", "schema", "regex", "grammar"))
    off = {"top_k": -1, "top_p": 1, "min_p": 0, "typical_p": 1, "repetition_penalty": 1, "frequency_penalty": 0}
    lines: list[dict[str, Any]] = [
        {"prompt": "the cat"},
        {"prompt": "the cat", **nulls},
        {"prompt": "the cat", **off, "seed": -1},
    ]
    lines += [{"prompt": "the cat", "top_k": 0, "logit_bias": {"5": 0}}]
    batch, out = write_jsonl(tmp_path / "batch.jsonl", lines), tmp_path / "out.jsonl"
    assert commands.infer(model, "--batch-file", batch, "--output", out, *RULES).code == 0
    found = results(out)
    assert all(found[index] | {"index": 0} == found[0] for index in range(len(lines)))


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
        (("--max-batch-size", "2"), "--max-batch-size is supported with --batch-file, --n and --best-of alone"),
        (("--resume",), "--resume is supported with --output alone"),
        (("--n-keep", "4"), "--n-keep is supported with --overflow shift alone"),
        (("--overflow", "wrap"), "invalid value 'wrap' for '--overflow': expected one of error, shift"),
    ],
)
def test_usage(options: tuple[str, ...], message: str, commands: Any, model: Path) -> None:
    result = commands.infer(model, "--prompt", "x", *options)
    assert (result.code, result.error) == (2, f"Error: {message}")


# ---- kept prompts, context shifts, draft models


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
    assert f"{cache}: cannot load the KV cache: expected a KV cache of pyml, found another file" in result.error
    assert cache.read_bytes() == b"nothing"


def test_a_prompt_cache_of_another_model(
    commands: Any, model: Path, tiny_dirs: dict[str, Path], tmp_path: Path
) -> None:
    """Results of another file, of the same one loaded differently, of another CPU level: refused and left unchanged."""
    cache = tmp_path / "prompt.cache"
    options = ("--prompt", "the cat in the hat", "--max-tokens", "2", "--prompt-cache", cache, "-q")
    assert commands.infer(model, *options).code == 0
    before = cache.read_bytes()
    another = "of this model, found one of another model or of other types of weights"
    cases: list[tuple[tuple[object, ...], dict[str, str], str]] = [
        ((tiny_dirs["gpt2_head20"],), {}, another),
        ((model, "--dtype", "bf16"), {}, another),
        ((model, "--kv-dtype", "f32"), {}, "in f32, found one in "),
        ((model,), {"PYML_CPU_LEVEL": "scalar"}, f"of CPU level scalar, found one of '{level()}'"),
    ]
    for arguments, environment, problem in cases if level() != "scalar" else cases[:-1]:
        result = commands.infer(*arguments, *options, env=environment)
        assert (result.code, result.stdout) == (1, b"")
        assert result.error.startswith(f"Error: {cache}: cannot load the KV cache: expected a KV cache {problem}")
        assert result.error.endswith(" (delete the file, or name another one)")
    assert cache.read_bytes() == before


def test_a_context_shift(commands: Any, model: Path) -> None:
    prompt = "the cat in the hat " * 20
    options = ("--prompt", prompt, "--max-tokens", "200", "--temperature", "0", "--json", "-q")
    refused = commands.infer(model, *options)
    assert refused.code == 1
    assert "Sequence length exceeded: max=128" in refused.error
    found = json.loads(commands.infer(model, *options, "--overflow", "shift", "--n-keep", "4").text)
    assert found["tokens"] == 200 or found["finish_reason"] == "stop"
    plain = commands.infer(model, *options, "--overflow", "shift", "--n-keep", "4", "--no-speculation").text
    assert json.loads(plain)["text"] == found["text"]


def test_a_draft_model(commands: Any, model: Path, tiny_dirs: dict[str, Path]) -> None:
    options = ("--prompt", "the cat in the hat", "--max-tokens", "20", "--temperature", "0", "-q")
    expected = commands.infer(model, *options).text
    assert commands.infer(model, *options, "--draft-model", model).text == expected
    other = commands.infer(model, *options, "--draft-model", tiny_dirs["gemma3"])
    assert other.code == 1
    assert "expected the vocabulary of" in other.error
