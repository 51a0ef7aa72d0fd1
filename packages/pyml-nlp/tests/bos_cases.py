"""Folders that differ in who says whether BOS and EOS are added: classes, keys, and post-processors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from tokenizer_makers import library_json, pieces_model, write_json, write_vocab_and_merges

GOLDENS = Path(__file__).parent / "goldens" / "bos.json"
TEXT = "the"

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_PROCESSORS = ("none", "bos", "eos", "both", "bytes", "bytes and bos")
_FLAGS: list[dict[str, Any]] = [
    {},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": None},
    {"add_eos_token": True},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": False},
]
_TOKENS = {"bytes": ("<|im_start|>", "<|endoftext|>"), "pieces": ("<s>", "</s>"), "gemma": ("<bos>", "<eos>")}


@dataclass(frozen=True)
class Case:
    """One folder.

    Attributes:
        kind: the file that it has: ``tokenizer.json``, ``vocab.json`` or ``tokenizer.model``.
        tokens: which vocabulary, with which BOS and EOS.
        tokenizer_class: of tokenizer_config.json; None: it is missing.
        model_type: of config.json.
        processor: the post-processor of tokenizer.json.
        flags: keys of tokenizer_config.json.
        names: whether tokenizer_config.json names BOS and EOS: ``named``, ``unnamed`` or ``null``.
    """

    kind: str
    tokens: str
    tokenizer_class: str | None
    model_type: str
    processor: str
    flags: str
    names: str

    @property
    def key(self) -> str:
        """Its name in the goldens."""
        return " | ".join(map(str, vars(self).values()))


def cases() -> Iterator[Case]:
    """Every folder."""
    flags = list(map(json.dumps, _FLAGS))
    for row, processor, flag in product(_rows(_WITH_JSON), _PROCESSORS, flags):
        if row[0] == "bytes" or not processor.startswith("bytes"):
            yield Case("tokenizer.json", *row, processor, flag, "named")
    for kind, rows in (("vocab.json", _WITH_VOCAB), ("tokenizer.model", _WITH_MODEL)):
        for row, flag, names in product(_rows(rows), flags, ("named", "unnamed", "null")):
            yield Case(kind, *row, "none", flag, names)


def _rows(table: str) -> Iterator[tuple[str, str | None, str]]:
    """Vocabulary, class and model type of each line."""
    for line in table.split("\n")[1:-1]:
        tokens, name, model_type = line.split()
        yield tokens, None if name == "-" else name, model_type


_WITH_JSON = """
bytes   GPT2Tokenizer            gpt2
bytes   GPT2TokenizerFast        llama
bytes   Qwen2Tokenizer           qwen2
bytes   PreTrainedTokenizerFast  llama
bytes   TokenizersBackend        mistral
bytes   -                        qwen3
bytes   LlamaTokenizerFast       llama
pieces  LlamaTokenizer           llama
pieces  LlamaTokenizerFast       mistral
pieces  PreTrainedTokenizerFast  phi3
pieces  GemmaTokenizer           gemma2
pieces  GemmaTokenizerFast       gemma3_text
"""
_WITH_VOCAB = """
bytes   GPT2Tokenizer            gpt2
bytes   GPT2TokenizerFast        llama
bytes   -                        gpt2
bytes   Qwen2Tokenizer           qwen2
bytes   Qwen2Tokenizer           llama
bytes   GPT2Tokenizer            qwen2
bytes   GPT2Tokenizer            qwen3
bytes   -                        qwen3
"""
_WITH_MODEL = """
pieces  LlamaTokenizer           llama
pieces  LlamaTokenizerFast       mistral
pieces  PreTrainedTokenizerFast  phi3
pieces  -                        mixtral
gemma   GemmaTokenizer           gemma2
gemma   -                        gemma3_text
"""


def write(case: Case, folder: Path) -> Path:
    """Write the folder's files; returns it."""
    bos, eos = _TOKENS[case.tokens]
    if case.kind == "tokenizer.json":
        document = library_json("gpt2" if case.tokens == "bytes" else "llama2")
        document["post_processor"] = _processor(case.processor, bos, eos, document["model"]["vocab"])
        write_json(folder, document)
    elif case.kind == "vocab.json":
        write_vocab_and_merges(folder)
    else:
        (folder / "tokenizer.model").write_bytes(pieces_model("bpe", bos_piece=bos, eos_piece=eos))
    config = json.loads(case.flags)
    if case.tokenizer_class is not None:
        config["tokenizer_class"] = case.tokenizer_class
    if case.names != "unnamed":
        config |= (
            {"bos_token": bos, "eos_token": eos} if case.names == "named" else {"bos_token": None, "eos_token": None}
        )
    write_json(folder, config, "tokenizer_config.json")
    return write_json(folder, {"model_type": case.model_type}, "config.json")


def _processor(name: str, bos: str, eos: str, vocab: dict[str, int]) -> dict[str, Any] | None:
    if name in ("none", "bytes"):
        return None if name == "none" else _BYTE_LEVEL
    if name == "bytes and bos":
        return {"type": "Sequence", "processors": [_BYTE_LEVEL, _processor("bos", bos, eos, vocab)]}
    before, after = ["bos", "both"], ["eos", "both"]
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if name in before:
        single.insert(0, {"SpecialToken": {"id": bos, "type_id": 0}})
    if name in after:
        single.append({"SpecialToken": {"id": eos, "type_id": 0}})
    special = {token: {"id": token, "ids": [vocab[token]], "tokens": [token]} for token in (bos, eos)}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
