"""The originals of real models' tokenizers, as objects of the ``tokenizers`` library.

They are built from the vocabulary and the published recipe (the parts of the original tokenizer.json), not with pyml.
The recipe for Gemma is compared with hashes of the ids that its own tokenizer.json gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from tests.helpers.tokenizer_files import CONTROL, USER_DEFINED, unescaped_spaces


def from_file(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json, loaded by the library."""
    engine = tokenizers.Tokenizer.from_file(str(path))
    engine.no_truncation()
    engine.no_padding()
    return engine


def byte_level(
    vocab: dict[str, int], merges: Sequence[str], special: Sequence[str], digits: bool = False
) -> tokenizers.Tokenizer:
    """GPT-2's recipe; with ``digits`` SmolLM2's, which takes every digit alone."""
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    engine = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alone = pre_tokenizers.Digits(individual_digits=True)
    engine.pre_tokenizer = pre_tokenizers.Sequence([alone, splitter]) if digits else splitter
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return engine


def byte_level_of_gguf(metadata: Mapping[str, Any], digits: bool) -> tokenizers.Tokenizer:
    """:func:`byte_level` with the vocabulary of a GGUF file."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    vocab = {token: number for number, token in enumerate(tokens)}
    return byte_level(vocab, metadata["tokenizer.ggml.merges"], special, digits)


def gpt2(folder: Path) -> tokenizers.Tokenizer:
    """:func:`byte_level` with GPT-2's vocab.json and merges.txt."""
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    return byte_level(vocab, merges, ["<|endoftext|>"])


def gemma(metadata: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Gemma's recipe with the pieces of a GGUF file: BPE with bytes for unknown characters, ▁ for spaces, BOS first.

    A SentencePiece model has scores in place of merges: every way to make a piece of two others is a merge, and the
    merges of a better piece come first, those of user-defined pieces (whose scores mean nothing) before all.
    """
    kinds = [int(kind) for kind in metadata["tokenizer.ggml.token_type"]]
    pieces = unescaped_spaces(metadata["tokenizer.ggml.tokens"], kinds)
    scores = [float(score) for score in metadata["tokenizer.ggml.scores"]]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges: list[tuple[float, int, int, str, str]] = []
    for piece, score, kind in zip(pieces, scores, kinds, strict=True):
        rank = -math.inf if kind == USER_DEFINED else -score
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocab and right in vocab:
                merges.append((rank, vocab[left], vocab[right], left, right))
    merges.sort()
    model = models.BPE(
        vocab=vocab,
        merges=[(left, right) for *_, left, right in merges],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    engine = tokenizers.Tokenizer(model)
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    engine.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])])
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        texts = (piece for piece, found in zip(pieces, kinds, strict=True) if found == kind)
        added = [AddedToken(text, normalized=False, special=special) for text in texts]
        (engine.add_special_tokens if special else engine.add_tokens)(added)
    return engine
