"""Compare pyml in f32 with transformers live and in full: every logit of a text, and greedy continuations of many
prompts.

    python -m tests.oracle.compare MODEL [--prompts 50] [--tokens 128]

MODEL is a GGUF file or a Hugging Face folder. Exits with 1 where a logit differs by more than 2e-3, an argmax
differs, or a greedy text leaves transformers' at a token whose two best lie 0.001 nat or more apart."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import pyml_nlp
from tests.oracle import references

TOLERANCE = 2e-3
SMALL_GAP = 1e-3


def main() -> int:
    """Run the command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    lm = pyml_nlp.load(options.model, dtype="f32", threads=options.threads)
    transformers = references.Transformers(options.model, options.threads)
    failures = 0

    ids = lm.tokenizer.encode((Path(__file__).parents[1] / "goldens" / "text.txt").read_text())[:300]
    logits, expected = lm.logits(ids), transformers.logits(ids)
    difference = float(abs(logits - expected).max())
    wrong = np.flatnonzero(logits.argmax(-1) != expected.argmax(-1))
    print(f"{len(ids)} positions: largest difference {difference:.2e}, another argmax at {wrong.tolist()}")
    failures += difference > TOLERANCE or wrong.size > 0

    identical = 0
    for prompt in references.prompts(options.prompts):
        ids = lm.tokenizer.encode(prompt)
        tokens, gaps = transformers.greedy(ids, options.tokens)
        found = [step.token for step in lm.generate(ids, max_tokens=options.tokens, temperature=0.0)]
        at = next((i for i, (a, b) in enumerate(zip(found, tokens, strict=False)) if a != b), None)
        if at is None:
            identical += 1
            continue
        print(f"{prompt[:40]!r}: token {at}: {found[at]}, expected {tokens[at]}, gap {gaps[at]:.5f} nat")
        failures += gaps[at] >= SMALL_GAP
    print(f"{identical} of {options.prompts} continuations identical, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
