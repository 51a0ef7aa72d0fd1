"""Target of packed models: files whose header or tokenizer was changed, with right checksums, and whose bytes were."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

import pyml_nlp
from pyml_core.hashing import hash_rows
from pyml_nlp.formats.packed import ALIGNMENT, PROLOGUE, PackedFile, aligned, header_hash
from tests.fuzz.changes import change
from tests.fuzz.model_files import use
from tests.helpers import tiny_files, tiny_models

NAMES = ("llama", "gemma3", "mixtral", "gpt2", "phi3_long")


class PackedModels:
    """Packed tiny models of both kinds of tokenizers, changed in the header, the tokenizer's parts and any bytes."""

    name = "packed"

    def prepare(self, folder: Path) -> None:
        """Pack the models, and keep them in pieces: the header with the tokenizer's objects, and all parts."""
        self._path = folder / "case.pyml"
        self._seeds: dict[str, tuple[dict[str, Any], list[bytes]]] = {}
        for name in NAMES:
            original = tiny_files.write_hf(tiny_models.MODELS[name], folder / name)
            path = pyml_nlp.pack(original, folder / f"{name}.pyml", threads=1)
            raw = path.read_bytes()
            with PackedFile(path) as file:
                length = PROLOGUE.unpack_from(raw)[-1]
                tree = {"header": json.loads(raw[ALIGNMENT : ALIGNMENT + length])}
                for section in ("tokenizer", "tokenizer tokens"):
                    tree[section] = json.loads(file.section(section))
                parts = [raw[entry.offset : entry.offset + entry.nbytes] for entry in file.entries]
            self._seeds[name] = (tree, parts)

    def make(self, rng: random.Random) -> Any:
        """A model, its changed header and tokenizer, and bytes to replace: a place from 0 to 1 and new ones."""
        seed = rng.choice(sorted(self._seeds))
        tree = copy.deepcopy(self._seeds[seed][0])
        patches = []
        if rng.random() < 0.25:
            patches = [[rng.random(), rng.choice(["00", "ff", "ffffffffffffffff", "0000c07f"])]]
        else:
            for _ in range(rng.choice([1, 1, 2])):
                change(rng, tree[rng.choice(["header", "header", "tokenizer", "tokenizer tokens"])])
        return [seed, tree, patches]

    def run(self, given: Any) -> int:
        """Write the file, load it and use it."""
        seed, tree, patches = given
        parts = list(self._seeds[seed][1])
        header = copy.deepcopy(tree["header"])
        sections = header.get("sections") if isinstance(header, dict) else None
        for index, row in enumerate(sections if isinstance(sections, list) else []):
            if isinstance(row, list) and len(row) == 3 and row[0] in ("tokenizer", "tokenizer tokens"):
                parts[index] = json.dumps(tree[row[0]]).encode()
                digest = hash_rows(np.frombuffer(parts[index], np.uint8))
                row[1:] = [len(parts[index]), f"{digest:016x}"]
        content = _file(json.dumps(header).encode(), parts)
        for place, new in patches:
            at, data = int(place * len(content)), bytes.fromhex(new)
            content = content[:at] + data + content[at + len(data) :]
        self._path.unlink(missing_ok=True)
        self._path.write_bytes(content)
        use(pyml_nlp.load(self._path, threads=1))
        return len(content)


def _file(header: bytes, parts: list[bytes]) -> bytes:
    """A packed model with a right size and a right hash of the header."""
    body = b"".join(part + bytes(aligned(len(part)) - len(part)) for part in (header, *parts))
    fields = PROLOGUE.pack(b"PYMLPACK", 1, 1, 2 * ALIGNMENT + len(body), len(header))
    fixed = fields + struct.pack("<Q", header_hash(fields, header))
    return fixed + bytes(ALIGNMENT - len(fixed)) + body + bytes(ALIGNMENT)
