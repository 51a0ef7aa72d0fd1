"""tokenizer.json of XLM-RoBERTa's kind (Unigram, SentencePiece's map of characters) against SentencePiece itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece

from pyml_nlp.tokenizer import Tokenizer, load_tokenizer

TRAINING = [
    "the river runs past a small house and under an old bridge where children wait for boats in summer",
    "when the water is low they walk to the other side to buy bread from the baker who has lived there",
    "der alte Fluss fließt am kleinen Haus vorbei, wo Kinder im Sommer auf Boote warten, größer und älter",
    "le café près du pont est ouvert 24 heures, n'est-ce pas? œuvre naïve, façade, déjà vu 1 2 3 4 5 6 7 8 9",
]
TEXTS = [
    "the river", "  two  spaces ", "",
    "ﬁne ﬂow", "Ⅷ ½ ①", "ﷺ", "ｆｕｌｌ ｗｉｄｔｈ", "cafe\u0301", "a\tb\nc", "中文 日本",
    "größer GRÖSSER", "\u200bzero width\ufeff", "1½", "naïve" * 30, "🙂 the bridge", "▁ under_score",
]  # fmt: skip


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = data[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value, at

    at = 0
    while at < len(data):
        key, at = varint(at)
        if key & 7 == 2:
            size, at = varint(at)
            yield key >> 3, data[at : at + size]
            at += size
        elif key & 7 == 0:
            _, at = varint(at)
        else:
            at += 4 if key & 7 == 5 else 8


@pytest.fixture(scope="module")
def trained() -> bytes:
    """A model with SentencePiece's usual normalisation."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING * 20), model_writer=out, vocab_size=110, model_type="unigram",
        normalization_rule_name="nmt_nfkc", minloglevel=2, num_threads=1,
    )  # fmt: skip
    return out.getvalue()


@pytest.fixture(scope="module")
def tokenizer(trained: bytes, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same as a tokenizer.json."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained)
    (normalizer,) = (content for number, content in fields(trained) if number == 3)
    (charsmap,) = (content for number, content in fields(normalizer) if number == 2)
    assert len(charsmap) > 100_000
    pieces = [[processor.id_to_piece(n), processor.get_score(n)] for n in range(processor.get_piece_size())]
    spaces = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    document = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": pieces[number][0], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for number in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()},
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        ]},
        "pre_tokenizer": {"type": "Metaspace", **spaces},
        "post_processor": {
            "type": "TemplateProcessing", "pair": [],
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {name: {"id": name, "ids": [number], "tokens": [name]}
                               for number, name in ((1, "<s>"), (2, "</s>"))},
        },
        "decoder": {"type": "Metaspace", **spaces},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("unigram")
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_sentencepieces(text: str, trained: bytes, tokenizer: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained)
    assert tokenizer.encode(text) == [1, *processor.encode(text), 2]
