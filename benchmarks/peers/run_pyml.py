"""Runner of pyml: the measurements of pyml-bench, through :func:`pyml_nlp.load`.

    python run_pyml.py [DTYPE]

DTYPE is that of the weights; without it they are as stored, those of a checkpoint q8_0.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyml_core
import pyml_nlp
import pyml_nn
from peers.protocol import CHUNK, RULES, Engine, Test, clock, serve
from pyml_core import Top, cpu
from pyml_nlp import GenerationOptions, LanguageModel, Request, SamplingOptions


class Pyml(Engine):
    """A model in pyml."""

    name = "pyml"

    def __init__(self, model: str, threads: int, dtype: str = "auto") -> None:
        super().__init__(model, threads)
        self.dtype = dtype
        self.lm = lm = pyml_nlp.load(model, dtype=dtype, threads=threads, prefill_chunk=CHUNK)
        self.endless = LanguageModel(lm.model, lm.tokenizer, (), lm.context_length, CHUNK, lm.name)  # no token ends it

    def describe(self) -> dict[str, Any]:
        stored = "q8_0" if Path(self.model).is_dir() else "as stored"
        weights = stored if self.dtype == "auto" else self.dtype
        return {
            "version": f"pyml {pyml_core.__version__} ({cpu.level()})",
            "note": f"weights {weights}, KV cache {self.lm.kv_layout.dtype}",
            "vocab_size": self.lm.vocab_size,
            "weight_bytes": self.lm.model.weight_bytes,
            "build": build(),
        }

    def encode(self, text: str) -> list[int]:
        return list(self.lm.tokenizer.encode(text))

    def logits(self, ids: list[int], first: int) -> Any:
        return self.lm.logits(ids, range(first, len(ids)))

    def write(self, test: Test, prompts: list[list[int]]) -> float:
        """Seconds of texts by rules: one after its first token, several after their prompts; nothing is drafted."""
        rules, lm = RULES[test.rules or ""], self.endless
        seed = None if rules.temperature == 0 else hash(tuple(prompts[0])) & 0xFFFF_FFFF
        sampling = SamplingOptions(rules.temperature, rules.top_k, rules.top_p, rules.repetition_penalty, seed)
        options = GenerationOptions(test.tokens + (test.batch == 1), sampling)
        if test.batch == 1:
            generation = lm.generate(prompts[0], options, speculate=False)
            next(generation)
            start = clock()
            for _ in generation:
                pass
            return clock() - start
        lm.prefix_cache.clear()
        for prompt in prompts:
            lm.prefill(prompt)
        requests = [Request(prompt, options.replace(sample_index=i)) for i, prompt in enumerate(prompts)]
        start = clock()
        texts = lm.generate_batch(requests, max_batch_size=test.batch, speculate=False)
        count = sum(len(text.tokens) for text in texts)
        seconds = clock() - start
        if count != test.total:
            raise RuntimeError(f"{count} tokens came, expected {test.total}")
        return seconds

    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
        if test.rules:
            return self.write(test, [ids(test.depth) for _ in range(test.batch)])
        caches = [self.lm.new_cache() for _ in range(test.batch)]
        if test.depth:
            self.lm.forward([(cache, ids(test.depth), []) for cache in caches])
        if test.prefill:
            prompt = ids(test.tokens)
            start = clock()
            self.lm.forward([(caches[0], prompt, [len(prompt) - 1])])
            return clock() - start
        steps = [ids(test.batch) for _ in range(test.tokens)]
        top_alone = test.text and self.lm.model.screened
        start = clock()
        for tokens in steps:
            batch = [(cache, [token], [0]) for cache, token in zip(caches, tokens, strict=True)]
            if top_alone:
                for (top,) in self.lm.forward(batch, Top(1)):
                    top.logits.argmax()
                continue
            for row in self.lm.forward(batch):
                row.argmax()
        return clock() - start


def build() -> str:
    """A digest of the code that computes logits: figures of another build are not its own."""
    found = hashlib.sha256()
    for package in (pyml_core, pyml_nn):
        folder = Path(package.__file__ or "").parent
        for path in sorted([*folder.rglob("*.py"), *folder.glob("*.so")]):
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    serve(lambda model, threads: Pyml(model, threads, *sys.argv[1:]))
