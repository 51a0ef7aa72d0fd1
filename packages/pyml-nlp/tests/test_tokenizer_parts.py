"""Parts of the tokenizers: special tokens, streaming, limits, facts from small files."""

from __future__ import annotations

import contextlib
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizer_makers import (
    byte_level_metadata,
    library_json,
    pieces_metadata,
    pieces_model,
    random_texts,
    write_json,
    write_vocab_and_merges,
)

from pyml_core.errors import PymlError
from pyml_nlp.errors import ModelFileError
from pyml_nlp.tokenizer import MAX_TEXT, TextError, TokenIdError, Tokenizer, load_tokenizer
from pyml_nlp.tokenizer.byte_level import ALPHABET, from_bytes, to_bytes
from pyml_nlp.tokenizer.gguf import load_gguf
from pyml_nlp.tokenizer.model_proto import check, without_dummy_prefix
from pyml_nlp.tokenizer.special import SpecialTokens


def leftmost_longest(ids: dict[str, int], text: str) -> list[str | int]:
    found: list[str | int] = []
    at = done = 0
    while at < len(text):
        best = max((token for token in ids if text.startswith(token, at)), key=len, default="")
        if not best:
            at += 1
            continue
        found += [text[done:at]] if done < at else []
        found.append(ids[best])
        at = done = at + len(best)
    return found + ([text[done:]] if done < len(text) else [])


def test_special_tokens_are_found_leftmost_and_longest() -> None:
    draw = random.Random(1)
    for _ in range(300):
        letters = draw.choice(["ab", "<>|a", "^]-\\[", "▁ \n"])
        tokens = {"".join(draw.choices(letters, k=draw.randrange(1, 6))) for _ in range(draw.randrange(1, 12))}
        ids = {token: number for number, token in enumerate(sorted(tokens))}
        splitter = SpecialTokens(ids)
        for _ in range(10):
            text = "".join(draw.choices(letters + "x", k=draw.randrange(0, 40)))
            assert list(splitter.split(text)) == leftmost_longest(ids, text), (ids, text)


def test_special_tokens_of_too_many_lengths_are_refused() -> None:
    """Each length is compared at each place of a text where such a token may begin."""
    SpecialTokens({" " * length: length for length in range(1, 129)})
    SpecialTokens({"<" + "a" * 40 + str(number): number for number in range(10_000)})
    with pytest.raises(ModelFileError, match=r"that begin with '>': .* at most 16384, got 200 lengths up to 200"):
        SpecialTokens({">" * length: length for length in range(1, 201)})
    with pytest.raises(ModelFileError, match=r"got 1 lengths up to 20000"):
        SpecialTokens({"a" * 20_000: 0})


def test_no_special_tokens() -> None:
    assert list(SpecialTokens({}).split("abc")) == ["abc"]
    assert list(SpecialTokens({"a": 0}).split("")) == []


def test_the_alphabet_of_bytes() -> None:
    assert len(set(ALPHABET)) == 256
    assert ALPHABET[0x20] == "Ġ"
    assert ALPHABET[0x0A] == "Ċ"
    assert to_bytes(from_bytes(bytes(range(256)))) == bytes(range(256))
    assert to_bytes("é ") == "é ".encode()


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Tokenizer]:
    found = [
        load_gguf(byte_level_metadata("gpt-2"), "test.gguf"),
        load_gguf(pieces_metadata(pieces_model("bpe")), "test.gguf"),
    ]
    for kind in ("gpt2", "gemma", "metaspace"):
        found.append(load_tokenizer(write_json(tmp_path_factory.mktemp(kind), library_json(kind))))
    folder = tmp_path_factory.mktemp("model")
    (folder / "tokenizer.model").write_bytes(pieces_model("unigram"))
    found.append(load_tokenizer(folder))
    folder = tmp_path_factory.mktemp("vocab")
    write_vocab_and_merges(folder)
    return [*found, load_tokenizer(folder)]


def test_streamed_text_has_whole_characters_only(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        for text in random_texts(200):
            stream = tokenizer.stream_decoder()
            pieces = [stream.push(number) for number in tokenizer.encode(text)]
            assert "\ufffd" not in "".join(pieces) or "\ufffd" in text or tokenizer.kind == "tokenizer.json"
            assert "".join([*pieces, stream.flush()]) == tokenizer.decode(tokenizer.encode(text))


def test_a_character_comes_with_its_last_byte() -> None:
    for tokenizer in (
        load_gguf(byte_level_metadata("gpt-2"), "test.gguf"),
        load_gguf(pieces_metadata(pieces_model("bpe")), "test.gguf"),
    ):
        by_byte = {
            tokenizer.token_bytes(n): n for n in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(n)) == 1
        }
        stream = tokenizer.stream_decoder()
        assert [stream.push(by_byte[bytes([byte])]) for byte in "ɐ".encode()] == ["", "ɐ"]
        assert [stream.push(by_byte[bytes([byte])]) for byte in "🜁".encode()] == ["", "", "", "🜁"]
        assert stream.push(by_byte["🜁".encode()[:1]]) == ""
        assert stream.flush() == "\ufffd"
        assert stream.flush() == ""


def test_control_tokens_are_skipped_unless_asked_for(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        for number in tokenizer.special_ids:
            assert tokenizer.decode([number]) == ""
            stream = tokenizer.stream_decoder(skip_special=False)
            spelled = stream.push(number) + stream.flush()
            assert spelled == tokenizer.decode([number], skip_special=False)
            assert spelled == tokenizer.token_bytes(number).decode() != ""


def test_bytes_of_tokens_are_those_of_the_text(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        for text in random_texts(100):
            ids = tokenizer.encode(text, add_special=False)
            joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
            assert joined in (found := tokenizer.decode(ids, skip_special=False), " " + found)


def test_texts_that_cannot_be_encoded(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        with pytest.raises(TextError, match=r"surrogate '\\ud800' at 2"):
            tokenizer.encode("ab\ud800")
        with pytest.raises(TextError, match=f"at most {MAX_TEXT} characters, got {MAX_TEXT + 1}"):
            tokenizer.encode("a" * (MAX_TEXT + 1))


def test_ids_that_are_none(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        for wrong in (-1, 1.0, "a", None):
            with pytest.raises(TokenIdError):
                tokenizer.decode([wrong])  # type: ignore[list-item]
            with pytest.raises(TokenIdError):
                tokenizer.token_bytes(wrong)  # type: ignore[arg-type]
        assert tokenizer.decode([tokenizer.vocab_size, 1 << 40]) == ""  # rows that pad a matrix
        assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
        ids = tokenizer.encode("the dog")
        assert tokenizer.decode(np.array(ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", ["^", "a", " ", "\n", "<", "<|"])
def test_a_million_characters(every_kind: list[Tokenizer], text: str) -> None:
    whole = text * (1_000_000 // len(text))
    for tokenizer in every_kind[:2]:
        ids = tokenizer.encode(whole)
        assert len(ids) > 10_000
        assert b"".join(map(tokenizer.token_bytes, ids[-50:])).decode(errors="ignore").strip(text + "▁ \ufffd") == ""


def test_threads_share_a_tokenizer(every_kind: list[Tokenizer]) -> None:
    for tokenizer in every_kind:
        texts = [text + "<|im_start|><s>" for text in random_texts(60)]
        expected = [[tokenizer.encode(text, parse_special=flag) for text in texts] for flag in (False, True)]
        wrong: list[str] = []

        def run(
            flag: bool, tokenizer: Tokenizer = tokenizer, texts: list[str] = texts, expected: Any = expected
        ) -> None:
            for text, ids in zip(texts * 3, expected[flag] * 3, strict=True):
                if tokenizer.encode(text, parse_special=flag) != ids:
                    wrong.append(text)  # noqa: B023

        threads = [threading.Thread(target=run, args=(bool(number % 2),)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_facts_of_the_small_files(tmp_path: Path) -> None:
    document = library_json("gpt2")
    vocab = document["model"]["vocab"]
    end, start = vocab["<|endoftext|>"], vocab["<|im_start|>"]
    write_json(tmp_path, document)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.chat_template) == (None, (), None)
    write_json(tmp_path, {"bos_token_id": start, "eos_token_id": [end, 4]}, "config.json")
    write_json(tmp_path, {"eos_token_id": 3, "bos_token_id": None}, "generation_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (start, (3, 4, end))
    template = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    config: dict[str, Any] = {
        "bos_token": {"content": "<|endoftext|>"},
        "eos_token": "<|im_start|>",
        "chat_template": template,
    }
    write_json(tmp_path, config, "tokenizer_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.chat_template) == (end, (3, 4, end, start), "d")
    assert tokenizer.encode("") == []
    (tmp_path / "chat_template.jinja").write_text("{{ jinja }}", encoding="utf-8")
    assert load_tokenizer(tmp_path).chat_template == "{{ jinja }}"


def test_added_tokens_of_the_config(tmp_path: Path) -> None:
    document = library_json("gpt2")
    size = len(document["model"]["vocab"])
    write_json(tmp_path, document)
    added = {str(size): {"content": "<new>", "special": True}, str(size + 1): {"content": "new word", "special": False}}
    write_json(tmp_path, {"added_tokens_decoder": added}, "tokenizer_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.encode("<new>new word") == [size, size + 1]
    assert size in tokenizer.special_ids
    (tmp_path / "tokenizer.json").unlink()
    model = pieces_model("bpe")
    (tmp_path / "tokenizer.model").write_bytes(model)
    size = load_gguf(pieces_metadata(model), "x").vocab_size
    added = {str(size): {"content": "<new>", "special": True}, "3": {"content": "<|renamed|>", "special": True}}
    write_json(tmp_path, {"added_tokens_decoder": added, "add_bos_token": False}, "tokenizer_config.json")
    write_json(tmp_path, {"plain word": size + 1}, "added_tokens.json")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("<new><|renamed|>plain word") == [size, 3, size + 1]
    assert tokenizer.decode([size, 3, size + 1], skip_special=False) == "<new><|renamed|>plain word"


def token(number: int, text: str, **flags: bool) -> dict[str, Any]:
    names = ("single_word", "lstrip", "rstrip", "normalized")
    return {"id": number, "content": text, **dict.fromkeys(names, False), "special": True, **flags}


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ([(0, "<x>"), (1, "<y>")], ""),
        ([(9000, "<x>"), (0, "<y>")], "'<x>' has id 565, not 9565, and so on for 1 more"),
        ([(1, "<x>"), (0, "<y>")], "'<x>' has id 565, not 566, and so on for 1 more"),
        ([(0, "<x>"), (0, "<x>")], ""),
        ([(0, "<x>"), (1, "<x>"), (1, "<y>")], "'<x>' has id 565, not 566"),
        ([(0, "<x>"), (0, "<y>")], "'<y>' has id 566, not 565"),
        ([(-300, "<x>")], "'<x>' has id 565, not 265"),
        ([(0, "he"), (1, "<x>")], "'he' has id 257, not 565, and so on for 1 more"),
        ([(2**31, "<x>")], "'<x>' has id 565, not 2147484213"),
    ],
)
def test_added_tokens_with_odd_ids(
    added: list[tuple[int, str]], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They get the ids that the library gives them, and transformers with it."""
    document = library_json("gpt2")
    size = len(document["model"]["vocab"])
    document["added_tokens"] += [token(size + number, text) for number, text in added]
    write_json(tmp_path, document)
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    for text in ("<x>he<y>a", "a<y><x> he"):
        assert tokenizer.encode(text) == original.encode(text).ids
    assert tokenizer.vocab_size == original.get_vocab_size()
    assert caplog.messages == ([f"{tmp_path / 'tokenizer.json'}: added token {told}"] if told else [])


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize("decoder", [BYTES, {"type": "Sequence", "decoders": [BYTES, {"type": "Fuse"}]}, None])
@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_are_their_own_text(decoder: dict[str, Any] | None, special: bool, tmp_path: Path) -> None:
    """Also where all characters of a token could stand for bytes. A token of the vocabulary stays one of bytes."""
    document = library_json("gpt2")
    vocab = document["model"]["vocab"]
    size = len(vocab)
    own = ["na\u00efve", "\u010dau", "\u0120x", "\u010di \u65e5"]
    added = [token(size + number, text, special=special) for number, text in enumerate(own)]
    if decoder is None:
        write_json(tmp_path, vocab, "vocab.json")
        merges = "\n".join(" ".join(pair) for pair in document["model"]["merges"])
        (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
        config = {"added_tokens_decoder": {str(entry["id"]): entry for entry in added}}
        write_json(tmp_path, {"tokenizer_class": "GPT2Tokenizer", **config}, "tokenizer_config.json")
    else:
        document["added_tokens"] += [*added, token(vocab["\u0120"], "\u0120", special=False)]
        write_json(tmp_path, {**document, "decoder": decoder})
    tokenizer = load_tokenizer(tmp_path)
    for number, text in enumerate(own):
        ids = tokenizer.encode(f"a {text} b", parse_special=True)
        assert size + number in ids
        assert tokenizer.decode(ids, skip_special=False) == f"a {text} b"
        stream = tokenizer.stream_decoder(skip_special=False)
        assert "".join(map(stream.push, ids)) + stream.flush() == f"a {text} b"
        assert tokenizer.token_bytes(size + number) == text.encode()
    assert tokenizer.token_bytes(vocab["\u0120"]) == b" "


def test_an_added_token_that_comes_twice_is_the_last(tmp_path: Path) -> None:
    document = library_json("gpt2")
    size = len(document["model"]["vocab"])
    document["added_tokens"] += [token(size, "<x>", lstrip=True), token(size, "<x>", rstrip=True)]
    write_json(tmp_path, document)
    original = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a <x> a") == original.encode("a <x> a").ids
    assert tokenizer.encode("<x> a") == tokenizer.encode("<x>a") != tokenizer.encode("a <x>")[-2:]


def test_a_token_with_a_name_is_found_as_its_entry_says(tmp_path: Path) -> None:
    """The entry of the configuration, if there is one, else that of tokenizer.json; always as a special token."""
    document = library_json("gpt2")
    number, a = document["model"]["vocab"]["<|im_start|>"], document["model"]["vocab"]["a"]
    document["added_tokens"][1] |= {"lstrip": True, "special": False}
    write_json(tmp_path, document)
    named = {"eos_token": "<|im_start|>"}
    entry = token(number, "<|im_start|>", rstrip=True, special=False)
    for config, ids, special in (
        ({}, [a, number, *load_tokenizer(tmp_path).encode(" a")], False),
        (named, [a, number, *load_tokenizer(tmp_path).encode(" a")], True),
        (named | {"added_tokens_decoder": {str(number): entry}}, [a, document["model"]["vocab"]["Ġ"], number, a], True),
    ):
        write_json(tmp_path, config, "tokenizer_config.json")
        write_json(tmp_path, {"<|im_start|>": number}, "added_tokens.json")  # which says nothing of spaces
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.encode("a <|im_start|> a") == ids
        assert (number in tokenizer.special_ids) is special
        (tmp_path / "added_tokens.json").unlink()


def test_eos_outside_of_the_vocabulary_is_left_out(tmp_path: Path) -> None:
    write_json(tmp_path, library_json("gpt2"))
    write_json(tmp_path, {"bos_token_id": 50256, "eos_token_id": 50256}, "config.json")  # GPT2Config's defaults
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, ())


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (None, None, ()), (None, 3, (3,)), ([], None, ()), ([4, 3], 4, (3, 4)), (-1, None, ()), ([-1, 5], [6], (5, 6)),
    ],
)  # fmt: skip
def test_eos_is_a_number_a_list_or_none(tmp_path: Path, config: object, generation: object, expected: object) -> None:
    write_json(tmp_path, library_json("gpt2"))
    write_json(tmp_path, {"bos_token_id": None, "eos_token_id": config}, "config.json")
    write_json(tmp_path, {"eos_token_id": generation}, "generation_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, expected)


def test_the_check_of_a_model_proto() -> None:
    model = pieces_model("bpe", normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    spaces = check(model, "x")
    assert spaces.add_dummy_prefix
    assert spaces.remove_extra
    assert not check(without_dummy_prefix(model), "x").add_dummy_prefix
    for end in range(0, len(model), 997):  # cut anywhere: pyml's error, or a shorter model
        with contextlib.suppress(PymlError):
            check(model[:end], "x")
