"""A folder of an embedding model in the layout of sentence-transformers: a tiny BERT with a WordPiece tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.helpers.tiny_models import ENCODERS

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##a", "##b", "cat", "##s", "cafe", ".", "中"]


def tokenizer_json(**model: Any) -> dict[str, Any]:
    vocab = {word: number for number, word in enumerate(WORDS)}
    specials = {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [
            {"id": vocab[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for word in WORDS[:4]
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [], "special_tokens": specials,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab, **model},
    }  # fmt: skip


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(value))


def write_folder(path: Path) -> Path:
    """Make the folder, and return it."""
    from safetensors.numpy import save_file

    model = ENCODERS["bert"]
    path.mkdir()
    save_file(model.weights(), path / "model.safetensors")
    write(path, "config.json", model.config)
    write(path, "tokenizer.json", tokenizer_json())
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write(path, "modules.json", [{"path": at, "type": f"sentence_transformers.models.{kind}"} for at, kind in kinds])
    pooling = {"word_embedding_dimension": 96, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write(path, "1_Pooling/config.json", pooling)
    write(path, "sentence_bert_config.json", {"max_seq_length": 8, "do_lower_case": False})
    write(path, "config_sentence_transformers.json", {"prompts": {"query": "a cat. "}, "default_prompt_name": None})
    return path
