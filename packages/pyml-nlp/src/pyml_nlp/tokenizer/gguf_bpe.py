"""Tokenizers of GGUF files with the models ``gpt2``, byte-level BPE, and ``gemma4``, BPE on the text itself."""

from __future__ import annotations

import json
from difflib import get_close_matches

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Engine

from pyml_core.errors import quoted

from . import byte_level
from .base import Tokenizer, TokenizerMetadata
from .byte_level import PRE_TOKENIZERS
from .decoding import SPACE
from .gguf_vocabulary import KEY, Vocabulary
from .guard import guarded
from .json_decoder import decoder
from .library import LibraryTokenizer, build_bpe
from .model_proto import BYTE, CONTROL, UNKNOWN, USER_DEFINED

_COMMON = ("gpt-2", "llama-bpe", "qwen2", "gpt-4o", "tekken", "smollm")
"""Names in the message about an unknown one."""


def load_gpt2(vocabulary: Vocabulary) -> Tokenizer:
    """Load a byte-level BPE.

    Raises:
        ModelFileError: a key is missing or malformed, or the pre-tokenizer is unknown.
    """
    name = vocabulary.text(KEY + "pre")
    if name is None:
        vocabulary.warn("pre", "missing: text is cut as for GPT-2")
        name = "default"
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        near = get_close_matches(name[:100], PRE_TOKENIZERS, 1)
        known = ", ".join([*near, *(known for known in _COMMON if known not in near)])
        raise vocabulary.fail(
            "pre", f"expected one of {known} or another of {len(PRE_TOKENIZERS)} known names, got {quoted(name)}"
        )
    tokens = vocabulary.tokens
    repeated, vocab = _vocab(vocabulary)
    merges = vocabulary.merges()
    added = vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
    metadata = vocabulary.tokenizer_metadata("gguf gpt2", add_bos=rule.add_bos, default_ids={})
    model = build_bpe(vocab, merges, vocabulary.label, ignore_merges=rule.ignore_merges)
    with guarded(vocabulary.label):
        engine = Engine(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule)
        _add_tokens(engine, vocabulary, metadata, repeated)
    texts = {number: tokens[number] for number in repeated}  # the library has other ids for these texts
    # An added token is plain text, even if all its characters could stand for bytes.
    texts |= {number: byte_level.from_bytes(tokens[number].encode()) for number in added}
    return LibraryTokenizer(metadata, engine, texts=texts)


_GEMMA4_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}


def load_gemma4(vocabulary: Vocabulary) -> Tokenizer:
    """Load a BPE whose merges are of text with ``▁`` for spaces; only newlines are apart from the rest.

    Raises:
        ModelFileError: a key is missing or malformed.
    """
    repeated, vocab = _vocab(vocabulary)
    metadata = vocabulary.tokenizer_metadata("gguf gemma4", add_bos=True, default_ids={})
    model = build_bpe(vocab, vocabulary.merges(), vocabulary.label, byte_fallback=bool(vocabulary.ids_of(BYTE)))
    with guarded(vocabulary.label):
        engine = Engine(model)
        engine.normalizer = normalizers.Replace(" ", SPACE)
        engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
        _add_tokens(engine, vocabulary, metadata, repeated)
    make_decoding, piece_bytes = decoder({"decoder": _GEMMA4_DECODER}, vocabulary.label)
    texts = {number: vocabulary.tokens[number] for number in repeated}
    return LibraryTokenizer(metadata, engine, make_decoding, piece_bytes, texts, json.dumps(_GEMMA4_DECODER))


def _vocab(vocabulary: Vocabulary) -> tuple[set[int], dict[str, int]]:
    """Return the ids of tokens whose text belongs to another token, and the other ids by text."""
    tokens = vocabulary.tokens
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    repeated = set() if len(vocab) == len(tokens) else set(vocabulary.repeated(tokens))
    if repeated:
        vocab = {text: number for number, text in enumerate(tokens) if number not in repeated}
    return repeated, vocab


def _add_tokens(engine: Engine, vocabulary: Vocabulary, metadata: TokenizerMetadata, repeated: set[int]) -> None:
    """Add the tokens that are matched in text before all else."""
    special = set(metadata.special_ids)
    engine.add_tokens(
        [
            AddedToken(vocabulary.tokens[number], normalized=False, special=number in special)
            for number in vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
            if number not in repeated
        ]
    )
