"""``pyml-bench`` and ``pyml inspect`` from end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest

from tests.helpers import tiny_files, tiny_models

KEYS = ["test", "tokens_per_s", "stddev", "ms", "gb_per_s", "gflop_per_s", "threads", "level", "model", "dtype"]
KEYS += ["head", "kv_dtype", "samples_ms"]


def bench(commands: Any, *arguments: object) -> list[dict[str, Any]]:
    result = commands.bench(*arguments, "-o", "json")
    assert result.code == 0, result.stderr
    assert result.stderr == ""
    rows = json.loads(result.text)
    assert all(list(row) == KEYS for row in rows)
    return list(rows)


def test_bench(commands: Any, model: Path) -> None:
    rows = bench(commands, model, "-p", 32, "-n", 8, "-r", 3, "-t", 1)
    assert [row["test"] for row in rows] == ["pp32", "tg8"]
    for row, tokens in zip(rows, (32, 8), strict=True):
        assert (row["threads"], row["model"], row["dtype"]) == (1, str(model), "auto")
        assert len(row["samples_ms"]) == 3
        assert row["ms"] == pytest.approx(sum(row["samples_ms"]) / 3, abs=2e-3)
        rates = [tokens / ms * 1e3 for ms in row["samples_ms"]]
        assert row["tokens_per_s"] == pytest.approx(sum(rates) / 3, rel=1e-2)
        assert row["gb_per_s"] >= 0


def test_bench_at_depth_and_in_a_batch(commands: Any, model: Path) -> None:
    rows = bench(commands, model, "-p", 0, "-n", 4, "-d", 20, "-b", 3, "-r", 2)
    assert [row["test"] for row in rows] == ["tg4@d20@b3"]


def test_bench_with_a_text(commands: Any, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat in the hat sat on the mat and that was that " * 4)
    rows = bench(commands, model, "-p", 16, "-n", 4, "-r", 1, "--text", text)
    assert [(row["test"], row["stddev"]) for row in rows] == [("pp16", 0.0), ("tg4", 0.0)]


def test_bench_table(commands: Any, model: Path) -> None:
    result = commands.run("pyml", "bench", model, "-p", 8, "-n", 0, "-r", 1)
    lines = result.text.splitlines()
    assert lines[0] == "| model | level | threads | head | test | tokens/s | ms | GB/s | GFLOP/s |"
    assert len(lines) == 3
    assert "| pp8 |" in lines[2]


SAMPLED = ("--temperature", 1, "--top-k", 9, "--top-p", 0.9, "--seed", 3)


@pytest.mark.parametrize("batch", [1, 3])
def test_bench_of_sampled_texts(batch: int, commands: Any, model: Path) -> None:
    result = commands.bench(model, "-p", 8, "-n", 5, "-b", batch, "-r", 2, "-o", "json", *SAMPLED)
    assert (result.code, result.stderr) == (0, "")
    kernels, texts = json.loads(result.text)
    assert list(kernels) == KEYS
    assert list(texts) == [*KEYS, "rules", "outside_share"]
    assert texts["rules"] == "temperature=1.0 top_k=9 top_p=0.9 min_p=0.05 seed=3"
    assert 0 < texts["outside_share"] < 1
    assert (texts["gb_per_s"], texts["gflop_per_s"], len(texts["samples_ms"])) == (None, None, 2)
    rates = [5 * batch / ms * 1e3 for ms in texts["samples_ms"]]
    assert texts["tokens_per_s"] == pytest.approx(sum(rates) / 2, rel=1e-2)


def test_bench_of_greedy_texts_after_a_text(commands: Any, model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat in the hat sat on the mat and that was that " * 9)
    result = commands.bench(
        model, "-p", 0, "-n", 4, "-d", 20, "-r", 1, "--text", text, "--temperature", 0,
        "--repetition-penalty", 1.1, "--logprobs", 2,
    )  # fmt: skip
    assert result.code == 0, result.stderr
    row = result.text.splitlines()[-1]
    assert "| tg4@d20 |" in row
    assert row.endswith("% | greedy repetition_penalty=1.1 logprobs=2 |")


def test_bench_of_structured_texts(commands: Any, model: Path) -> None:
    """Texts that end early follow each other until the tokens are counted."""
    schema = '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
    result = commands.bench(model, "-p", 0, "-n", 40, "-r", 1, "-o", "json", "--json-schema", schema, "--seed", 1)
    (row,) = json.loads(result.text)
    assert row["rules"].endswith(" seed=1 grammar=schema")


def test_bench_of_a_grammar_of_single_tokens(commands: Any, model: Path) -> None:
    result = commands.bench(model, "-p", 0, "-n", 4, "-r", 1, "--regex", "x")
    assert result.code == 1
    assert "the texts of the grammar end with their first token" in result.stderr


# ---- inspect


def inspect(commands: Any, *arguments: object) -> dict[str, Any]:
    result = commands.inspect(*arguments, "--json")
    assert result.code == 0, result.stderr
    assert result.stderr == ""
    return dict(json.loads(result.text))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "mixtral"])
def test_inspect_gguf(name: str, commands: Any, tiny_ggufs: dict[str, Path]) -> None:
    facts = inspect(commands, tiny_ggufs[name])
    assert facts["format"] == "GGUF v3"
    architecture = tiny_files.gguf_architecture(tiny_models.MODELS[name])
    assert facts["architecture"]["name"] == architecture
    assert facts["architecture"]["vocab_size"] == facts["tokenizer"]["tokens"] == 331
    assert facts["metadata"]["general.architecture"] == architecture
    assert facts["stored_bytes"] == sum(tensor["stored_bytes"] for tensor in facts["tensors"])
    assert facts["tensor_count"] == len(facts["tensors"])
    assert all(tensor["packed_bytes"] >= tensor["stored_bytes"] for tensor in facts["tensors"])


def test_inspect_metadata_that_nothing_can_use(commands: Any, tmp_path: Path) -> None:
    """Text that is no UTF-8 and numbers that are not finite: the JSON is valid."""
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("x.nan", float("nan"))
    writer.add_array("x.infinite", [1.0, float("inf")])
    writer.add_key_value("x.latin", "Jörg".encode("latin-1"), gguf.GGUFValueType.STRING)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    result = commands.inspect(path, "--json")
    metadata = json.loads(result.text, parse_constant=lambda name: pytest.fail(name))["metadata"]
    assert (metadata["x.nan"], metadata["x.infinite"], metadata["x.latin"]) == ("nan", [1.0, "inf"], "J\\xf6rg")


def test_inspect_folder(commands: Any, tiny_dirs: dict[str, Path]) -> None:
    import pyml_nlp

    facts = inspect(commands, tiny_dirs["llama"], "--context-len", 100)
    assert facts["format"] == "safetensors"
    assert facts["metadata"]["model_type"] == "llama"
    packed = {tensor["packed_type"] for tensor in facts["tensors"]}
    assert packed == {"q8_0", "bf16", "f32"}  # rows of 176 are no multiple of 32
    with pyml_nlp.load(tiny_dirs["llama"]) as lm:
        packed_bytes = sum(tensor["packed_bytes"] for tensor in facts["tensors"])
        assert packed_bytes == pytest.approx(lm.model.weight_bytes, abs=64)  # but for RoPE's frequencies
        assert facts["parameters"] == lm.model.n_params
        assert facts["memory"]["kv_cache"] == lm.kv_layout.bytes_for(100)
    assert facts["memory"]["total"] == sum(facts["memory"][key] for key in ("weights", "kv_cache", "activations"))


def test_inspect_with_another_dtype(commands: Any, tiny_dirs: dict[str, Path]) -> None:
    facts = inspect(commands, tiny_dirs["gpt2"], "--dtype", "f32")
    assert {tensor["packed_type"] for tensor in facts["tensors"]} == {"f32"}


def test_inspect_text(commands: Any, tiny_ggufs: dict[str, Path]) -> None:
    result = commands.inspect(tiny_ggufs["gemma3"], "--tensors")
    short = commands.inspect(tiny_ggufs["gemma3"])
    assert result.text.startswith(short.text + "\ntensors\n")
    assert "  tokenizer.ggml.tokens = [331 values]" in short.text.splitlines()
    assert result.code == 0
    for part in (
        "GGUF v3", "gemma3: 7 layers, 64 wide, vocabulary 331, context 256", "parameters", "kv_cache",
        "gemma3.block_count = 7", "token_embd.weight", "331x64", "tokenizer",
    ):  # fmt: skip
        assert part in result.text


def test_inspect_what_cannot_be_used(commands: Any, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "mamba9", "evil": "\\u001b[31m"}')
    (folder / "tokenizer.json").write_text("{")
    facts = inspect(commands, folder)
    assert "mamba9" in facts["architecture"]["error"]
    assert "error" in facts["tokenizer"]
    assert "memory" not in facts
    text = commands.inspect(folder).text
    assert "mamba9" in text
    assert "\x1b" not in text
