"""Tiny tokenizers of every kind, trained here, and the files and GGUF metadata that hold them."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

LINES = [
    "The quick brown fox jumps over the lazy dog, and then it runs away.",
    "In the beginning there was a tokenizer; it cut words into pieces.",
    "Städte wie München, Köln und Düsseldorf liegen nicht am Meer.",
    "Привет, мир! Как дела? Всё хорошо, спасибо.",
    "def encode(text: str) -> list[int]:\n    return [vocab[word] for word in text.split()]",
    "1 + 1 = 2, 12 * 12 = 144, 3.14159 and 2024-11-23",
    "你好，世界。今天天气很好。", "こんにちは世界", "안녕하세요 세계", "emoji 🎉🎉 and 👍🏽",
    "  two  spaces   three    four",
]  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|im_start|>"]
USER_DEFINED = ("<user>", "▁▁", "▁▁▁")

_CHARACTERS = list(
    "abcdefgh tTHe  \n\t.,!?'0123456789äöüßéñЖд你好世界한日▁ĠĊ🎉👍🏽\u200d\u0301\u00a0\x00\x7f\ufffd<>|_-=()[]{}"
)
_PARTS = [
    "the ",
    "The",
    " and",
    "tokenizer",
    "<s>",
    "</s>",
    "<unk>",
    "<0x41>",
    "    ",
    "\n\n",
    "<|endoftext|>",
    "<|im_end|>",
]
_PARTS += ["<|im_start|>", "<user>", "München", "Привет", "<a", "<|im", "123", "1234567", "'s", "n't"]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of characters that tokenizers treat differently, of words, and of spellings of special tokens."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        choices = (_CHARACTERS, _PARTS, _CHARACTERS + _PARTS)[number % 3]
        texts.append("".join(draw.choices(choices, k=draw.randrange(1, 40))))
    return ["", " ", "  ", *LINES, *texts]


def random_ids(count: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Sequences of ids, many of them of no sense as text."""
    draw = random.Random(seed)
    return [[draw.randrange(vocab_size) for _ in range(draw.randrange(1, 30))] for _ in range(count)]


@cache
def pieces_model(kind: str = "bpe", **options: Any) -> bytes:
    """A tokenizer.model as the sentencepiece trainer writes it."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for lines in LINES for line in lines.split("\n")] * 20),
        model_writer=out, model_type=kind, vocab_size=500, hard_vocab_limit=False, minloglevel=9, num_threads=1,
        **cast(Any, {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
           "user_defined_symbols": list(USER_DEFINED), "control_symbols": ["<|im_start|>"]} | options),
    )  # fmt: skip
    return out.getvalue()


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """The library's own object."""
    found = sentencepiece.SentencePieceProcessor()
    found.LoadFromSerializedProto(model)
    return found


def pieces_metadata(model: bytes, **more: Any) -> dict[str, Any]:
    """A SentencePiece BPE as llama.cpp's converter writes it into GGUF."""
    original = processor(model)
    numbers = range(original.get_piece_size())
    types = []
    for number in numbers:
        kind = 1
        for is_kind, value in (("is_unknown", 2), ("is_control", 3), ("is_unused", 5), ("is_byte", 6)):
            kind = value if getattr(original, is_kind)(number) else kind
        types.append(4 if original.id_to_piece(number) in USER_DEFINED else kind)
    tokens = [original.id_to_piece(number) for number in numbers]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [t.replace("▁", " ") if k == 4 else t for t, k in zip(tokens, types, strict=True)],
        "tokenizer.ggml.scores": np.array([original.get_score(number) for number in numbers], np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": original.bos_id(),
        "tokenizer.ggml.eos_token_id": original.eos_id(),
        "tokenizer.ggml.unknown_token_id": original.unk_id(),
    } | {key if "." in key else f"tokenizer.ggml.{key}": value for key, value in more.items()}


@cache
def byte_level() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE; the special tokens come last."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    engine.train_from_iterator(LINES * 20, trainer)
    model = json.loads(engine.to_str())["model"]
    vocab = dict(model["vocab"])
    for text in SPECIAL:
        vocab[text] = len(vocab)
    return vocab, [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]


def write_vocab_and_merges(folder: Path, names: tuple[str, str] = ("vocab.json", "merges.txt")) -> None:
    """GPT-2's two files."""
    vocab, merges = byte_level()
    (folder / names[0]).write_text(json.dumps(vocab), encoding="utf-8")
    lines = "\n".join(" ".join(pair) for pair in merges)
    (folder / names[1]).write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")


def byte_level_metadata(pre: str, **more: Any) -> dict[str, Any]:
    """A byte-level BPE as llama.cpp's converter writes it into GGUF."""
    vocab, merges = byte_level()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": list(vocab),
        "tokenizer.ggml.token_type": np.array([3 if text in SPECIAL else 1 for text in vocab], np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.eos_token_id": vocab["<|endoftext|>"],
        "tokenizer.ggml.bos_token_id": vocab["<|endoftext|>"],
    } | {key if "." in key else f"tokenizer.ggml.{key}": value for key, value in more.items()}


def byte_level_original(pre_tokenizer: pre_tokenizers.PreTokenizer, **options: Any) -> tokenizers.Tokenizer:
    """The library's own tokenizer for the trained byte-level BPE."""
    vocab, merges = byte_level()
    engine = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=list(merges), **options))
    engine.pre_tokenizer = pre_tokenizer
    engine.decoder = tokenizers.decoders.ByteLevel()
    engine.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in SPECIAL])
    return engine


def library_json(kind: str, model: bytes | None = None) -> dict[str, Any]:
    """A tokenizer.json of one of the families that the library knows: gpt2, llama3, llama2, gemma, metaspace."""
    vocab, _ = byte_level()
    if kind in ("gpt2", "llama3"):
        engine = byte_level_original(pre_tokenizers.ByteLevel(add_prefix_space=False))
        document: dict[str, Any] = json.loads(engine.to_str())
        if kind == "llama3":
            document["pre_tokenizer"] = LLAMA3
            document["model"]["ignore_merges"] = True
            document["post_processor"] = {
                "type": "Sequence",
                "processors": [BYTE_LEVEL, template("<|im_start|>", vocab)],
            }
        return document
    if kind == "metaspace":
        engine = tokenizers.Tokenizer(models.Unigram())
        engine.pre_tokenizer = pre_tokenizers.Metaspace()
        engine.decoder = tokenizers.decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
        )
        engine.train_from_iterator(LINES * 20, trainer)
        return dict(json.loads(engine.to_str()))
    return _pieces_json(kind, model or pieces_model("bpe"))


def _pieces_json(kind: str, model: bytes) -> dict[str, Any]:
    """A SentencePiece BPE as transformers converts it, for Llama 2 or for Gemma."""
    original = processor(model)
    tokens = [original.id_to_piece(number) for number in range(original.get_piece_size())]
    vocab = {text: number for number, text in enumerate(tokens)}
    scores = {text: original.get_score(number) for text, number in vocab.items()}
    normal = [
        t for t, n in vocab.items() if not (original.is_byte(n) or original.is_control(n) or original.is_unknown(n))
    ]
    pairs = [(t[:at], t[at:]) for t in normal for at in range(1, len(t)) if t[:at] in scores and t[at:] in scores]
    merges = sorted(pairs, key=lambda pair: (-scores["".join(pair)], vocab[pair[0]], vocab[pair[1]]))
    added = [
        {"id": vocab[text], "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": text not in USER_DEFINED}
        for text in ("<unk>", "<s>", "</s>", "<|im_start|>", *USER_DEFINED)
    ]  # fmt: skip
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}
    ]  # fmt: skip
    normalizer: dict[str, Any] = spaces
    if kind == "llama2":
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": None, "post_processor": template("<s>", vocab),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "vocab": vocab,
                  "merges": [list(pair) for pair in merges]},
    }  # fmt: skip


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
LLAMA3 = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "behavior": "Isolated", "invert": False, "pattern": {"Regex": (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
            r"|\s+(?!\S)|\s+")}},
        BYTE_LEVEL,
    ],
}  # fmt: skip


def template(bos: str, vocab: dict[str, int]) -> dict[str, Any]:
    """A post-processor that puts BOS before a text."""
    single = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, *single[1:]], "special_tokens": special}


def write_json(folder: Path, document: Any, name: str = "tokenizer.json") -> Path:
    """Write a JSON file; returns the folder."""
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder
