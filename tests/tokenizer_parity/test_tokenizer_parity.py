"""The tokenizers of real models against the originals: 0 differences.

5 000 strings each; ``PYML_PARITY_STRINGS=100000`` makes it 100 000, and real text of the machine as many again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import tokenizer_files
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from tokenizer_parity.compare import BLOCK, differences, hashes, stream_differences
from tokenizer_parity.strings import random_string, real_strings

COUNT = int(os.environ.get("PYML_PARITY_STRINGS", "5000"))


def texts(pieces: Sequence[str] = ()) -> Iterator[str]:
    yield from (random_string(number, pieces) for number in range(COUNT))
    yield from real_strings(COUNT // 5 if COUNT < 100_000 else COUNT)


@pytest.fixture(scope="module")
def gemma(gemma_gguf: Path) -> Iterator[GGUFFile]:
    with GGUFFile(gemma_gguf) as file:
        yield file


def test_gemma_gives_the_original_ids(gemma: GGUFFile) -> None:
    """Hashes of the ids that the ``tokenizers`` library makes with Gemma 3's own tokenizer.json (see compare.py)."""
    expected = json.loads((Path(__file__).parent / "gemma_ids.json").read_text())
    tokenizer = load_tokenizer(gemma)
    assert tokenizer.encode("The capital of France is") == [2, 818, 5279, 529, 7001, 563]
    pieces = gemma.metadata["tokenizer.ggml.tokens"]
    found = hashes(tokenizer.encode, (random_string(number, pieces) for number in range(COUNT)))
    assert len(found) == COUNT // BLOCK > 0
    assert found == expected[: len(found)]


def test_gemma_as_tokenizer_model(gemma: GGUFFile, tmp_path: Path) -> None:
    metadata = gemma.metadata
    types = metadata["tokenizer.ggml.token_type"].tolist()
    types[3] = tokenizer_files.UNKNOWN
    tokens = tokenizer_files.unescaped_spaces(metadata["tokenizer.ggml.tokens"], types)
    scores = metadata["tokenizer.ggml.scores"].tolist()
    config = {"add_bos_token": True, "bos_token": "<bos>", "eos_token": "<eos>"}
    pieces = tokenizer_files.Pieces(tokens, scores, types, bos=2, eos=1, unk=3, pad=0, config=config)
    tokenizer_files.write_sentencepiece(tmp_path, pieces)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_ids) == ("tokenizer.model", 2, (1,))
    original = load_tokenizer(gemma)
    # SentencePiece cannot tell a literal ▁ from a space; the original tokenizer.json, as GGUF here, can.
    some = [text for text in islice(texts(), 2000) if "▁▁" not in text]
    assert not differences(tokenizer.encode, original.encode, some)
    sequences = [original.encode(text) for text in some]
    assert not stream_differences(tokenizer, original.decode, sequences)


def test_gemma_gives_the_text_back(gemma: GGUFFile) -> None:
    tokenizer = load_tokenizer(gemma)
    for text in islice(texts(), 2000):
        ids = tokenizer.encode(text, parse_special=False)
        stream = tokenizer.stream_decoder()
        streamed = "".join([*map(stream.push, ids), stream.flush()])
        assert streamed == tokenizer.decode(ids) == text.replace("▁", " ")


def byte_level_original(
    vocab: dict[str, int], merges: list[str], special: Sequence[str], digits: bool
) -> tokenizers.Tokenizer:
    """Built with the library from the published recipe, not with pyml."""
    engine = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=[(left, right) for left, _, right in (merge.partition(" ") for merge in merges)])
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    alone = pre_tokenizers.Digits(individual_digits=True)
    engine.pre_tokenizer = pre_tokenizers.Sequence([alone, byte_level]) if digits else byte_level
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([tokenizers.AddedToken(text, normalized=False) for text in special])
    return engine


def compare(tokenizer: Tokenizer, original: tokenizers.Tokenizer, pieces: Sequence[str]) -> None:
    found = differences(tokenizer.encode, lambda text: list(original.encode(text).ids), texts(pieces))
    assert not found, "\n".join(found[:10])
    sequences = [tokenizer.encode(text) for text in islice(texts(pieces), COUNT // 5)]
    found = stream_differences(tokenizer, original.decode, sequences)
    assert not found, "\n".join(found[:10])


def test_smollm2(smollm2_gguf: Path) -> None:
    with GGUFFile(smollm2_gguf) as file:
        metadata = file.metadata
        tokenizer = load_tokenizer(file)
    tokens = metadata["tokenizer.ggml.tokens"]
    special = [t for t, kind in zip(tokens, metadata["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    vocab = {token: number for number, token in enumerate(tokens)}
    original = byte_level_original(vocab, metadata["tokenizer.ggml.merges"], special, digits=True)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (1, (2,), 49152)
    compare(tokenizer, original, tokens)


def test_gpt2(gpt2_vocab_dir: Path) -> None:
    vocab = json.loads((gpt2_vocab_dir / "vocab.json").read_text(encoding="utf-8"))
    merges = (gpt2_vocab_dir / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    original = byte_level_original(vocab, merges, ["<|endoftext|>"], digits=False)
    tokenizer = load_tokenizer(gpt2_vocab_dir)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (50256, (50256,), 50257)
    assert tokenizer.encode("Hello world") == [15496, 995]
    compare(tokenizer, original, list(vocab))
