"""The tokenizers of real models against the originals: 0 differences.

5 000 strings each here; ``compare.py`` compares 100 000 random and 100 000 real ones of each kind.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
import tokenizers

from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import tokenizer_files
from tests.tokenizer_parity import originals
from tests.tokenizer_parity.compare import BLOCK, differences, double_space_mark, hashes, stream_differences
from tests.tokenizer_parity.strings import random_string, real_strings

COUNT = 5000


def texts(pieces: Sequence[str] = ()) -> Iterator[str]:
    yield from (random_string(number, pieces) for number in range(COUNT))
    yield from real_strings(COUNT // 5)


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
    tokenizer_files.write_sentencepiece(tmp_path, tokenizer_files.gemma_pieces(gemma.metadata))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.bos_id, tokenizer.eos_ids) == ("tokenizer.model", 2, (1,))
    original = load_tokenizer(gemma)
    some = [text for text in islice(texts(), 2000) if not double_space_mark(text)]
    some = [text for text in some if "<start_of_image>" not in text]  # special in GGUF files, but not without a config
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
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (1, (2,), 49152)
    compare(tokenizer, originals.byte_level_of_gguf(metadata, digits=True), metadata["tokenizer.ggml.tokens"])


def test_gpt2(gpt2_vocab_dir: Path) -> None:
    tokenizer = load_tokenizer(gpt2_vocab_dir)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (50256, (50256,), 50257)
    assert tokenizer.encode("Hello world") == [15496, 995]
    original = originals.gpt2(gpt2_vocab_dir)
    compare(tokenizer, original, sorted(original.get_vocab()))
