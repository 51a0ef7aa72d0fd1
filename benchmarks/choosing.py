"""The cost of choosing a token: the rules of sampling, the masks of structured output, and tokens/s with and without.

    .venv/bin/python benchmarks/choosing.py [MODEL ...] [--tokens 96]

Rules are timed on two rows of 262 144 logits: a peaked one, like most rows of a model, and an almost flat one
(medians). For each model: milliseconds of a mask along a matching text, and tokens/s of texts without a grammar, with a
JSON schema and with an expression (the fastest of three).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import pyml_nlp
from pyml_core.sampling import F32Array, Sampler
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import SamplingOptions
from pyml_nlp.structured.grammar import Grammar

RULES = {
    "greedy": SamplingOptions(0.0),
    "five log probabilities": SamplingOptions(0.0),
    "temperature": SamplingOptions(0.8, seed=1),
    "top-k": SamplingOptions(0.8, top_k=40, seed=1),
    "top-p": SamplingOptions(0.8, top_p=0.95, seed=1),
    "top-p, min-p": SamplingOptions(0.8, top_p=0.95, min_p=0.05, seed=1),
    "top-k, top-p": SamplingOptions(0.8, top_k=40, top_p=0.95, seed=1),
    "min-p": SamplingOptions(0.8, min_p=0.05, seed=1),
    "typical": SamplingOptions(0.8, typical_p=0.95, seed=1),
    "repetition penalty, top-k": SamplingOptions(0.8, repetition_penalty=1.1, top_k=40, seed=1),
    "frequency and presence penalty, top-k": SamplingOptions(
        0.8, frequency_penalty=0.5, presence_penalty=0.5, top_k=40, seed=1
    ),
    "all": SamplingOptions(0.8, 50, 0.95, 1.1, 1, 0.02, 0.97, 0.1, 0.1, {3: 1.0}),
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "city": {"type": "string", "maxLength": 40},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 2, "maxItems": 5},
    },
    "required": ["name", "age", "city", "tags"],
    "additionalProperties": False,
}
PERSON = json.dumps({"name": "Flora Macdonald", "age": 41, "city": "Port Ellen", "tags": ["sea", "boats", "whisky"]})
EXPRESSION, PROSE = r"[a-zA-Z ,.']+", "The quick brown fox jumps over the lazy dog, and nobody minds. It's autumn."
TEXTS: dict[str, dict[str, Any]] = {
    "free": {},
    "free, sampled": {"temperature": 0.8, "seed": 1},
    "schema": {"schema": SCHEMA},
    "schema, sampled": {"schema": SCHEMA, "temperature": 0.8, "seed": 1},
    "expression": {"regex": EXPRESSION},
    "expression, sampled": {"regex": EXPRESSION, "temperature": 0.8, "seed": 1},
}


def rows() -> dict[str, F32Array]:
    """Return a peaked and an almost flat row of logits."""
    noise = np.random.RandomState(0)
    peaked = (noise.standard_normal(262_144) * 2.5 - 8).astype(np.float32)
    peaked[noise.randint(0, peaked.size, 60)] = noise.uniform(2, 12, 60)
    return {"peaked": peaked, "flat": (noise.standard_normal(262_144) * 2).astype(np.float32)}


def median_ms(function: Callable[[], object], repetitions: int = 30) -> float:
    """Return the median milliseconds of a call, after a warm-up."""
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def mask_ms(lm: LanguageModel, grammar: Grammar, text: str) -> list[float]:
    """Return the milliseconds of each mask along a text."""
    matcher, times = lm.vocabulary.matcher(grammar), []
    for token in lm.tokenizer.encode(text, add_special=False):
        start = time.perf_counter()
        matcher.allowed()
        times.append((time.perf_counter() - start) * 1e3)
        matcher.take(token)
    return times


def run(lm: LanguageModel, tokens: int, options: dict[str, Any]) -> tuple[float, float, int]:
    """Return tokens/s after the first token, milliseconds of choosing a token, and the number of forced tokens."""
    generation = lm.generate(
        "A list of people, each as JSON:\n", max_tokens=tokens, speculate=False, **{"temperature": 0.0, **options}
    )
    steps = list(generation)
    forced = sum(step.model_ms == 0 for step in steps[1:])
    choosing = sum(step.sample_ms for step in steps) / len(steps)
    return (len(steps) - 1) / generation.completion.decode_ms * 1e3, choosing, forced


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: the demo model")
    parser.add_argument("--tokens", type=int, default=96)
    arguments = parser.parse_args()
    seen = range(0, 4000, 4)
    for name, rules in RULES.items():
        sampler = Sampler(rules.core_rules, 0, 262_144, seen, logprobs=5 if name == "five log probabilities" else None)
        calls = {kind: partial(sampler.choose, row, 7) for kind, row in rows().items()}
        times = [f"{kind} {median_ms(call) * 1e3:.0f} us" for kind, call in calls.items()]
        print(f"{name:38} {'   '.join(times)}")
    for model in arguments.models or [None]:
        with pyml_nlp.load(model) as lm:
            start = time.perf_counter()
            size = lm.vocabulary.size
            print(f"\n{lm.name}: a tree of {size} tokens in {time.perf_counter() - start:.2f} s")
            for kind, grammar, text in (
                ("schema", Grammar("schema", json.dumps(SCHEMA)), PERSON),
                ("expression", Grammar("regex", EXPRESSION), PROSE),
            ):
                times_ms = mask_ms(lm, grammar, text)
                print(f"mask, {kind}: mean {statistics.mean(times_ms):.3f} ms, largest {max(times_ms):.3f} ms")
            for name, options in TEXTS.items():
                speed, choosing, forced = max(run(lm, arguments.tokens, options) for _ in range(3))
                print(f"{name:20} {speed:7.1f} tokens/s   choosing {choosing:.3f} ms   {forced} forced")


if __name__ == "__main__":
    main()
