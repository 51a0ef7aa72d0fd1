"""Every kind of bad input: one line on stderr, nothing on stdout, and the right exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

P = ("--prompt", "x")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temperature", "-1", *P), "--temperature must be a finite number >= 0.0, got -1"),
        (("--temperature", "nan", *P), "--temperature must be a finite number >= 0.0, got nan"),
        (("--temperature", "abc", *P), "invalid value 'abc' for '--temperature': expected a number"),
        (("--top-k", "-2", *P), "--top-k must be > 0, got -2 (0 and -1 are off)"),
        (("--top-k", "1.5", *P), "invalid value '1.5' for '--top-k': expected a whole number"),
        (("--top-p", "1.5", *P), "--top-p must be in (0.0, 1.0], got 1.5 (1 is off)"),
        (("--top-p", "0", *P), "--top-p must be in (0.0, 1.0], got 0 (1 is off)"),
        (("--repetition-penalty", "0", *P), "--repetition-penalty must be a finite number > 0.0, got 0 (1 is off)"),
        (("--min-p", "2", *P), "--min-p must be in [0.0, 1.0], got 2 (0 is off)"),
        (("--typical-p", "0", *P), "--typical-p must be in (0.0, 1.0], got 0 (1 is off)"),
        (("--presence-penalty", "inf", *P), "--presence-penalty must be a finite number, got inf"),
        (
            ("--logit-bias", "x=1", *P),
            "invalid value 'x=1' for '--logit-bias': expected a token id and a number, such as 13=-2.5",
        ),
        (("--logit-bias", "1=nan", *P), "--logit-bias must be a number below infinity, got nan for token 1"),
        (
            ("--top-k", "3", "--temperature", "0.5", "--sampler-order", "top_k", *P),
            "--sampler-order must name all rules in use, temperature missing",
        ),
        (("--stop", "", *P), "--stop must not be empty"),
        (("--stop-id", "x", *P), "invalid value 'x' for '--stop-id': expected a token id"),
        (("--logprobs", "-1", "--json", *P), "--logprobs must be >= 0, got -1"),
        (("--logprobs", "1", *P), "--logprobs is supported with --json alone"),
        (("--regex", "a", "--json-schema", "{}", *P), "the argument '--json-schema' cannot be used with '--regex'"),
        (("--regex", "", *P), "regex: expected one, got an empty text"),
        (
            ("--json-schema", "{", *P),
            "schema: expected JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        (("--timeout", "0", *P), "--timeout must be > 0.0, got 0"),
        (("--timeout", "-1", *P), "--timeout must be > 0.0, got -1"),
        (("--context-len", "0", *P), "--context-len must be > 0, got 0"),
        (("--threads", "0", *P), "--threads must be > 0, got 0"),
        (("--seed", "-2", *P), "--seed must be in 0 .. 2**64 - 1, got -2 (-1 is random)"),
        (("--max-tokens", "-1", *P), "--max-tokens must be >= 0, got -1"),
        (("--max-tokens", "xyz", *P), "invalid value 'xyz' for '--max-tokens': expected a whole number"),
        (("--dtype", "q9", *P), "invalid value 'q9' for '--dtype': expected one of auto, f32, bf16, q8_0, q4_0"),
        (("--nonsense", *P), "unexpected argument '--nonsense' found; pyml-infer --help lists the options"),
        (
            ("--" + "x" * 999, *P),
            f"unexpected argument '--{'x' * 73}...' found; pyml-infer --help lists the options",
        ),
        (
            ("--max-tokens", "9" * 5000, *P),
            f"invalid value '{'9' * 75}...' for '--max-tokens': expected a whole number",
        ),
        (
            ("--seed", str(1 << 64), *P),
            "invalid value '18446744073709551616' for '--seed': expected a whole number of at most 64 bits",
        ),
        (("--context-len", str(-(1 << 63)), *P), "--context-len must be > 0, got -9223372036854775808"),
        (("--stop-id", "-1", *P), "invalid value '-1' for '--stop-id': expected a token id"),
        (("one", "two", *P), "Got unexpected extra argument (two)"),
        (("--prompt",), "Option '--prompt' requires an argument."),
        (("m", "--safetensors", "s", *P), "the argument '[MODEL]' cannot be used with '--safetensors <ID_OR_DIR>'"),
        ((*P, "--batch-file", "f"), "the argument '--prompt <TEXT>' cannot be used with '--batch-file <PATH>'"),
        (("--stream", "--batch-file", "f"), "--stream is not supported with --batch-file"),
        (("--stream", "--json", *P), "the argument '--stream' cannot be used with '--json'"),
        (("-v", "-q", *P), "the argument '--verbose' cannot be used with '--quiet'"),
        (("", *P), "invalid value '' for 'MODEL': expected a file, a folder or a hub id"),
        (("--prompt", b"\xff"), "invalid value for '--prompt': expected UTF-8"),
        (("-q",), "No prompt provided (use --prompt or pipe text to stdin)"),
    ],
)
def test_command_lines(arguments: tuple[Any, ...], message: str, commands: Any) -> None:
    decoded = [part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part for part in arguments]
    result = commands.infer(*decoded)
    assert (result.code, result.stdout) == (2, b"")
    assert result.error == f"Error: {message}"


def test_stdin_that_is_no_utf8(commands: Any) -> None:
    result = commands.infer("-q", stdin=b"abc\xff")
    assert (result.code, result.error) == (2, "Error: stdin: expected UTF-8, got byte 0xff at offset 3")


def test_ranges_come_before_files(commands: Any) -> None:
    assert commands.infer("missing.gguf", "--top-k", "-2", *P).code == 2


def test_batch_files(commands: Any, tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing.txt", tmp_path / "empty.txt"
    empty.write_text("\n \n")
    for path, message in (
        (missing, f"Failed to read batch file: {missing}: No such file or directory"),
        (empty, f"Batch file is empty: {empty}"),
    ):
        result = commands.infer("no-model-is-looked-for.gguf", "--batch-file", path)
        assert (result.code, result.error) == (1, f"Error: {message}")


# ---- models


def failing(commands: Any, *arguments: object, code: int = 1, **options: Any) -> str:
    """The one line of an infer that fails."""
    result = commands.infer(*arguments, *P, "-q", **options)
    assert (result.code, result.stdout) == (code, b"")
    return str(result.error)


def test_missing_gguf(commands: Any, tmp_path: Path) -> None:
    path = tmp_path / "missing.gguf"
    assert failing(commands, path) == (
        f"Error: {path}: there is no such file or folder, and a hub id would be organisation/name or "
        "organisation/name/file.gguf"
    )
    (tmp_path / "tiny-model.gguf").touch()
    assert failing(commands, tmp_path / "tiny-modle.gguf").endswith(f"; did you mean {tmp_path}/tiny-model.gguf?")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Invalid GGUF magic: expected b'GGUF', got b''"),
        (b"not a model", "Invalid GGUF magic: expected b'GGUF', got b'not '"),
        (b"GGUF\x01\0\0\0", "Unsupported GGUF version: 1, expected 2 or 3"),
        (b"GGUF\x03\0\0\0", "truncated"),
    ],
)
def test_bad_gguf(content: bytes, message: str, commands: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    error = failing(commands, path)
    assert error.startswith(f"Error: Failed to parse GGUF: {path}: ")
    assert message in error


def test_truncated_gguf(commands: Any, tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(tiny_ggufs["gpt2"].read_bytes()[:-100])
    assert "data exceeds file bounds" in failing(commands, path)


def test_empty_folder(commands: Any, tmp_path: Path) -> None:
    assert failing(commands, tmp_path) == f"Error: {tmp_path}: the folder is empty"


def test_unknown_architecture(commands: Any, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba9"}))
    error = failing(commands, folder)
    assert error.startswith(f"Error: {folder / 'config.json'}: model_type: expected one of gpt2, ")
    assert error.endswith("found 'mamba9'")


def test_bad_end_token(commands: Any, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, "two"]}')
    path = folder / "generation_config.json"
    assert failing(commands, folder) == f"Error: {path}: eos_token_id: expected a token id, got 'two'"


def test_missing_tensor(commands: Any, model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("h.1.attn.c_attn.weight"))
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")
    error = failing(commands, folder)
    assert error.startswith(f"Error: {folder}: ")
    assert "h.1.attn.c_attn.weight: missing" in error


def test_missing_tokenizer(commands: Any, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    assert failing(commands, folder).startswith(f"Error: {folder}")


def test_hub_model_that_is_not_cached(commands: Any) -> None:
    error = failing(commands, "--safetensors", "some/model")
    assert error.startswith("Error: Failed to download model: some/model: not in the cache")


def test_neither_a_path_nor_a_hub_id(commands: Any) -> None:
    assert failing(commands, "no such thing").startswith("Error: no such thing: there is no such file or folder")


def test_broken_cpu_level(commands: Any, model: Path) -> None:
    error = failing(commands, model, env={"PYML_CPU_LEVEL": "mmx"})
    assert error.startswith("Error: PYML_CPU_LEVEL: expected one of ")


# ---- context and memory


def test_prompt_longer_than_the_context(commands: Any, model: Path) -> None:
    result = commands.infer(model, "--prompt", "long " * 200, "-q")
    assert (result.code, result.stdout) == (1, b"")
    assert result.error.startswith("Error: Sequence length exceeded: max=128, actual=")


def test_context_longer_than_the_models(commands: Any, model: Path) -> None:
    error = failing(commands, model, "--context-len", 129)
    assert error == "Error: context length: expected at most 128, which the model was made for, got 129"


def test_context_larger_than_the_memory(commands: Any, endless: Path) -> None:
    error = failing(commands, endless, "--context-len", 1 << 24)
    assert error.startswith("Error: memory: expected at least ")
    assert "KV cache " in error
    assert ", found " in error


def test_text_larger_than_the_memory(commands: Any, endless: Path) -> None:
    error = failing(commands, endless, "--max-tokens", 10**9)
    assert error.startswith("Error: a KV cache of 16777216 positions needs ")
    assert error.endswith(" are available")


# ---- the other commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", "0", "-n", "0"), "nothing to measure: -p and -n are both 0"),
        (("-p", "-1"), "-p must be >= 0, got -1"),
        (("-n", "x"), "invalid value 'x' for '-n': expected a whole number"),
        (("-r", "0"), "-r must be > 0, got 0"),
        (("-b", "0"), "-b must be > 0, got 0"),
        (("-b", str(1 << 63)), "-b must be <= 65536, got 9223372036854775808"),
        (("-d", "-2"), "-d must be >= 0, got -2"),
        (("-o", "xml"), "invalid value 'xml' for '-o': expected one of md, json"),
        (("-n", "0", "--top-k", "4"), "options of sampling are for decoding, but -n is 0"),
        (("--temperature", "-1"), "--temperature must be a finite number >= 0.0, got -1"),
    ],
)
def test_bench_command_lines(arguments: tuple[str, ...], message: str, commands: Any) -> None:
    result = commands.bench("model.gguf", *arguments)
    assert (result.code, result.stdout, result.error) == (2, b"", f"Error: {message}")


def test_bench_beyond_the_context(commands: Any, model: Path) -> None:
    result = commands.bench(model, "-p", 100, "-d", 50, "-n", 0)
    assert (result.code, result.stdout) == (1, b"")
    assert result.error == "Error: pp100@d50: needs 150 positions, the context holds 128"
    result = commands.bench(model, "-p", 0, "-n", 70, "--temperature", 0)
    assert result.error == "Error: tg70: needs 135 positions, the context holds 128"


def test_bench_with_a_bad_text(commands: Any, model: Path, tmp_path: Path) -> None:
    result = commands.bench(model, "--text", tmp_path / "none.txt")
    assert result.code == 1
    assert result.error == f"Error: Failed to read text file: {tmp_path / 'none.txt'}: No such file or directory"
    short = tmp_path / "short.txt"
    short.write_text("too short")
    result = commands.bench(model, "--text", short, "-p", 50, "-n", 0)
    assert result.code == 1
    assert result.error.startswith("Error: pp50: needs a text of 50 tokens, --text has ")
    result = commands.bench(model, "--text", short, "-p", 0, "-n", 4, "--temperature", 0)
    assert result.error.startswith("Error: prompt: needs a text of 64 tokens, --text has ")


def test_unknown_subcommand(commands: Any) -> None:
    result = commands.run("pyml", "dance")
    assert (result.code, result.stdout) == (2, b"")
    assert "dance" in result.error


def test_inspect_of_a_bad_file(commands: Any, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"nothing")
    result = commands.inspect(path)
    assert (result.code, result.stdout) == (1, b"")
    assert result.error.startswith(f"Error: Failed to parse GGUF: {path}: Invalid GGUF magic")


# ---- what was probably meant


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("pyml-infer", "--promt", "hi"), "'--promt' found; did you mean --prompt?"),
        (("pyml-infer", "--temprature", "1"), "'--temprature' found; did you mean --temperature?"),
        (("pyml-infer", "--max_tokens", "3"), "'--max_tokens' found; did you mean --max-tokens?"),
        (("pyml-infer", "-p", "hi"), "'-p' found; did you mean --prompt?"),
        (("pyml-infer", "-n", "3"), "'-n' found; did you mean --max-tokens?"),
        (("pyml-infer", "-m", "x.gguf"), "'-m' found; the model needs no option: pyml-infer MODEL"),
        (("pyml-bench", "--model", "x.gguf"), "'--model' found; the model needs no option: pyml-bench MODEL"),
        (("pyml-bench", "-p", "1", "-c", "3"), "'-c' found; pyml-bench --help lists the options"),
        (("pyml", "inspect", "--jsn"), "'--jsn' found; did you mean --json?"),
        (("pyml", "--nonsense"), "'--nonsense' found; pyml --help lists the options"),
    ],
)
def test_options_that_are_close(arguments: tuple[str, ...], hint: str, commands: Any) -> None:
    result = commands.run(*arguments)
    assert (result.code, result.error) == (2, f"Error: unexpected argument {hint}")


@pytest.mark.parametrize(
    ("name", "hint"), [("inspekt", "did you mean inspect? "), ("run", "did you mean infer? "), ("zzz", "")]
)
def test_commands_that_are_close(name: str, hint: str, commands: Any) -> None:
    result = commands.run("pyml", name)
    assert result.code == 2
    assert result.error.startswith(f"Error: unknown command '{name}': {hint}expected one of infer, ")


def test_a_text_in_place_of_a_model(commands: Any) -> None:
    """The name is looked at before stdin is read."""
    result = commands.infer("tell me a joke", stdin=b"")
    assert result.code == 1
    assert result.error.startswith("Error: tell me a joke: there is no such file or folder")
    assert result.error.endswith("(a text to continue is given with --prompt)")
