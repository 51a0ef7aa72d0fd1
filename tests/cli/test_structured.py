"""Structured output on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
RUN = ("--prompt", "An example: ", "--max-tokens", "60", "--seed", "1")


def test_schema_regex_and_grammar(commands: Any, smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "list.lark").write_text('start: ("- " /[a-z]{1,8}/ "\\n"){2}')
    for schema in (json.dumps(SCHEMA), tmp_path / "schema.json"):
        for more in ((), ("--stream",)):
            result = commands.infer(smollm2_gguf, *RUN, "--json-schema", schema, *more)
            assert json.loads(result.text).keys() == {"ok"}
    assert re.fullmatch("[0-9]{4}", commands.infer(smollm2_gguf, *RUN, "--regex", "[0-9]{4}").text)
    result = commands.infer(smollm2_gguf, *RUN, "--grammar", tmp_path / "list.lark")
    assert re.fullmatch(r"(- [a-z]{1,8}\n){2}", result.text), result


def test_batch(commands: Any, smollm2_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    result = commands.infer(
        smollm2_gguf, "--batch-file", tmp_path / "prompts.txt", "--max-tokens", "20", "--json", "--regex", "(yes|no)!"
    )
    texts = [json.loads(line)["text"] for line in result.text.splitlines()]
    assert len(texts) == 3
    assert set(texts) <= {"yes!", "no!"}


def test_errors(commands: Any, smollm2_gguf: Path, tmp_path: Path) -> None:
    missing = commands.infer(smollm2_gguf, *RUN, "-q", "--grammar", tmp_path / "none")
    assert (missing.code, missing.error) == (1, f"Error: {tmp_path / 'none'}: No such file or directory")
    number = commands.infer(smollm2_gguf, *RUN, "-q", "--json-schema", '{"const": ' + "9" * 5000 + "}")
    assert number.code == 2
    assert number.error.startswith("Error: schema: expected JSON: Exceeds the limit (4300 digits)")
    deep = commands.infer(smollm2_gguf, *RUN, "-q", "--regex", "((a{1000}){1000}){1000}")
    assert (deep.code, deep.error) == (
        1,
        "Error: regex: expected at most 96 MiB of memory to compile, found more",
    )
    bad = commands.infer(smollm2_gguf, *RUN, "-q", "--regex", "(")
    assert bad.code == 1
    assert bad.error.startswith("Error: regex: ")
    assert bad.stdout == b""


def test_what_is_left_out_of_a_schema_is_named(commands: Any, smollm2_gguf: Path) -> None:
    schema = {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "(?=a)", "format": "color"}]}
    result = commands.infer(smollm2_gguf, *RUN, "--json-schema", json.dumps(schema))
    assert result.text in ("true", "false")
    assert "Warning: schema: #/anyOf/1 is left out: the pattern '(?=a)' has look-around" in result.stderr
