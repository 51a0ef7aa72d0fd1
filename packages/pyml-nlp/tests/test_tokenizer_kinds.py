"""Tokenizers of every kind against the library that made them: equal ids, equal text, at once and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizer_makers import (
    SPECIAL,
    byte_level,
    byte_level_metadata,
    byte_level_original,
    library_json,
    pieces_metadata,
    pieces_model,
    processor,
    random_ids,
    random_texts,
    write_json,
    write_vocab_and_merges,
)
from tokenizers import Regex, normalizers, pre_tokenizers

from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from pyml_nlp.tokenizer.byte_level import PRE_TOKENIZERS, build_pre_tokenizer, to_bytes
from pyml_nlp.tokenizer.gguf import load_gguf

TEXTS = random_texts(600)


def same_ids(
    tokenizer: Tokenizer, original: Callable[[str], list[int]], texts: Iterable[str] = TEXTS, **how: Any
) -> None:
    for text in texts:
        assert tokenizer.encode(text, **how) == original(text), repr(text)


def same_text(tokenizer: Tokenizer, original: Callable[[list[int]], str], sequences: Iterable[list[int]]) -> None:
    for ids in sequences:
        stream = tokenizer.stream_decoder()
        pieces = [*map(stream.push, ids), stream.flush()]
        assert "".join(pieces) == tokenizer.decode(ids) == original(ids), ids


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "gemma", "metaspace"])
def test_tokenizer_json(kind: str, tmp_path: Path) -> None:
    write_json(tmp_path, library_json(kind))
    tokenizer = load_tokenizer(tmp_path)
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.kind == "tokenizer.json"
    assert tokenizer.vocab_size == original.get_vocab_size()
    same_ids(tokenizer, lambda text: original.encode(text).ids)
    same_ids(tokenizer, lambda text: original.encode(text, add_special_tokens=False).ids, add_special=False)
    same_text(tokenizer, original.decode, random_ids(600, tokenizer.vocab_size))
    same_text(tokenizer, original.decode, map(tokenizer.encode, TEXTS))
    original.encode_special_tokens = True
    same_ids(tokenizer, lambda text: original.encode(text).ids, parse_special=False)


def test_tokenizer_json_without_decoder_and_with_strip(tmp_path: Path) -> None:
    document = library_json("gemma")
    for decoder in (
        None,
        {"type": "Strip", "content": "e", "start": 2, "stop": 0},
        {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Strip", "content": "t", "start": 1, "stop": 0}],
        },
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": "<", "start": 3, "stop": 0}]},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True},
        {"type": "Sequence", "decoders": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}]},
    ):
        write_json(tmp_path, {**document, "decoder": decoder})
        tokenizer = load_tokenizer(tmp_path)
        original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        same_text(tokenizer, original.decode, random_ids(200, tokenizer.vocab_size))


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_vocab_and_merges(names: tuple[str, str], tmp_path: Path) -> None:
    write_vocab_and_merges(tmp_path, names)
    tokenizer = load_tokenizer(tmp_path)
    original = byte_level_original(pre_tokenizers.ByteLevel(add_prefix_space=False))
    end = byte_level()[0]["<|endoftext|>"]
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_ids) == ("vocab.json", end, (end,))
    texts = [text for text in TEXTS if "<|im_start|>" not in text]  # a token that only the other files can declare
    same_ids(tokenizer, lambda text: original.encode(text).ids, texts)
    same_text(tokenizer, original.decode, map(tokenizer.encode, texts))
    write_json(
        tmp_path, {"additional_special_tokens": ["<|im_start|>"], "add_prefix_space": True}, "tokenizer_config.json"
    )
    original.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    same_ids(load_tokenizer(tmp_path), lambda text: original.encode(text).ids)


AS_LLAMA3 = ["falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"]
AS_QWEN2 = ["deepseek-r1-qwen", "kormo", "megrez", "f2llmv2"]
AS_GPT2 = ["a.x-4.0", "exaone4", "gigachat", "granite-docling", "mellum", "trillion", "jais", "modern-bert"]
AS_GPT2 += ["jina-de", "jina-es", "jina-v2-de", "jina-v2-es"]
AS_GPT4O = ["kanana2", "llama4", "minimax-m2", "talkie"]
AS_DEEPSEEK3 = ["hunyuan-dense", "hy_v4", "joyai-llm"]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_gguf_byte_level(pre: str) -> None:
    tokenizer = load_gguf(byte_level_metadata(pre, add_bos_token=False), "test.gguf")
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    splits = PRE_TOKENIZERS[pre].splits
    if splits is not None:
        steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in splits]
        if pre in ("viking", "deepseek-coder"):
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        rule: pre_tokenizers.PreTokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif pre in ("smollm", "starcoder", "refact", "codeshell", "command-r", "exaone", "minerva-7b", "mellum2"):
        rule = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    else:
        rule = gpt2
    words_first = {*AS_LLAMA3, "llama3", "llama-v3", "llama-bpe", "tekken", "glm4", "glm5", "minicpm5"}
    original = byte_level_original(rule, ignore_merges=pre in words_first)
    if pre in (*AS_QWEN2, "qwen2", "qwen35", "command-r", "mpt", "olmo"):
        original.normalizer = normalizers.NFC()
    texts = TEXTS[:250]
    same_ids(tokenizer, lambda text: original.encode(text).ids, texts)
    same_text(tokenizer, original.decode, map(tokenizer.encode, texts))
    same_text(tokenizer, original.decode, random_ids(100, tokenizer.vocab_size))
    original.encode_special_tokens = True
    same_ids(tokenizer, lambda text: original.encode(text).ids, texts, parse_special=False)


WORDS = {
    "gpt-2": "It|'s| 12345| caf\u00e9s|,|\n\n | x|+=|1|;| \u4f60\u597d\ud55c| \u00bd| \t",
    "smollm": "It|'s| |1|2|3|4|5| caf\u00e9s|,|\n\n | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "llama-bpe": "It|'s| |123|45| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "qwen2": "It|'s| |1|2|3|4|5| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "gpt-4o": "It's| |123|45| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "seed-coder": "It|'s| |1|2|3|4|5| caf\u00e9s|,|\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "stablelm2": "It|'s| |1|2|3|4|5| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "bailingmoe": "It|'s| |1|2|3|4|5| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "minicpm5": "It|'s| |123|45| caf\u00e9s|,\n\n| | x|+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "falcon": "It|'|s| |123|45| caf\u00e9s|,|\n\n | x|+=|1|;| \u4f60\u597d\ud55c| \u00bd| \t",
    "bloom": "It's| 12345| caf\u00e9s|,\n\n | x+=1;| \u4f60\u597d\ud55c| \u00bd| \t",
    "viking": "It's| |1|2|3|4|5| caf\u00e9s|,\n\n | x+=|1|;| \u4f60\u597d\ud55c| |\u00bd| \t",
    "deepseek-llm": "It|'|s| |12345| caf|\u00e9|s|,|\n|\n| | x|+=|1|;| |\u4f60\u597d\ud55c| |\u00bd| \t",
    "deepseek-coder": "It|'|s| |1|2|3|4|5| caf\u00e9s|,|\n|\n| | x|+=|1|;| |\u4f60\u597d\ud55c| |\u00bd| \t",
    "deepseek-v3": "It|'s| |123|45| caf\u00e9s|,\n\n| | x|+=|1|;| |\u4f60\u597d|\ud55c| |\u00bd| \t",
}
"""Splits of one text, with words separated by bars; llama.cpp has the same ids as pyml with each of these rules."""


@pytest.mark.parametrize("pre", WORDS)
def test_how_text_is_cut(pre: str) -> None:
    words = WORDS[pre].split("|")
    cut = build_pre_tokenizer(PRE_TOKENIZERS[pre]).pre_tokenize_str("".join(words))
    assert [to_bytes(word).decode() for word, _ in cut] == words


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (AS_LLAMA3, "llama-bpe"),
        (AS_QWEN2, "qwen2"),
        (AS_GPT2, "gpt-2"),
        (AS_GPT4O, "gpt-4o"),
        (AS_DEEPSEEK3, "deepseek-v3"),
    ],
)
def test_other_names_of_a_rule(names: list[str], same: str) -> None:
    for name in names:
        assert PRE_TOKENIZERS[name] == PRE_TOKENIZERS[same]


def test_gguf_bos_and_eos() -> None:
    vocab, _ = byte_level()
    bos, start = vocab["<|endoftext|>"], vocab["<|im_start|>"]
    for pre, adds in (("gpt-2", False), ("llama-bpe", True), ("tekken", True)):
        tokenizer = load_gguf(byte_level_metadata(pre), "test.gguf")
        assert tokenizer.encode("") == ([bos] if adds else [])
    metadata = byte_level_metadata(
        "gpt-2", add_bos_token=True, add_eos_token=True, eot_token_id=start, bos_token_id=start
    )
    tokenizer = load_gguf({**metadata, "tokenizer.chat_template": "{{ x }}"}, "test.gguf")
    assert tokenizer.encode("") == [start, bos]
    assert tokenizer.encode("", add_special=False) == []
    assert tokenizer.eos_ids == tuple(sorted((bos, start)))
    assert tokenizer.chat_template == "{{ x }}"
    assert tokenizer.special_ids == {bos, start}


def test_gguf_added_tokens_are_their_own_text() -> None:
    metadata = byte_level_metadata("gpt-2")
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"][:-1], "é ü"]
    metadata["tokenizer.ggml.token_type"][-1] = 4
    tokenizer = load_gguf(metadata, "test.gguf")
    number = tokenizer.vocab_size - 1
    assert tokenizer.encode("é ü", parse_special=False) == [number]
    assert tokenizer.token_bytes(number) == "é ü".encode()
    assert tokenizer.decode([number]) == "é ü"


def plain(text: str) -> bool:
    """Whether SentencePiece itself, which reads no control token in text, cuts the text as its tokenizer does."""
    return not any(special in text for special in ("<s>", "</s>", "<unk>", "<|im_start|>"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_tokenizer_model(kind: str, rule: str, tmp_path: Path) -> None:
    model = pieces_model(kind, normalization_rule_name=rule, remove_extra_whitespaces=rule != "identity")
    (tmp_path / "tokenizer.model").write_bytes(model)
    write_json(tmp_path, {"add_bos_token": True}, "tokenizer_config.json")
    tokenizer = load_tokenizer(tmp_path)
    original = processor(model)
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_ids) == ("tokenizer.model", 1, (2,))
    assert tokenizer.vocab_size == original.get_piece_size()
    same_ids(tokenizer, lambda text: [1, *original.encode(text)], filter(plain, TEXTS))
    same_ids(tokenizer, original.encode, TEXTS, add_special=False, parse_special=False)
    same_text(
        tokenizer,
        lambda ids: original.decode([i for i in ids if i not in tokenizer.special_ids]),
        random_ids(600, tokenizer.vocab_size),
    )
    same_text(
        tokenizer,
        lambda ids: original.decode([i for i in ids if i not in tokenizer.special_ids]),
        map(tokenizer.encode, TEXTS),
    )


def test_tokenizer_model_puts_the_space_where_the_config_says(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(pieces_model("bpe"))
    original = processor(pieces_model("bpe"))
    space_the = original.encode("the")
    for config, after in (({}, False), ({"legacy": False}, False), ({"legacy": True}, True)):
        write_json(tmp_path, config, "tokenizer_config.json")
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.encode("the", add_special=False) == space_the
        assert (tokenizer.encode("<s>the", add_special=False) == [1, *space_the]) is after
        the = tokenizer.encode("<s>the", add_special=False)[1:]
        assert b"".join(map(tokenizer.token_bytes, the)) == (b" the" if after else b"the")
    write_json(tmp_path, {"add_prefix_space": False}, "tokenizer_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode("the", add_special=False))) == b"the"


@pytest.mark.parametrize("prefix", [True, False])
def test_gguf_pieces(prefix: bool, tmp_path: Path) -> None:
    model = pieces_model("bpe", add_dummy_prefix=prefix)
    tokenizer = load_gguf(pieces_metadata(model, add_space_prefix=prefix), "test.gguf")
    document = library_json("llama2" if prefix else "gemma", model)
    original = tokenizers.Tokenizer.from_file(str(write_json(tmp_path, document) / "tokenizer.json"))
    same_ids(tokenizer, lambda text: original.encode(text).ids)
    own = processor(model)
    whole = [text for text in TEXTS if "<user>" not in text and "▁▁" not in text]
    same_ids(tokenizer, own.encode, whole, add_special=False, parse_special=False)
    same_text(
        tokenizer,
        lambda ids: own.decode([i for i in ids if i not in tokenizer.special_ids]),
        random_ids(600, tokenizer.vocab_size),
    )


def test_gguf_pieces_without_an_unknown_token() -> None:
    metadata = pieces_metadata(pieces_model("bpe"))
    del metadata["tokenizer.ggml.unknown_token_id"]
    metadata["tokenizer.ggml.token_type"][0] = 3
    tokenizer = load_gguf(metadata, "test.gguf")
    same_ids(tokenizer, load_gguf(pieces_metadata(pieces_model("bpe")), "test.gguf").encode)
    assert max(max(tokenizer.encode(text), default=0) for text in TEXTS) < tokenizer.vocab_size


def test_gguf_defaults_of_pieces() -> None:
    metadata = pieces_metadata(pieces_model("bpe"))
    for key in ("bos_token_id", "eos_token_id"):
        del metadata[f"tokenizer.ggml.{key}"]
    tokenizer = load_gguf(metadata, "test.gguf")
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.encode("")) == (1, (2,), [1])


def test_control_tokens_end_a_turn() -> None:
    metadata = byte_level_metadata("gpt-2")
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"][:-1], "<|im_end|>"]
    tokenizer = load_gguf(metadata, "test.gguf")
    assert tokenizer.eos_ids == (tokenizer.vocab_size - 2, tokenizer.vocab_size - 1)


def test_special_tokens_in_plain_text_stay_text(tmp_path: Path) -> None:
    write_json(tmp_path, library_json("gpt2"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.model").write_bytes(pieces_model("bpe"))
    for tokenizer in (
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "model"),
        load_gguf(byte_level_metadata("llama-bpe"), "test.gguf"),
        load_gguf(pieces_metadata(pieces_model("bpe")), "test.gguf"),
    ):
        for text in [*TEXTS, *SPECIAL, "<s>", "a<unk>b"]:
            ids = tokenizer.encode(text, add_special=False, parse_special=False)
            assert not tokenizer.special_ids.intersection(ids)
            assert tokenizer.decode(ids) == tokenizer.decode(ids, skip_special=False)
            if "▁" not in text and "<user>" not in text:  # where it puts a space after a token, there is one more
                assert tokenizer.decode(ids) == text


def test_load_tokenizer_prefers_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(pieces_model("bpe"))
    assert load_tokenizer(tmp_path).kind == "tokenizer.model"
    write_vocab_and_merges(tmp_path)
    assert load_tokenizer(str(tmp_path)).kind == "vocab.json"
    write_json(tmp_path, library_json("gpt2"))
    assert load_tokenizer(tmp_path).kind == "tokenizer.json"


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path: Path) -> None:
    original = tokenizers.Tokenizer.from_str(json.dumps(library_json("gpt2")))
    whole = original.encode("the quick brown fox").ids
    original.enable_truncation(2)
    original.enable_padding(length=50)
    (tmp_path / "tokenizer.json").write_text(original.to_str(), encoding="utf-8")
    assert load_tokenizer(tmp_path).encode("the quick brown fox") == whole
