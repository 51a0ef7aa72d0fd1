"""Compare pyml's tokenizers with the original ones, string by string.

    python -m tests.tokenizer_parity.compare                 # every kind, on the real models of tests/helpers/fetch.py
    python -m tests.tokenizer_parity.compare FOLDER ...      # folders with a tokenizer.json
    python -m tests.tokenizer_parity.compare --gguf FILE TOKENIZER_JSON [--hashes FILE]

Each is given ``--count`` random strings and as many cuts out of real text (100 000 unless told). ``--hashes FILE``
writes hashes of the original's ids, which is how gemma_ids.json was made. The exit code is 1 if there are differences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import tokenizers

from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import fetch, tokenizer_files
from tests.tokenizer_parity import originals
from tests.tokenizer_parity.strings import random_string, real_strings

BLOCK = 1000
"""Strings that are hashed together."""

Encode = Callable[[str], list[int]]


def differences(encode: Encode, original: Encode, texts: Iterable[str]) -> list[str]:
    """One line for each text whose ids differ."""
    found = []
    for number, text in enumerate(texts):
        got, expected = encode(text), original(text)
        if got != expected:
            at = next((at for at, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), None)
            at = min(len(got), len(expected)) if at is None else at
            found.append(f"{number} {text[:100]!r}: id {at}: expected {expected[at : at + 5]}, got {got[at : at + 5]}")
    return found


def stream_differences(
    tokenizer: Tokenizer, decode: Callable[[list[int]], str], sequences: Iterable[Sequence[int]]
) -> list[str]:
    """One line for each sequence of ids whose text differs, decoded at once or streamed."""
    found = []
    for ids in sequences:
        expected = decode(list(ids))
        stream = tokenizer.stream_decoder()
        streamed = "".join([*map(stream.push, ids), stream.flush()])
        if not expected == tokenizer.decode(ids) == streamed:
            found.append(f"{list(ids)[:20]}: expected {expected[:80]!r}, got {tokenizer.decode(ids)[:80]!r}")
    return found


def hashes(encode: Encode, texts: Iterable[str]) -> list[str]:
    """A short hash of the ids of each block of texts."""
    digests: list[str] = []
    block = hashlib.sha256()
    for number, text in enumerate(texts, 1):
        block.update(json.dumps(encode(text)).encode())
        if number % BLOCK == 0:
            digests.append(block.hexdigest()[:16])
            block = hashlib.sha256()
    return digests


@dataclass
class Case:
    """A tokenizer of pyml and its original.

    Attributes:
        name: the name of the comparison.
        encode, original: text to ids.
        pieces: of the vocabulary, to make strings of; none: only other strings.
        skips: texts that the kind of tokenizer cannot read as the original does.
        hashes: of the original's ids of the first random strings, to hold ``original`` itself to.
    """

    name: str
    encode: Encode
    original: Encode
    pieces: Sequence[str] = ()
    skips: Callable[[str], bool] = lambda _: False
    hashes: Sequence[str] = ()


def library(engine: tokenizers.Tokenizer, add_special: bool = True) -> Encode:
    """Encode with an object of the ``tokenizers`` library."""
    return lambda text: list(engine.encode(text, add_special_tokens=add_special).ids)


def double_space_mark(text: str) -> bool:
    """SentencePiece cannot tell a literal ▁ from a space; Gemma's tokenizer.json can, where there are several."""
    return "▁▁" in text


def of_folder(folder: Path, name: str = "") -> Case:
    """A folder's tokenizer.json, as pyml and as the library read it."""
    tokenizer = load_tokenizer(folder)
    plain = partial(tokenizer.encode, add_special=False)  # the folder's config may change the ids around a text
    engine = originals.from_file(folder / "tokenizer.json")
    return Case(name or str(folder), plain, library(engine, add_special=False), sorted(engine.get_vocab()))


def of_gguf(file: Path, engine: tokenizers.Tokenizer, name: str = "") -> Case:
    """A GGUF file's tokenizer compared with an original."""
    opened = GGUFFile(file)
    pieces = opened.metadata["tokenizer.ggml.tokens"]
    return Case(name or str(file), load_tokenizer(opened).encode, library(engine), pieces)


def real_models(scratch: Path) -> Iterator[Case]:
    """Every kind of tokenizer, each of a real model; ``scratch`` is for files that are made of their vocabularies."""
    file = fetch.fetch(fetch.GEMMA)
    metadata = GGUFFile(file).metadata
    gemma = originals.gemma(metadata)
    known = json.loads((Path(__file__).parent / "gemma_ids.json").read_text())
    yield replace(of_gguf(file, gemma, "Gemma 3, GGUF llama"), hashes=known)
    folder = scratch / "gemma"
    folder.mkdir()
    gemma.save(str(folder / "tokenizer.json"))
    yield of_folder(folder, "Gemma 3, tokenizer.json")
    folder = scratch / "gemma-sentencepiece"
    folder.mkdir()
    tokenizer_files.write_sentencepiece(folder, tokenizer_files.gemma_pieces(metadata))
    case = Case("Gemma 3, tokenizer.model", load_tokenizer(folder).encode, library(gemma))
    yield replace(case, pieces=metadata["tokenizer.ggml.tokens"], skips=double_space_mark)

    file = fetch.fetch(fetch.SMOLLM2)
    smollm2 = originals.byte_level_of_gguf(GGUFFile(file).metadata, digits=True)
    yield of_gguf(file, smollm2, "SmolLM2, GGUF gpt2")
    folder = scratch / "smollm2"
    folder.mkdir()
    smollm2.save(str(folder / "tokenizer.json"))
    yield of_folder(folder, "SmolLM2, tokenizer.json")

    folder = fetch.fetch(fetch.GPT2_VOCAB).parent
    fetch.fetch(fetch.GPT2_MERGES)
    gpt2 = originals.gpt2(folder)
    yield Case(
        "GPT-2, vocab.json and merges.txt", load_tokenizer(folder).encode, library(gpt2), sorted(gpt2.get_vocab())
    )


def compare(case: Case, count: int) -> bool:
    """Print the differences of a case in ``count`` random and ``count`` real strings; returns whether all are equal."""
    start = time.monotonic()
    blocks = min(count // BLOCK, len(case.hashes))
    random = partial(map, lambda number: random_string(number, case.pieces))
    found = hashes(case.original, random(range(blocks * BLOCK))) == list(case.hashes[:blocks])
    held = f" (held to {blocks * BLOCK} strings' hashes)" if blocks and found else ""
    lines = [] if found else ["the original here is not the original: its ids have other hashes"]
    asked = skipped = 0
    for texts in (random(range(count)), real_strings(count)):
        kept = []
        for text in texts:
            asked += 1
            if case.skips(text):
                skipped += 1
            else:
                kept.append(text)
        lines += differences(case.encode, case.original, kept)
    skip = f", {skipped} left out" if skipped else ""
    print(f"{case.name}: {len(lines)} differences in {asked} strings{skip}{held}, {time.monotonic() - start:.0f} s")
    print("".join(f"    {line}\n" for line in lines[:20]), end="", flush=True)
    return not lines


def main() -> int:
    """Run the comparisons asked for; the exit code is 1 if there are differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--gguf", nargs=2, type=Path, metavar=("FILE", "TOKENIZER_JSON"))
    parser.add_argument("--hashes", type=Path)
    parser.add_argument("--count", type=int, default=100_000, help="random strings, and as many real ones")
    options = parser.parse_args()
    cases = [of_folder(folder) for folder in options.folders]
    if options.gguf:
        cases.append(of_gguf(options.gguf[0], originals.from_file(options.gguf[1])))
    if options.hashes:
        case = cases[-1]
        texts = (random_string(number, case.pieces) for number in range(options.count))
        options.hashes.write_text(json.dumps(hashes(case.original, texts), indent=0) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        results = [compare(case, options.count) for case in cases or real_models(Path(scratch))]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
