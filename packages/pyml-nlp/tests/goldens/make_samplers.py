"""Makes samplers.json: the effect of transformers' logits processors on one row. It does not import pyml.

python make_samplers.py    # in an environment with torch and transformers
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

WARPERS = {
    "temperature": TemperatureLogitsWarper,
    "top_k": lambda k: TopKLogitsWarper(int(k)),
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
}
VALUES: dict[str, list[float]] = {
    "top_k": [1, 5, 40],
    "top_p": [0.3, 0.9, 0.99],
    "min_p": [0.01, 0.1, 0.5],
    "typical_p": [0.2, 0.6, 0.95],
}
CHAINS = [
    "temperature 0.8, top_k 30, top_p 0.9, min_p 0.05",
    "temperature 1.5, top_p 0.95, typical_p 0.7",
    "top_k 50, min_p 0.02, temperature 2.0, top_p 0.8",
]


def main() -> None:
    """Write the file."""
    logits = np.round(np.random.RandomState(1).standard_normal(200) * 2.5, 4).astype(np.float32)
    row = torch.tensor(logits)[None]
    seen = [0, 3, 3, 17, 60, 199]
    kept = {}
    for name, values in VALUES.items():
        for value in values:
            for temperature in (0.5, 1.0, 2.0):
                kept[f"{name} {value} {temperature}"] = left(row, [("temperature", temperature), (name, value)])
    golden = {
        "logits": logits.tolist(),
        "seen": seen,
        "repetition_penalty 1.3": RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), row.clone())[0].tolist(),
        "kept": kept,
        "chains": {chain: left(row, [parse(part) for part in chain.split(", ")]) for chain in CHAINS},
    }
    (Path(__file__).parent / "samplers.json").write_text(json.dumps(golden) + "\n")


def parse(part: str) -> tuple[str, float]:
    """A rule and its value."""
    name, value = part.split()
    return name, float(value)


def left(row: torch.Tensor, rules: list[tuple[str, float]]) -> list[int]:
    """Ids that the rules leave in play."""
    processors = LogitsProcessorList([WARPERS[name](value) for name, value in rules])
    return list(torch.nonzero(processors(torch.tensor([[0]]), row.clone())[0] > -torch.inf)[:, 0].tolist())


if __name__ == "__main__":
    main()
