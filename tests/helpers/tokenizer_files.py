"""Write tokenizer files: byte-level BPE (``tokenizer.json``, vocab and merges) and SentencePiece (``tokenizer.model``).

Used for the tiny models, whose vocabularies are made up here, and for real ones rebuilt from a GGUF file's metadata.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = (
    1,
    2,
    3,
    4,
    5,
    6,
)  # piece types, with equal numbers in GGUF and SentencePiece


@dataclass
class ByteLevel:
    """A byte-level BPE: tokens by id, merges by rank ("left right"), and the tokens that are never split.

    ``split_digits`` puts the pre-tokenizer of SmolLM2 in place of GPT-2's: each digit alone.
    """

    tokens: list[str]
    merges: list[str]
    special: list[str]
    split_digits: bool = False
    pre: str = "gpt-2"
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Pieces:
    """A SentencePiece BPE: pieces with scores and types, and the ids of the special ones."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    bos: int
    eos: int
    unk: int
    pad: int
    config: dict[str, Any] = field(default_factory=dict)


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte. Source: GPT-2's ``encoder.py``, ``bytes_to_unicode``."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


_PAIRS = """
th he in er an re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve co me de hi ri ro
ic ne ea
"""


def tiny_byte_level(vocab: int) -> ByteLevel:
    """``<|endoftext|>``, 256 bytes and merges of common letter pairs, plain and after a space: ``vocab`` tokens."""
    left_right = [(pair[0], pair[1]) for pair in _PAIRS.split()]
    left_right += [("Ġ", letter) for letter in "tasiowcbpfmhdnre"]
    left_right += [("Ġ" + pair[0], pair[1]) for pair in _PAIRS.split() if pair[0] in "tasiowcbpfmhdnre"]
    left_right = left_right[: vocab - 257]
    tokens = ["<|endoftext|>", *byte_alphabet(), *(left + right for left, right in left_right)]
    if len(tokens) != vocab:
        raise ValueError(f"vocab: expected at most {len(tokens)}, got {vocab}")
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": tokens[0],
        "eos_token": tokens[0],
        "unk_token": tokens[0],
    }
    return ByteLevel(tokens, [" ".join(pair) for pair in left_right], [tokens[0]], config=config)


def tiny_pieces(vocab: int) -> Pieces:
    """Gemma-like: control pieces, 256 bytes, characters, and letter pairs: ``vocab`` pieces."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    letters = list("▁etaoinshrdlcumwfgypbvkjxqz.,0123456789")
    pairs = [*_PAIRS.split(), *("▁" + letter for letter in "taosicwbpfmhd")]
    found = [*letters, *pairs][: vocab - len(control) - 256]
    pieces = [*control, *(f"<0x{byte:02X}>" for byte in range(256)), *found]
    if len(pieces) != vocab:
        raise ValueError(f"vocab: expected at most {len(pieces)}, got {vocab}")
    types = [CONTROL] * 6 + [BYTE] * 256 + [NORMAL] * len(found)
    types[3] = UNKNOWN
    scores = [0.0] * 262 + [-float(rank) for rank in range(len(found))]
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<bos>",
              "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}  # fmt: skip
    return Pieces(pieces, scores, types, bos=2, eos=1, unk=3, pad=0, config=config)


def write_byte_level(folder: Path, tokenizer: ByteLevel) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json."""
    vocab = {token: number for number, token in enumerate(tokenizer.tokens)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    splitter: dict[str, Any] = byte_level
    if tokenizer.split_digits:
        digits = {"type": "Digits", "individual_digits": True}
        splitter = {"type": "Sequence", "pretokenizers": [digits, byte_level]}
    added = [
        {"id": vocab[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for token in tokenizer.special
    ]  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": tokenizer.merges,
    }  # fmt: skip
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": splitter, "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(tokenizer.merges) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config, ensure_ascii=False), encoding="utf-8")


def write_sentencepiece(folder: Path, pieces: Pieces) -> None:
    """Write tokenizer.model and tokenizer_config.json."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    (folder / "tokenizer_config.json").write_text(json.dumps(pieces.config, ensure_ascii=False), encoding="utf-8")


def sentencepiece_model(pieces: Pieces) -> bytes:
    """The bytes of a ModelProto. Source: google/sentencepiece, ``sentencepiece_model.proto``."""
    out = bytearray()
    for piece, score, kind in zip(pieces.pieces, pieces.scores, pieces.types, strict=True):
        body = _bytes(1, piece.encode()) + _tag(2, 5) + struct.pack("<f", score) + _int(3, kind)
        out += _bytes(1, body)
    bpe, byte_fallback = 2, 1
    trainer = _int(3, bpe) + _int(4, len(pieces.pieces)) + _int(35, byte_fallback)
    trainer += _int(40, pieces.unk) + _int(41, pieces.bos) + _int(42, pieces.eos) + _int(43, pieces.pad)
    trainer += b"".join(_bytes(field, pieces.pieces[number].encode()) for field, number in
                        ((45, pieces.unk), (46, pieces.bos), (47, pieces.eos), (48, pieces.pad)))  # fmt: skip
    normalizer = _bytes(1, b"identity") + _int(3, 0) + _int(4, 0) + _int(5, 1)  # no dummy prefix, keep spaces, write ▁
    return bytes(out) + _bytes(2, trainer) + _bytes(3, normalizer)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _int(number: int, value: int) -> bytes:
    return _tag(number, 0) + _varint(value)


def _bytes(number: int, value: bytes) -> bytes:
    return _tag(number, 2) + _varint(len(value)) + value


def add_byte_level(writer: Any, tokenizer: ByteLevel) -> None:
    """Give a ``gguf.GGUFWriter`` the metadata of a byte-level tokenizer."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([CONTROL if token in tokenizer.special else NORMAL for token in tokenizer.tokens])
    writer.add_token_merges(tokenizer.merges)
    _add_ids(writer, bos=0, eos=0)
    writer.add_add_bos_token(False)


def add_pieces(writer: Any, pieces: Pieces) -> None:
    """Give a ``gguf.GGUFWriter`` the metadata of a SentencePiece tokenizer."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces.pieces)
    writer.add_token_scores(pieces.scores)
    writer.add_token_types(pieces.types)
    _add_ids(writer, bos=pieces.bos, eos=pieces.eos)
    writer.add_unk_token_id(pieces.unk)
    writer.add_pad_token_id(pieces.pad)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _add_ids(writer: Any, bos: int, eos: int) -> None:
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)


def gemma_pieces(metadata: Mapping[str, Any]) -> Pieces:
    """The pieces of Gemma's tokenizer.model, from a GGUF file's metadata."""
    types = [int(kind) for kind in metadata["tokenizer.ggml.token_type"]]
    types[3] = UNKNOWN
    pieces = unescaped_spaces(metadata["tokenizer.ggml.tokens"], types)
    scores = [float(score) for score in metadata["tokenizer.ggml.scores"]]
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    return Pieces(pieces, scores, types, bos=2, eos=1, unk=3, pad=0, config=config)


def unescaped_spaces(pieces: Sequence[str], types: Sequence[int]) -> list[str]:
    """GGUF's user-defined pieces hold plain spaces where SentencePiece has ▁: put them back."""
    return [
        piece.replace(" ", "▁") if kind == USER_DEFINED else piece for piece, kind in zip(pieces, types, strict=True)
    ]
