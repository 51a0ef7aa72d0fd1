"""How far engines' next-token distributions lie from a reference's: KL divergence, top-1 agreement, perplexity.

    python -m tests.oracle.kld MODEL.gguf --reference pyml:f32 --engine pyml:auto --engine llama-cpp
    python -m tests.oracle.kld MODEL --reference transformers --engine pyml:f32
    python -m tests.oracle.kld FOLDER --round bf16 --reference pyml:f32 --engine pyml:bf16

MODEL is a GGUF file or a Hugging Face folder. An engine is ``pyml:DTYPE[:KV_DTYPE]``, ``llama-cpp`` (the same GGUF
file) or ``transformers`` (f32). ``--round bf16`` compares on a copy of a folder with its weights rounded to bf16.

Two texts, prose (Python's reference manual) and code (Python's library), give half of the positions each, cut into
windows that are sequences of their own. Prints a row an engine and text: mean and largest KL divergence from the
reference to the engine in nats, share of positions with the same most likely token, perplexity of both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import pyml_nlp
from pyml_nlp.evaluation import kl_divergence
from pyml_nlp.sampling import log_sum_exp
from pyml_nlp.tokenizer import Tokenizer
from tests.oracle import references


@dataclass
class Row:
    """Sums over the positions of one engine on one text."""

    klds: list[float] = field(default_factory=list)
    same: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0

    def add(self, logits: references.F32Array, reference: references.F32Array, targets: list[int]) -> None:
        """Compare positions (T, V); ``targets`` are the tokens that followed."""
        for row, expected, target in zip(logits, reference, targets, strict=True):
            norm, expected_norm = log_sum_exp(row), log_sum_exp(expected)
            self.klds.append(kl_divergence(expected, row, expected_norm, norm))
            self.same += int(row.argmax() == expected.argmax())
            self.loss += norm - float(row[target])
            self.reference_loss += expected_norm - float(expected[target])

    def __add__(self, other: Row) -> Row:
        return Row(
            self.klds + other.klds,
            self.same + other.same,
            self.loss + other.loss,
            self.reference_loss + other.reference_loss,
        )

    def __str__(self) -> str:
        count = len(self.klds)
        return (
            f"{count:6d} positions  mean KLD {np.mean(self.klds):.3e}  max {np.max(self.klds):.3e}  "
            f"top-1 {self.same / count:7.2%}  perplexity {np.exp(self.loss / count):.4f} "
            f"(reference {np.exp(self.reference_loss / count):.4f})"
        )


def windows(tokenizer: Tokenizer, text: str, positions: int, window: int) -> Iterator[tuple[list[int], list[int]]]:
    """Sequences of at most ``window`` tokens, begun as every text is, and the logits at their last positions."""
    start = tokenizer.encode("")
    ids = tokenizer.encode(text[: positions * 16])[len(start) :]
    if len(ids) <= positions:
        raise SystemExit(f"the text has {len(ids)} tokens, {positions} positions are wanted")
    step = window - len(start)
    for at in range(0, positions, step):
        part = ids[at : min(at + step, positions) + 1]
        yield [*start, *part[:-1]], part[1:]


@contextmanager
def rounded(path: Path, dtype: str | None) -> Iterator[Path]:
    """The model itself, or a copy of the folder with its weights rounded, as long as it is needed."""
    if dtype is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as copy:
        references.bf16_copy(path, Path(copy))
        yield Path(copy)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--reference", default="transformers")
    parser.add_argument("--engine", action="append", help="may be repeated")
    parser.add_argument("--round", choices=["bf16"], help="the weights of a folder, before anything reads them")
    parser.add_argument("--positions", type=int, default=5000, help="in all, half of them prose and half code")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    names: list[str] = options.engine or ["pyml:auto"]
    with rounded(options.model, options.round) as path:
        tokenizer = pyml_nlp.load(path).tokenizer
        reference, *engines = (
            references.engine(name, path, options.threads, options.window) for name in (options.reference, *names)
        )
        totals = [Row() for _ in names]
        for text_name, text in (("prose", references.prose()), ("code", references.code())):
            rows = [Row() for _ in names]
            for sequence, targets in windows(tokenizer, text, options.positions // 2, options.window):
                expected = reference(sequence)[-len(targets) :]
                for row, engine in zip(rows, engines, strict=True):
                    row.add(engine(sequence)[-len(targets) :], expected, targets)
            for name, row in zip(names, rows, strict=True):
                print(f"{text_name:5s} {name:12s} {row}", flush=True)
            totals = [total + row for total, row in zip(totals, rows, strict=True)]
    for name, total in zip(names, totals, strict=True):
        print(f"both  {name:12s} {total}")


if __name__ == "__main__":
    main()
