"""How far an engine's next-token distributions lie from transformers' f32: KL divergence, top-1 agreement, perplexity.

    python tests/oracle/kld.py MODEL.gguf --engine pyml:f32 --engine pyml:auto --engine llama-cpp

MODEL is a GGUF file or a Hugging Face folder. Each text (Python's manual, Python's library) is cut into windows, each
a sequence of its own. Prints a row an engine and text: mean and largest KL divergence in nats from transformers to
the engine, share of positions with the same most likely token, perplexity of both."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import references

F64Array = npt.NDArray[np.float64]


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
            p, q = log_softmax(expected), log_softmax(row)
            self.klds.append(float(np.exp(p) @ (p - q)))
            self.same += int(row.argmax() == expected.argmax())
            self.loss -= float(q[target])
            self.reference_loss -= float(p[target])

    def __str__(self) -> str:
        count = len(self.klds)
        return (
            f"positions {count:6d}  mean KLD {np.mean(self.klds):.3e}  max {np.max(self.klds):.3e}  "
            f"top-1 {self.same / count:7.2%}  perplexity {np.exp(self.loss / count):.3f} "
            f"(transformers {np.exp(self.reference_loss / count):.3f})"
        )


def log_softmax(logits: references.F32Array) -> F64Array:
    """Natural logarithms of the probabilities."""
    shifted = logits.astype(np.float64) - float(logits.max())
    out: F64Array = shifted - np.log(np.exp(shifted).sum())
    return out


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", action="append", help="pyml:DTYPE or llama-cpp; may be repeated")
    parser.add_argument("--positions", type=int, default=5000, help="in all, half of them prose and half code")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    import pyml_nlp

    tokenizer = pyml_nlp.load(options.model).tokenizer
    engines = {}
    for name in options.engine or ["pyml:f32", "pyml:auto"]:
        if name == "llama-cpp":
            engines[name] = references.llama_cpp_engine(options.model, options.threads, options.window)
        else:
            engines[name] = references.pyml_engine(options.model, name.removeprefix("pyml:"), options.threads)
    transformers = references.Transformers(options.model, options.threads)

    for text_name, text in (("prose", references.prose()), ("code", references.code())):
        start = tokenizer.encode("")
        ids = tokenizer.encode(text[: options.positions * 8])[len(start) :]
        rows = {name: Row() for name in engines}
        step = options.window - len(start)
        for at in range(0, min(options.positions // 2, len(ids) - 1), step):
            part = ids[at : at + step + 1]
            sequence, targets = [*start, *part[:-1]], part[1:]
            reference = transformers.logits(sequence)[len(start) :]
            for name, engine in engines.items():
                rows[name].add(engine(sequence)[len(start) :], reference, targets)
        for name, row in rows.items():
            print(f"{text_name:6s} {name:12s} {row}", flush=True)


if __name__ == "__main__":
    main()
