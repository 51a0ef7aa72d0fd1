"""``pyml-infer`` from end to end: its stdout, its stderr, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core import cpu

PROMPT = ("--prompt", "the cat in the hat", "--max-tokens", "12", "--threads", "1")
GREEDY = (*PROMPT, "--temperature", "0")

SPEED = r"\d+ tokens in \d+\.\d\d s \(\d+\.\d tokens/s\)"
MS = r"\d+\.\d{3}ms"


@pytest.fixture(scope="module")
def greedy(commands: Any, model: Path) -> bytes:
    """stdout of the greedy text."""
    result = commands.infer(model, *GREEDY)
    assert result.code == 0
    assert result.stdout
    return bytes(result.stdout)


# ---- stdout


def test_stdout_is_the_text_alone(commands: Any, model: Path, greedy: bytes) -> None:
    import pyml_nlp

    with pyml_nlp.load(model) as lm:
        text = lm.generate_text("the cat in the hat", max_tokens=12, temperature=0)
    assert greedy.decode() == text  # no prompt, no newline


@pytest.mark.parametrize("flags", [("--stream",), ("--stream", "-vv"), ("--threads", "3")])
def test_flags_that_do_not_change_the_text(flags: tuple[str, ...], commands: Any, model: Path, greedy: bytes) -> None:
    result = commands.infer(model, *GREEDY, *flags)
    assert (result.code, result.stdout) == (0, greedy)


def test_echo(commands: Any, model: Path, greedy: bytes) -> None:
    for flags in ((), ("--stream",)):
        assert commands.infer(model, *GREEDY, "--echo", *flags).stdout == b"the cat in the hat" + greedy


def test_safetensors_flag(commands: Any, model: Path, greedy: bytes) -> None:
    assert commands.infer("--safetensors", model, *GREEDY).stdout == greedy


def test_model_from_the_environment(commands: Any, model: Path, greedy: bytes) -> None:
    assert commands.infer(*GREEDY, env={"PYML_MODEL": str(model)}).stdout == greedy


def test_pyml_infer_is_pyml_infer(commands: Any, model: Path, greedy: bytes) -> None:
    assert commands.run("pyml", "infer", model, *GREEDY).stdout == greedy


@pytest.mark.parametrize("stdin", [b"the cat in the hat", "zwei\nZeilen ü\n".encode()])
def test_prompt_from_stdin(stdin: bytes, commands: Any, model: Path) -> None:
    result = commands.infer(model, "--max-tokens", 12, "--temperature", 0, stdin=stdin)
    assert result.stderr.startswith("Loaded ")
    assert result.stdout == commands.infer(model, *GREEDY, "--prompt", stdin.decode()).stdout


def test_utf8_whatever_the_locale(commands: Any, model: Path, greedy: bytes) -> None:
    result = commands.infer(model, *GREEDY, "--echo", "--prompt", "ünï 😀", env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert result.text.startswith("ünï 😀")


@pytest.mark.parametrize("dtype", ["bf16", "q8_0", "q4_0"])  # f32 is below
def test_dtypes(dtype: str, commands: Any, model: Path) -> None:
    result = commands.infer(model, *GREEDY, "--dtype", dtype, "-q")
    assert (result.code, result.stderr) == (0, "")
    assert result.text


def test_gguf_and_folder_give_the_same_text(
    commands: Any, tiny_dirs: dict[str, Path], tiny_ggufs: dict[str, Path]
) -> None:
    folder = commands.infer(tiny_dirs["llama"], *GREEDY, "--dtype", "f32")
    assert folder.stdout == commands.infer(tiny_ggufs["llama"], *GREEDY, "--dtype", "f32").stdout


# ---- sampling


def test_a_seed_makes_a_text(commands: Any, model: Path) -> None:
    rules = ("--temperature", "1.5", "--top-k", "50", "--top-p", "0.95", "--repetition-penalty", "1.2")
    texts = [commands.infer(model, *PROMPT, *rules, "--seed", seed, "-q").stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_without_a_seed_texts_differ(commands: Any, model: Path) -> None:
    texts = {commands.infer(model, *PROMPT, "--temperature", "5", "-q").stdout for _ in range(2)}
    assert len(texts) == 2


# ---- JSON


def test_json(commands: Any, model: Path, greedy: bytes) -> None:
    result = commands.infer(model, *GREEDY, "--json")
    assert result.text.count("\n") == 1
    found = json.loads(result.text)
    assert list(found) == ["index", "prompt_tokens", "tokens", "text", "finish_reason", "prefill_ms", "decode_ms"]
    assert (found["index"], found["tokens"], found["text"], found["finish_reason"]) == (
        0,
        12,
        greedy.decode(),
        "length",
    )
    assert found["prompt_tokens"] > 3
    assert found["prefill_ms"] > 0
    assert found["decode_ms"] > 0


def test_the_context_ends_a_text(commands: Any, model: Path) -> None:
    found = json.loads(commands.infer(model, *GREEDY, "--max-tokens", 1000, "--context-len", 20, "--json").text)
    assert found["finish_reason"] == "length"
    assert found["tokens"] == 20 - found["prompt_tokens"] + 1


def test_no_tokens(commands: Any, model: Path) -> None:
    found = json.loads(commands.infer(model, *GREEDY, "--max-tokens", 0, "--json").text)
    assert (found["tokens"], found["text"], found["finish_reason"]) == (0, "", "length")


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_every_end_token_stops(file: str, as_list: bool, commands: Any, model: Path, tmp_path: Path) -> None:
    import shutil

    import pyml_nlp

    with pyml_nlp.load(model) as lm:
        tokens = [step.token for step in lm.generate("the cat in the hat", max_tokens=12, temperature=0)]
    stop = tokens[5]
    folder = shutil.copytree(model, tmp_path / "model")
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**content, "eos_token_id": [330, stop] if as_list else stop}))
    found = json.loads(commands.infer(folder, *GREEDY, "--json").text)
    assert found["finish_reason"] == "stop"
    assert found["tokens"] == tokens.index(stop) + 1


# ---- batch files


BATCH = ["the cat", "in the hat and on the mat", "ünï", "a", "to be or not to be"] + ["and so on"] * 6


@pytest.fixture(scope="module")
def batch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with blank lines between them."""
    path = tmp_path_factory.mktemp("batch") / "prompts.txt"
    path.write_text("\n\n".join(BATCH) + "\n", encoding="utf-8")
    return path


def test_batch(commands: Any, model: Path, batch_file: Path) -> None:
    rules = ("--max-tokens", "10", "--temperature", "0", "--threads", "1")
    found = [json.loads(line) for line in commands.infer(
        model, "--batch-file", batch_file, *rules, "--json").text.split("\n")[:-1]]  # fmt: skip
    assert [entry["index"] for entry in found] == list(range(len(BATCH)))
    alone = json.loads(commands.infer(model, "--prompt", BATCH[1], *rules, "--json").text)
    assert {key: found[1][key] for key in ("text", "tokens", "prompt_tokens", "finish_reason")} == {
        key: alone[key] for key in ("text", "tokens", "prompt_tokens", "finish_reason")
    }
    texts = "".join(f"[{i}] {entry['text']}\n" for i, entry in enumerate(found))
    result = commands.infer(model, "--batch-file", batch_file, *rules)
    assert result.text == texts
    assert re.fullmatch(rf"{len(BATCH)} prompts, {SPEED}", result.stderr.splitlines()[-1])
    echoed = commands.infer(model, "--batch-file", batch_file, *rules, "--echo", "-q").text
    assert echoed == "".join(f"[{i}] {BATCH[i]}{entry['text']}\n" for i, entry in enumerate(found))


def test_a_sampled_text_does_not_depend_on_its_neighbours(commands: Any, model: Path, tmp_path: Path) -> None:
    def second(first: str, rest: list[str]) -> str:
        path = tmp_path / "prompts.txt"
        path.write_text("\n".join([first, "the cat", *rest]))
        rules = ("--max-tokens", "10", "--temperature", "2", "--seed", "5", "--json", "--threads", "1")
        return str(json.loads(commands.infer(model, "--batch-file", path, *rules).text.split("\n")[1])["text"])

    assert second("in the hat", []) == second("something else that is longer", ["and", "more"])


def test_a_text_from_nothing(commands: Any, tiny_dirs: dict[str, Path]) -> None:
    """The model begins with its first token, if it has one."""
    result = commands.infer(tiny_dirs["gemma3"], "--prompt", "", "--max-tokens", "3", "--json", "--threads", "1")
    assert (result.code, json.loads(result.text)["prompt_tokens"]) == (0, 1)


def test_a_line_of_another_batch_format(commands: Any, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}\n')
    result = commands.infer(model, "--batch-file", path)
    assert result.code == 1
    assert "line 1: a line of OpenAI's batch format, which lm.openai.batch_file() takes" in result.stderr


def test_a_prompt_of_a_batch_that_does_not_fit(commands: Any, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("long " * 200 + "\n\nfine\n")
    rules = ("--max-tokens", "5", "--temperature", "0", "-q")
    result = commands.infer(model, "--batch-file", path, *rules)
    assert (result.code, result.text) == (1, f"[1] {commands.infer(model, '--prompt', 'fine', *rules).text}\n")
    assert result.error.startswith("Error: line 1: Sequence length exceeded: max=128, actual=")


# ---- stderr


def test_two_lines(commands: Any, model: Path) -> None:
    for flags in ((), ("--stream",), ("--json",)):
        loaded, speed = commands.infer(model, *GREEDY, *flags).stderr.splitlines()
        assert re.fullmatch(rf"Loaded {model.name} in \d+\.\d\d s", loaded)
        assert re.fullmatch(SPEED, speed)


def test_a_full_context_is_told(commands: Any, model: Path) -> None:
    long = ("--context-len", "32", "--max-tokens", "100", "--temperature", "0", "--prompt", "the cat in the hat")
    result = commands.infer(model, *long)
    assert re.fullmatch(rf"{SPEED}, the context is full", result.stderr.splitlines()[-1])


def test_lines_of_a_folder(commands: Any, model: Path) -> None:
    lines = commands.infer(model, *GREEDY, "--timeout", "100", env={"PYML_LOG": "info"}).stderr.splitlines()
    expected = [
        r"\[runtime\] SIMD: \w+",
        r"\[runtime\] Threads: \d+",
        rf"Loading SafeTensors: {re.escape(str(model))}",
        r"  Config: arch=gpt2, dim=96, layers=3, heads=6, vocab=331",
        r"  Loading tensors\.\.\.",
        r"  \d+ tensors loaded",
        r"  Quantized 13 matrices -> Q8_0",
        r"  Tokenizer: 331 tokens \(tokenizer\.json\)",
        r"  Model ready: 0\.4M params",
        r"Loaded .* in \d+\.\d\d s",
        r"  KV cache: 0\.1 MB \(3layers x 6heads x \d+seq x 16dim x f16 x 2\)",
        r"  Timeout: 100\.0s",
        SPEED,
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_lines_of_a_gguf_file(commands: Any, tiny_ggufs: dict[str, Path]) -> None:
    lines = commands.infer(tiny_ggufs["gemma3"], *GREEDY, "-v").stderr.splitlines()
    assert lines[2] == f"Loading GGUF: {tiny_ggufs['gemma3']}"
    assert re.fullmatch(r"  GGUF v3, \d+ tensors", lines[3])
    assert lines[4].startswith("  Config: arch=gemma3, dim=64, layers=7, heads=4, vocab=331")
    assert not any("Quantized" in line for line in lines)
    assert re.fullmatch(SPEED, lines[-1])


def test_quiet(commands: Any, model: Path) -> None:
    assert commands.infer(model, *GREEDY, "-q").stderr == ""
    assert commands.infer(model, "-q", "--max-tokens", 2, stdin=b"the").stderr == ""


PREFILL = rf"\[perf\] generator\.prefill tokens=\d+ {MS}"
DECODE = rf"\[perf\] generator\.decode_step token=(\d+) model={MS} sample={MS} total={MS}"
FORWARD = rf"\[perf\] model\.forward embedding={MS} layers={MS} norm={MS} projection={MS} total={MS}"
MATMUL = rf"\[perf\] matmul ([\w.]+) \[\d+,\d+\]x\[\d+,\d+\] [\w+]+ {MS} \(\d+\.\d GB/s, \d+\.\d GFLOP/s\)"


def test_verbose(commands: Any, model: Path) -> None:
    lines = [
        line for line in commands.infer(model, *GREEDY, "--max-tokens", 3, "-v").stderr.splitlines() if line[0] == "["
    ]
    assert [re.fullmatch(pattern, line) is not None for pattern, line in zip(
        (r"\[sampling\] greedy", FORWARD, PREFILL, FORWARD, DECODE, FORWARD, DECODE), lines[2:], strict=True
    )] == [True] * 7  # fmt: skip
    steps = [found[1] for line in lines if (found := re.fullmatch(DECODE, line))]
    assert steps == ["1", "2"]


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("gemma3", ("QKV", "QKnorm", "RoPE", "QK^T", "softmax", "A*V", "out")),
        ("llama", ("QKV", "RoPE", "QK^T", "softmax", "A*V", "out")),
        ("gpt2", ("QKV", "QK^T", "softmax", "A*V", "out")),
    ],
)
def test_very_verbose(name: str, phases: tuple[str, ...], commands: Any, tiny_dirs: dict[str, Path]) -> None:
    lines = commands.infer(tiny_dirs[name], *GREEDY, "--max-tokens", 4, "-vv").stderr.splitlines()
    times = " ".join(f"{re.escape(phase)}={MS}" for phase in phases)
    attention = [found[1] for line in lines if (found := re.fullmatch(rf"\[attn\] layer=(\d+) {times}", line))]
    layers = len(set(attention))
    assert attention == [str(layer) for layer in range(layers)] * 4  # the prefill and three decode steps
    assert sum(line.startswith("[attn]") for line in lines) == len(attention)
    matmuls = [found[1] for line in lines if (found := re.fullmatch(MATMUL, line))]
    assert sum(line.startswith("[perf] matmul") for line in lines) == len(matmuls)
    assert matmuls.count("head") == matmuls.count("layers.0.attention.qkv") == 4


def test_log_levels_from_the_environment(commands: Any, model: Path) -> None:
    def starts(spec: str, *flags: str) -> set[str]:
        result = commands.infer(model, *GREEDY, "--max-tokens", 2, *flags, env={"PYML_LOG": spec})
        assert result.code == 0
        return {" ".join(line.split()[:2]) for line in result.stderr.splitlines()}

    assert starts("pyml=off,pyml.attn=trace") == {"[attn] layer=0", "[attn] layer=1", "[attn] layer=2"}
    many = commands.infer(model, *GREEDY, "--max-tokens", 8, env={"PYML_LOG": "pyml=off,pyml.attn=trace"})
    assert [line.split()[1] for line in many.stderr.splitlines()] == ["layer=0", "layer=1", "layer=2"] * 8
    assert starts("pyml=error", "-vv") == set()
    assert {"[perf] generator.prefill", "[perf] matmul", "[attn] layer=0"} <= starts("pyml=trace", "-q")


def test_bad_log_levels(commands: Any, model: Path) -> None:
    result = commands.infer(model, *GREEDY, env={"PYML_LOG": "pyml=loud"})
    assert result.code == 2
    assert result.error.startswith(
        "Error: PYML_LOG: expected a level of off, error, warn, info, debug, trace, found 'loud'"
    )


# ---- help


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pyml", "--help"), ["infer", "bench", "inspect", "trace"]),
        (
            ("pyml-infer", "--help"),
            ["--safetensors", "--batch-file", "--repetition-penalty", "--context-len", "--timeout"],
        ),
        (("pyml-bench", "--help"), ["-p", "-n", "-d", "-b", "-r", "--text", "-o"]),
        (("pyml", "inspect", "--help"), ["--context-len", "--json"]),
    ],
)
def test_help(arguments: tuple[str, ...], words: list[str], commands: Any) -> None:
    result = commands.run(*arguments)
    assert result.code == 0
    assert all(word in result.text for word in words)
    assert not re.search(r"^  \[?[A-Z]+\]?$", result.text, re.M)  # an argument among the options


def test_help_is_one_screen_and_help_all_explains_the_rest(commands: Any) -> None:
    short, whole = (commands.infer(flag, env={"COLUMNS": "100"}).text for flag in ("--help", "--help-all"))
    assert len(short.splitlines()) <= 48
    names = set(re.findall(r"--[a-z][a-z-]+", whole))
    assert names == set(re.findall(r"--[a-z][a-z-]+", short))
    assert {"--min-p", "--json-schema", "--stop-id", "--logprobs", "--help-all"} <= names
    assert "Structured output:\n  --json-schema FILE|JSON" in whole


def test_version(commands: Any) -> None:
    from importlib.metadata import version

    own = version("pyml-nlp")
    texts = {commands.run(*command, "--version").text for command in (
        ("pyml",), ("pyml-infer",), ("pyml-bench",), ("pyml-audit",), ("pyml", "eval"), ("pyml", "trace", "summary"),
    )}  # fmt: skip
    (text,) = texts
    first, second = text.splitlines()
    assert first == f"pyml {own}"
    assert second.startswith(f"pyml-core {own}, pyml-nn {own}, pyml-nlp {own}; CPU level {cpu.level()}; Python 3.")


def test_python_m(commands: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyml_nlp", "--version"], env=commands.environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, commands.run("pyml", "--version").text, "")


def test_without_a_command(commands: Any) -> None:
    for group in (("pyml",), ("pyml", "trace")):
        result = commands.run(*group)
        assert (result.code, result.stderr) == (0, "")
        assert result.stdout == commands.run(*group, "--help").stdout
        assert "\nCommands:\n" in result.text


def test_a_prompt_that_begins_with_bos_has_it_once(commands: Any, tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "gemma3"
    shutil.copytree(tiny_dirs["gemma3"], folder)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    options = ("--max-tokens", 3, "--temperature", 0, "--json", "--threads", 1)
    plain = commands.infer(folder, *options, "--prompt", "the cat")
    assert "Warning" not in plain.stderr
    typed = commands.infer(folder, *options, "--prompt", "<bos>the cat")
    assert json.loads(typed.stdout)["tokens"] == json.loads(plain.stdout)["tokens"]
    assert json.loads(typed.stdout)["prompt_tokens"] == json.loads(plain.stdout)["prompt_tokens"]
    warning = "Warning: the prompt begins with '<bos>', which is added to every prompt: it is not added again"
    assert [line for line in typed.stderr.splitlines() if line.startswith("Warning")] == [warning]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("<bos>a\n<bos>b\nc\n")
    several = commands.infer(folder, "--max-tokens", 1, "--batch-file", prompts)
    assert several.stderr.count("Warning") == 1
    chat = commands.infer(folder, *options, "--chat", "--prompt", "the cat")
    assert "Warning" not in chat.stderr
    assert json.loads(chat.stdout)["prompt_tokens"] == json.loads(plain.stdout)["prompt_tokens"]


# ---- several texts of a prompt


def test_several_texts_of_a_prompt(commands: Any, model: Path) -> None:
    """They are those of Python, in the order of their sample indices, or the best first."""
    rules = ("--temperature", 1.5, "--seed", 4, "--max-tokens", 8)
    lines = commands.infer(model, *PROMPT, *rules, "--n", 3, "--json", "-q").text.splitlines()
    found = [json.loads(line) for line in lines]
    assert [one["index"] for one in found] == [0, 1, 2]
    with pyml_nlp.load(model) as lm:
        options = lm.generation_options.replace(temperature=1.5, seed=4, max_tokens=8)
        assert [one["text"] for one in found] == [one.text for one in lm.generate_samples(PROMPT[1], 3, options)]
        best = [one.text for one in lm.generate_samples(PROMPT[1], 2, options, best_of=4)]
    result = commands.infer(model, *PROMPT, *rules, "--n", 2, "--best-of", 4)
    assert result.text == "".join(f"[{index}] {text}\n" for index, text in enumerate(best))
    assert "\n4 texts, 32 tokens in " in result.stderr
    assert commands.infer(model, *PROMPT, *rules, "--best-of", 4, "-q").text == best[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--n", 0), "--n must be > 0, got 0"),
        (("--n", 70000), "--n must be <= 65536, got 70000"),
        (("--n", 3, "--best-of", 2), "--best-of must be >= --n, got 2 and 3"),
        (("--n", 2, "--stream"), "the argument '--stream' cannot be used with '--n'"),
        (
            ("--best-of", 2, "--prompt-cache", "p"),
            "the argument '--best-of' cannot be used with '--prompt-cache <PATH>'",
        ),
    ],
)
def test_counts_of_texts(arguments: tuple[object, ...], message: str, commands: Any, model: Path) -> None:
    result = commands.infer(model, *PROMPT, *arguments)
    assert (result.code, result.stdout, result.error) == (2, b"", f"Error: {message}")
