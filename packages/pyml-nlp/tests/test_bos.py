"""BOS and EOS around a text, as transformers adds them (goldens/bos.json)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from bos_cases import GOLDENS, TEXT, Case, cases, write
from tokenizer_makers import pieces_metadata, pieces_model, write_json

from pyml_nlp.tokenizer import load_tokenizer
from pyml_nlp.tokenizer.gguf import load_gguf

CASES = {case.key: case for case in cases()}


def goldens() -> dict[str, list[str]]:
    """Tokens before and after the text, by the case's key."""
    document = json.loads(GOLDENS.read_text(encoding="utf-8"))
    assert document.pop("transformers").startswith("5.")
    return {f"{group} | {rest}": found for group, cases in document.items() for rest, found in cases.items()}


def test_every_case_has_a_golden() -> None:
    found = goldens()
    assert set(found) == set(CASES)
    assert len({tuple(around) for around in found.values()}) > 8


@pytest.mark.parametrize("kind", sorted({(case.kind, str(case.tokenizer_class)) for case in CASES.values()}))
def test_the_same_tokens_as_transformers(kind: tuple[str, str], tmp_path: Path) -> None:
    expected = goldens()
    chosen = [case for case in CASES.values() if (case.kind, str(case.tokenizer_class)) == kind]
    for number, case in enumerate(chosen):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert around(write(case, folder)) == expected[case.key], case


def around(folder: Path) -> list[str]:
    """Tokens before and after the text."""
    tokenizer = load_tokenizer(folder)
    plain, whole = tokenizer.encode(TEXT, add_special=False), tokenizer.encode(TEXT)
    start = len(tokenizer.metadata.prefix)
    assert whole[start : start + len(plain)] == plain
    parts = (whole[:start], whole[start + len(plain) :])
    return [" ".join(tokenizer.token_bytes(token).decode() for token in part) for part in parts]


def test_a_missing_key_is_told_where_versions_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Older versions of transformers, and SentencePiece's own tools for these models, put BOS there."""
    (tmp_path / "tokenizer.model").write_bytes(pieces_model("bpe"))
    with caplog.at_level(logging.WARNING, "pyml.tokenizer"):
        assert load_tokenizer(tmp_path).metadata.prefix == ()
    assert caplog.messages == [f"{tmp_path}: no add_bos_token: texts do not begin with '<s>'"]
    caplog.clear()
    for flag in (True, False):
        write_json(tmp_path, {"add_bos_token": flag}, "tokenizer_config.json")
        load_tokenizer(tmp_path)
    assert not caplog.messages


def test_the_keys_do_not_have_to_make_sense_where_they_are_not_read(tmp_path: Path) -> None:
    case = Case("tokenizer.json", "bytes", None, "llama", "bos", "{}", "named")
    folder = write(case, tmp_path)
    write_json(folder, {"add_bos_token": "no", "bos_token": "missing"}, "tokenizer_config.json")
    assert around(folder) == ["<|im_start|>", ""]


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model", "gguf"])
def test_a_prompt_with_its_own_bos_gets_no_other(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = json.dumps({"add_bos_token": True, "add_eos_token": True})
    if kind == "gguf":
        metadata = pieces_metadata(pieces_model("bpe"), add_bos_token=True, add_eos_token=True)
        tokenizer = load_gguf(metadata, "m.gguf")
    else:
        tokenizer = load_tokenizer(write(Case(kind, "pieces", None, "llama", "both", flags, "named"), tmp_path))
    bos, eos = 1, 2
    for text in ("a the", "", " a", "the<s>the</s>a"):
        assert tokenizer.encode_prompt(text) == tokenizer.encode(text)
    assert not caplog.messages
    for text in ("<s>a the", "<s>", "<s>a</s>", "a the</s>", "</s>"):
        inner = tokenizer.encode(text, add_special=False)
        inner = inner[inner[0] == bos : len(inner) - (inner[-1] == eos)]
        assert tokenizer.encode_prompt(text) == [bos, *inner, eos]
        assert tokenizer.encode(text)[:2] == [bos, bos] or not text.startswith("<s>")  # as the original tokenizers do
    assert tokenizer.encode_prompt("<s><s>a")[:3] == [bos, bos, tokenizer.encode("<s>a", add_special=False)[1]]
    assert caplog.messages == ["the prompt begins with '<s>', which is added to every prompt: it is not added again"]


def test_a_prompt_keeps_its_own_bos_where_none_is_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_tokenizer(write(Case("tokenizer.json", "pieces", None, "llama", "none", "{}", "named"), tmp_path))
    assert tokenizer.encode_prompt("<s>the") == tokenizer.encode("<s>the")
    assert tokenizer.encode_prompt("<s>the")[0] == tokenizer.bos_id
    assert not caplog.messages
