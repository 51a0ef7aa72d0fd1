"""The target of saved KV caches."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyml_nlp
from tests.fuzz.changes import change, odd
from tests.fuzz.shared import TinyModelDoor

LENGTHS = (1, 63, 64, 65, 130)
BYTES = ["ffffffffffffffff", "00" * 64, "0000c07f", "0000807f", "ff7fff7f", "00"]


class Caches(TinyModelDoor):
    """Saved caches with changed metadata, descriptions of tensors and bytes; loaded, continued, forked, trimmed."""

    name = "caches"

    def prepare(self, folder: Path) -> None:
        """Save caches of several lengths."""
        super().prepare(folder)
        self._saved: dict[int, bytes] = {}
        with pyml_nlp.load(self.folder, threads=1) as lm:
            for length in LENGTHS:
                lm.prefill([1 + i % 300 for i in range(length)]).save(folder / "saved.cache")
                self._saved[length] = (folder / "saved.cache").read_bytes()

    def make(self, rng: random.Random) -> Any:
        """The length of a saved cache and its edits: the header as text, and pieces of the data in hexadecimal."""
        length = rng.choice(LENGTHS)
        raw = self._saved[length]
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        edits: list[Any] = []
        for _ in range(rng.choice([0, 1, 1, 2])):
            how = rng.randrange(5)
            metadata = header.get("__metadata__")
            if how == 0 and isinstance(metadata, dict) and metadata:
                ids = "[" + ", ".join(["5"] * rng.choice([1, 63, 64, 65, 130, 300])) + "]"
                metadata[rng.choice(list(metadata))] = rng.choice([odd(rng), ids, "[" * 5000, "[1.0]", "[NaN]"])
            elif how == 1:
                change(rng, header)
            else:
                edits.append([rng.random(), rng.choice(["insert", "overwrite", "cut"]), rng.choice(BYTES)])
        return [length, json.dumps(header), rng.choice([0] * 9 + [1, 2**40, -8]), edits]

    def run(self, given: Any) -> int:
        """Load the cache and go on from it."""
        length, header, lie, edits = given
        raw = self._saved[length]
        data = raw[8 + int.from_bytes(raw[:8], "little") :]
        for place, how, piece in edits:
            at, new = int(place * len(data)), bytes.fromhex(piece)
            data = data[:at] + ({"cut": b""}.get(how, new)) + data[at + (0 if how == "insert" else len(new)) :]
        text = header.encode("utf-8", "surrogatepass")
        content = max(0, len(text) + lie).to_bytes(8, "little") + text + data
        path = self.folder / "case.cache"
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        cache = self.lm.load_cache(path)
        list(self.lm.generate([1, 2], max_tokens=3, cache=cache.fork(), temperature=0))
        cache.trim(cache.length // 2)
        list(self.lm.generate([1], max_tokens=3, cache=cache, temperature=0))
        return len(content)
