"""Compare a tokenizer of pyml with the original one, string by string.

``python tests/tokenizer_parity/compare.py FOLDER ...`` compares folders that have a tokenizer.json with what the
``tokenizers`` library makes of that file itself. ``--gguf FILE TOKENIZER_JSON`` compares a GGUF file's tokenizer with
the original's; ``--hashes FILE`` writes hashes of the original's ids beside, which is how gemma_ids.json was made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import tokenizers

from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))  # when run as a script

from tokenizer_parity.strings import random_string, real_strings

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


def original_encode(path: Path, add_special: bool = True) -> Encode:
    """What the library itself makes of a tokenizer.json."""
    engine = tokenizers.Tokenizer.from_file(str(path))
    engine.no_truncation()
    engine.no_padding()
    return lambda text: list(engine.encode(text, add_special_tokens=add_special).ids)


def main() -> int:
    """Run the comparisons asked for; the exit code is 1 if there are differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--gguf", nargs=2, type=Path, metavar=("FILE", "TOKENIZER_JSON"))
    parser.add_argument("--hashes", type=Path)
    parser.add_argument("--count", type=int, default=100_000, help="random strings, and as many real ones")
    options = parser.parse_args()
    pairs: list[tuple[str, Encode, Encode, list[str]]] = []
    for folder in options.folders:
        tokenizer = load_tokenizer(folder)
        plain = partial(tokenizer.encode, add_special=False)  # the config beside may change what is put around a text
        pairs.append((str(folder), plain, original_encode(folder / "tokenizer.json", add_special=False), []))
    if options.gguf:
        file = GGUFFile(options.gguf[0])
        pieces = file.metadata["tokenizer.ggml.tokens"]
        pairs.append((str(options.gguf[0]), load_tokenizer(file).encode, original_encode(options.gguf[1]), pieces))
    failed = False
    for name, encode, original, pieces in pairs:
        if options.hashes:
            options.hashes.write_text(
                json.dumps(
                    hashes(original, (random_string(number, pieces) for number in range(options.count))), indent=0
                )
                + "\n"
            )
        start = time.monotonic()
        texts = chain((random_string(number, pieces) for number in range(options.count)), real_strings(options.count))
        found = differences(encode, original, texts)
        print(f"{name}: {len(found)} differences in 2 x {options.count} strings, {time.monotonic() - start:.0f} s")
        print("\n".join(found[:20]))
        failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
