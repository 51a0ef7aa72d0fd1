"""Vocabularies of GGUF files with faults that real files have: they load, with a warning about ignored parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizer_makers import byte_level, byte_level_metadata, pieces_metadata, pieces_model, random_texts

from pyml_nlp.errors import ModelFileError
from pyml_nlp.tokenizer.gguf import load_gguf

ROLES = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask")
TEXTS = random_texts(60, 5)


def made(kind: str, **more: Any) -> dict[str, Any]:
    return byte_level_metadata("gpt-2", **more) if kind == "gpt2" else pieces_metadata(pieces_model("bpe"), **more)


def changed(metadata: dict[str, Any], *tokens: tuple[int, str, int]) -> dict[str, Any]:
    """With these (id, text, type) in the places of other tokens, or behind the last one."""
    texts, types = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])
    scores = list(metadata.get("tokenizer.ggml.scores", []))
    for number, text, kind in tokens:
        if number == len(texts):
            texts.append(text)
            types.append(kind)
            scores.append(-1000.0)
        texts[number], types[number] = text, kind
    arrays = {"tokens": texts, "token_type": np.array(types, np.int32), "scores": np.array(scores, np.float32)}
    return metadata | {f"tokenizer.ggml.{key}": value for key, value in arrays.items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("role", ROLES)
def test_ids_outside_of_the_vocabulary(kind: str, role: str, caplog: pytest.LogCaptureFixture) -> None:
    """There is no such token, as if the key were missing, and one warning names the key."""
    size = len(made(kind)["tokenizer.ggml.tokens"])
    without = made(kind)
    without.pop(f"tokenizer.ggml.{role}_token_id", None)
    expected = load_gguf(without, "m.gguf")
    assert not caplog.records
    for value in (size, 2**32 - 1, -1):
        caplog.clear()
        tokenizer = load_gguf(made(kind, **{f"{role}_token_id": value}), "m.gguf")
        assert (tokenizer.bos_id, tokenizer.eos_ids) == (expected.bos_id, expected.eos_ids)
        assert tokenizer.metadata.named_tokens == expected.metadata.named_tokens
        assert [tokenizer.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("pyml.tokenizer", "WARNING")
        message = (
            f"m.gguf: tokenizer.ggml.{role}_token_id: {value} is outside of the vocabulary of {size} tokens: ignored"
        )
        assert record.getMessage() == message


def test_a_bos_that_is_wanted_and_outside_of_the_vocabulary() -> None:
    """Texts cannot begin as they did in training: an error."""
    with pytest.raises(ModelFileError, match=r"add_bos_token: expected tokenizer\.ggml\.bos_token_id too, got none"):
        load_gguf(made("gpt2", add_bos_token=True, bos_token_id=10**6), "m.gguf")


def test_token_texts_that_are_there_twice_in_bytes(caplog: pytest.LogCaptureFixture) -> None:
    vocab, _ = byte_level()
    size, the = len(vocab), vocab["Ġthe"]
    original = load_gguf(made("gpt2"), "m.gguf")
    tokenizer = load_gguf(changed(made("gpt2"), (size, "Ġthe", 1), (size + 1, "Ġthe", 1)), "m.gguf")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"m.gguf: tokenizer.ggml.tokens: 2 tokens have the text of another one, such as {the}, 'Ġthe': it is read as "
        f"{size + 1}"
    )
    assert tokenizer.vocab_size == size + 2
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == [size + 1 if number == the else number for number in original.encode(text)]
        assert tokenizer.decode(ids) == original.decode(original.encode(text))
    assert tokenizer.decode([the, size, size + 1]) == " the the the"
    assert {tokenizer.token_bytes(number) for number in (the, size, size + 1)} == {b" the"}


def test_token_texts_that_are_there_twice_in_pieces(caplog: pytest.LogCaptureFixture) -> None:
    metadata = made("llama")
    size, the = len(metadata["tokenizer.ggml.tokens"]), metadata["tokenizer.ggml.tokens"].index("▁the")
    original = load_gguf(metadata, "m.gguf")
    tokenizer = load_gguf(changed(metadata, (size, "▁the", 1), (size + 1, "<user>", 4)), "m.gguf")
    (record,) = caplog.records
    assert "2 tokens have the text of another one, such as" in record.getMessage()
    user = original.encode("<user>", add_special=False)[-1]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        same = {the: size, user: size + 1}
        # its score is another one, so that the word may be made of other pieces
        assert tokenizer.decode(ids) == original.decode(original.encode(text))
        if size not in ids and the not in original.encode(text):
            assert ids == [same.get(number, number) for number in original.encode(text)]
    assert {tokenizer.token_bytes(number) for number in (the, size)} == {b" the"}
    assert {tokenizer.token_bytes(number) for number in (user, size + 1)} == {b"<user>"}
    assert tokenizer.decode([the, size, user, size + 1]) == "the the<user><user>"
    assert all(the not in tokenizer.encode(text) for text in ("the the", f"\ufdd1{the}"))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("types", [(3, 1), (1, 3), (3, 3)])
def test_a_special_text_that_is_there_twice(kind: str, types: tuple[int, int]) -> None:
    """It is read as a special token, and no special token ever appears in a text."""
    size = len(made(kind)["tokenizer.ggml.tokens"])
    metadata = changed(made(kind), (size, "<|im_end|>", types[0]), (size + 1, "<|im_end|>", types[1]))
    tokenizer = load_gguf(metadata, "m.gguf")
    special = size + 1 if types[1] == 3 else size
    assert special in tokenizer.encode("a<|im_end|>b")
    assert tokenizer.control_tokens["<|im_end|>"] == special
    assert special not in tokenizer.encode("a<|im_end|>b", parse_special=False)
    hidden = [number for number, kind in zip((size, size + 1), types, strict=True) if kind == 3]
    assert tokenizer.decode(hidden) == ""
    assert tokenizer.decode(hidden, skip_special=False) == "<|im_end|>" * len(hidden)
    assert set(hidden) <= set(tokenizer.eos_ids)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_marks_of_images_are_no_text(kind: str) -> None:
    """GGUF files of Gemma call them user-defined, tokenizer.json calls them special: texts do not have them."""
    number = len(made(kind)["tokenizer.ggml.tokens"])
    tokenizer = load_gguf(changed(made(kind), (number, "<start_of_image>", 4)), "m.gguf")
    assert number in tokenizer.encode("<start_of_image>")
    assert number not in tokenizer.encode("<start_of_image>", parse_special=False)
    assert tokenizer.decode([number]) == ""


def test_several_unknown_tokens() -> None:
    """As in old files of Phi 3: they are found where they are spelled, and no text is unknown."""
    metadata = made("llama")
    size = len(metadata["tokenizer.ggml.tokens"])
    original = load_gguf(metadata, "m.gguf")
    tokenizer = load_gguf(changed(metadata, (size, "<|a|>", 2), (size + 1, "<|b|>", 2)), "m.gguf")
    assert tokenizer.encode("x<|b|>", add_special=False)[-1] == size + 1
    for text in TEXTS:
        assert tokenizer.encode(text) == original.encode(text)


def gemma4_metadata() -> dict[str, Any]:
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>"]
    normal = ["\n", "\n\n", *"▁abcé", "ab", "▁ab", "▁▁", "▁abc"]
    tokens = [*control, *normal, *(f"<0x{byte:02X}>" for byte in range(256)), "<|turn>"]
    merges = ["\n \n", "a b", "▁ ab", "▁ ▁", "▁ab c"]
    types = [3] * 5 + [1] * len(normal) + [6] * 256 + [4]
    ids: dict[str, Any] = {f"tokenizer.ggml.{role}_token_id": n for n, role in enumerate(("padding", "eos", "bos"))}
    return ids | {
        "tokenizer.ggml.model": "gemma4", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": np.array(types, np.int32), "tokenizer.ggml.unknown_token_id": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["ab"]),
        (" abc", ["▁abc"]),
        ("ab  ab", ["ab", "▁", "▁ab"]),  # merges by rank, across spaces
        ("a\n\n\nb", ["a", "\n\n", "\n", "b"]),
        ("é!\t", ["é", "<0x21>", "<0x09>"]),
        ("<|turn>a<eos>", ["<|turn>", "a", "<eos>"]),
    ],
)
def test_gemma4(text: str, pieces: list[str]) -> None:
    metadata = gemma4_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    tokenizer = load_gguf(metadata, "test.gguf")
    ids = tokenizer.encode(text)
    assert ids[0] == 2  # BOS, unless the file says otherwise
    assert [tokens[number] for number in ids[1:]] == pieces
    assert tokenizer.decode(ids, skip_special=False) == f"<bos>{text}"
    assert load_gguf({**metadata, "tokenizer.ggml.add_bos_token": False}, "test.gguf").encode(text) == ids[1:]
