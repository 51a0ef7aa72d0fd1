"""Digests of the logits of tiny models at every CPU level, for changes that claim to keep all bits.

``python -m tests.determinism.digests`` computes them at the levels of this machine and updates ``digests.json``: run
it only for a change that alters numbers on purpose, and say so in its commit.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from pyml_core import cpu
from tests.determinism.determinism_checks import BLOCK_TYPES, CASES, Subject, block_type_subject, forward, tiny_subject

FILE = Path(__file__).with_name("digests.json")

SAME_BITS = {"avx_vnni": "avx2", "avx512_vnni": "avx512"}
"""Levels whose results are those of another one: they differ in instructions for exact integer sums alone."""


def subjects(folder: Path) -> list[Subject]:
    """The models whose logits are digested: every tiny architecture, every block type."""
    return [tiny_subject(*case) for case in CASES] + [block_type_subject(dtype, folder) for dtype in BLOCK_TYPES]


def digests(level: str, found: list[Subject]) -> dict[str, str]:
    """The first 16 hex digits of the SHA-256 of each model's logits (T, V) at a CPU level, by the model's name."""
    with cpu.use_level(level):
        return {one.name: _digest(one) for one in found}


def _digest(subject: Subject) -> str:
    model = subject.build(threads=2, max_tokens=512)
    return hashlib.sha256(forward(model, subject.ids).data).hexdigest()[:16]


def main() -> None:
    """Update the file with the digests of this machine's levels."""
    recorded = json.loads(FILE.read_text()) if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        found = subjects(Path(folder))
        for level in cpu.levels():
            recorded[SAME_BITS.get(level, level)] = digests(level, found)
    FILE.write_text(json.dumps(recorded, indent=2) + "\n")


if __name__ == "__main__":
    main()
