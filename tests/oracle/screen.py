"""Check that a screened head finds the full head's tokens, over many states of real text.

    python -m tests.oracle.screen MODEL --states 10000
    python -m tests.oracle.screen MODEL --dtype q8_0 --k 40

MODEL is a GGUF file or a Hugging Face folder. Half of the states are of prose (Python's reference manual), half of code
(Python's library), in windows that are sequences of their own. For every state and k: whether ids and logits are those
of the k largest of all logits, ties included, and how many rows were rescored. Exits with 1 if a state differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import pyml_nlp
from pyml_core.screen import MAX_STATES
from pyml_core.want import Top, top_of
from tests.oracle import references
from tests.oracle.kld import windows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--states", type=int, default=10000, help="in all, half of them prose and half code")
    parser.add_argument("--k", type=int, nargs="+", default=[1, 40])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    lm = pyml_nlp.load(options.model, dtype=options.dtype, threads=options.threads)
    if not lm.model.screened:
        sys.exit(f"{options.model}: its head is not screened as {options.dtype}")
    rescored: dict[int, list[int]] = {k: [] for k in options.k}
    differences = dict.fromkeys(options.k, 0)
    for text in (references.prose(), references.code()):
        for ids, targets in windows(lm.tokenizer, text, options.states // 2, options.window):
            cache, first = lm.new_cache(), len(ids) - len(targets)
            for start in range(0, len(ids), MAX_STATES):
                part = ids[start : start + MAX_STATES]
                wanted = [i for i in range(len(part)) if start + i >= first]
                logits = lm.forward([(cache, part, wanted)])[0]
                for k in options.k:
                    cache.trim(start)
                    for row, top in zip(logits, lm.forward([(cache, part, wanted)], Top(k))[0], strict=True):
                        all_of_them = top_of(row, k)
                        same = np.array_equal(all_of_them.ids, top.ids) and np.array_equal(
                            all_of_them.logits, top.logits
                        )
                        differences[k] += not same
                        rescored[k].append(top.rescored)
    for k, counts in rescored.items():
        quarters = [int(np.quantile(counts, share)) for share in (0.5, 0.9, 0.99, 1.0)]
        print(
            f"k {k:3d}  {len(counts)} states  {differences[k]} differ  rows rescored of {lm.vocab_size}: "
            "median {}, 90 % {}, 99 % {}, most {}".format(*quarters)
        )
    sys.exit(1 if any(differences.values()) else 0)


if __name__ == "__main__":
    main()
