"""Tokenizers of folders with GPT-2's two files, vocab.json and merges.txt."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, normalizers

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import read_json
from . import byte_level
from .added import add_tokens, own_texts
from .base import TokenizerMetadata
from .bounded import read_text
from .config_files import ConfigFiles
from .guard import guarded
from .library import LibraryTokenizer, build_bpe
from .vocabulary_checks import check_vocab, split_merges

_VOCAB_LIMIT = 64 << 20

_END = "<|endoftext|>"  # GPT-2's token that begins and ends a text
_RULES = {"GPT2Tokenizer": byte_level.GPT2, "CodeGenTokenizer": byte_level.GPT2, "Qwen2Tokenizer": byte_level.QWEN2}
"""Rules by the ``tokenizer_class`` of tokenizer_config.json."""


def load_vocab_and_merges(folder: Path, vocab_name: str, merges_name: str) -> LibraryTokenizer:
    """Load a byte-level BPE from two files.

    Raises:
        ModelFileError: a file is malformed, or its ``tokenizer_class`` is unknown.
    """
    config = ConfigFiles(folder)
    rule = _rule(config, vocab_name)
    path = folder / vocab_name
    vocab = read_json(path, _VOCAB_LIMIT)
    check_vocab(vocab, str(path))
    lines = read_text(folder / merges_name, _VOCAB_LIMIT).split("\n")
    lines = [line.rstrip("\r") for line in lines[1 if lines[0].startswith("#version") else 0 :]]
    merges = split_merges([line for line in lines if line], str(folder / merges_name))
    model = build_bpe(vocab, merges, str(folder / merges_name))
    with guarded(str(path)):
        engine = Tokenizer(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule, config.flag("add_prefix_space", False))
        add_tokens(engine, config.added_tokens(), [*config.special_tokens(), _END], str(path))
        known = engine.get_added_tokens_decoder()
    texts = own_texts(known, vocab)
    vocab |= {token.content: number for number, token in known.items()}
    end = vocab.get(_END)
    bos = config.bos_id(vocab)
    prefix, suffix = config.prefix_and_suffix(vocab, (None if rule is byte_level.QWEN2 else end, end))
    metadata = TokenizerMetadata(
        kind="vocab.json",
        vocab_size=max(vocab.values()) + 1,
        bos_id=end if bos is None else bos,
        eos_ids=config.eos_ids(vocab) or (() if end is None else (end,)),
        special_ids=[number for number, token in known.items() if token.special],
        prefix=prefix,
        suffix=suffix,
        named_tokens=config.named_tokens(),
        chat_templates=config.chat_templates(),
    )
    return LibraryTokenizer(metadata, engine, texts=texts)


def _rule(config: ConfigFiles, vocab_name: str) -> byte_level.PreTokenizer:
    """Return the splitting rules of the tokenizer's class, which is chosen as transformers chooses it."""
    name = config.tokenizer.get("tokenizer_class")
    if config.model_type == "qwen2" or (name is None and config.model_type == "qwen3"):
        return byte_level.QWEN2
    rule = _RULES.get(name.removesuffix("Fast")) if isinstance(name, str) else byte_level.GPT2 if name is None else None
    if rule is None:
        raise ModelFileError(
            f"{config.folder / 'tokenizer_config.json'}: tokenizer_class: expected one of {', '.join(_RULES)} where"
            f" there is {vocab_name} and no tokenizer.json, got {quoted(name)}"
        )
    return rule
