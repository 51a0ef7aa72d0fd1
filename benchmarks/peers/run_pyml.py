"""Runner of pyml: the measurements of pyml-bench, through :func:`pyml_nlp.load`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyml_core
import pyml_nlp
from peers.protocol import CHUNK, Engine, Test, clock, serve
from pyml_core import Top, cpu


class Pyml(Engine):
    """A model in pyml: a GGUF file's weights as stored, a checkpoint's as q8_0."""

    name = "pyml"

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(model, threads)
        self.lm = pyml_nlp.load(model, threads=threads, prefill_chunk=CHUNK)

    def describe(self) -> dict[str, Any]:
        weights = "q8_0" if Path(self.model).is_dir() else "as stored"
        return {
            "version": f"pyml {pyml_core.__version__} ({cpu.level()})",
            "note": f"weights {weights}, KV cache {self.lm.kv_layout.dtype}",
            "vocab_size": self.lm.vocab_size,
            "weight_bytes": self.lm.model.weight_bytes,
        }

    def encode(self, text: str) -> list[int]:
        return list(self.lm.tokenizer.encode(text))

    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
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


if __name__ == "__main__":
    serve(Pyml)
