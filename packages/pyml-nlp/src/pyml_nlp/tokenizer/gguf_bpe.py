"""Tokenizers of GGUF files with the model ``gpt2``: byte-level BPE."""

from __future__ import annotations

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Engine

from pyml_core.errors import quoted

from . import byte_level
from .base import Tokenizer
from .byte_level import PRE_TOKENIZERS
from .gguf_vocabulary import KEY, Vocabulary
from .guard import guarded
from .library import LibraryTokenizer, build_bpe
from .model_proto import CONTROL, UNKNOWN, USER_DEFINED


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
        raise vocabulary.fail("pre", f"expected one of {', '.join(sorted(PRE_TOKENIZERS))}, got {quoted(name)}")
    tokens = vocabulary.tokens
    vocab = dict(zip(tokens, range(len(tokens)), strict=True))
    repeated = set() if len(vocab) == len(tokens) else set(vocabulary.repeated(tokens))
    if repeated:
        vocab = {text: number for number, text in enumerate(tokens) if number not in repeated}
    merges = vocabulary.merges()
    added = vocabulary.ids_of(CONTROL, UNKNOWN, USER_DEFINED)
    metadata = vocabulary.tokenizer_metadata("gguf gpt2", add_bos=rule.add_bos, default_ids={})
    model = build_bpe(vocab, merges, vocabulary.label, ignore_merges=rule.ignore_merges)
    with guarded(vocabulary.label):
        engine = Engine(model)
        if rule.nfc:
            engine.normalizer = normalizers.NFC()
        engine.pre_tokenizer = byte_level.build_pre_tokenizer(rule)
        special = set(metadata.special_ids)
        engine.add_tokens(
            [
                AddedToken(tokens[number], normalized=False, special=number in special)
                for number in added
                if number not in repeated
            ]
        )
    texts = {number: tokens[number] for number in repeated}  # the library has other ids for these texts
    # An added token is plain text, even if all its characters could stand for bytes.
    texts |= {number: byte_level.from_bytes(tokens[number].encode()) for number in added}
    return LibraryTokenizer(metadata, engine, texts=texts)
