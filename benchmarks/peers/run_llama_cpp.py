"""Runner of llama.cpp and ik_llama.cpp: llama_decode on token batches, logits of the last token only.

Texts by rules are chosen by chains of llama.cpp's samplers, and by ik_llama.cpp's functions for them.

    python run_llama_cpp.py llama_cpp | ik_llama_cpp

Both are tried with and without flash attention (``fa``), ik_llama.cpp also with run-time repacking (``rtr``), and
measured with whatever was fastest for the test.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peers.llama_samplers import Chain, ForkSampler
from peers.protocol import CHUNK, RULES, Engine, Test, clock, serve

LARGE = 2 << 30  # bytes of a file whose weights are not kept twice, as run-time repacking needs


class LlamaCpp(Engine):
    """A model in (ik_)llama.cpp; models and contexts are made when a setting needs them."""

    def __init__(self, model: str, threads: int, module: str) -> None:
        super().__init__(model, threads)
        self.fork = module == "ik_llama_cpp"
        self.name = "ik_llama.cpp" if self.fork else "llama.cpp"
        self.settings = ("fa=1 rtr=0", "fa=0 rtr=0", "fa=1 rtr=1", "fa=0 rtr=1") if self.fork else ("fa=1", "fa=0")
        if Path(model).stat().st_size > LARGE:
            self.settings = tuple(setting for setting in self.settings if "rtr=1" not in setting)
        self.api = importlib.import_module("ik_llama_cpp._ctypes_api" if self.fork else "llama_cpp")
        self.api.llama_backend_init()
        self.models: dict[bool, Any] = {}
        self.contexts: dict[tuple[str, int, int], Any] = {}
        self.vocab = self.api.llama_model_get_vocab(self.get_model(False))
        self.batch = self.api.llama_batch_init(CHUNK, 0, 1)

    def describe(self) -> dict[str, Any]:
        package = "ik-llama-cpp-python" if self.fork else "llama-cpp-python"
        return {
            "version": f"{package} {importlib.metadata.version(package)}",
            "note": "weights as stored, KV cache f16" + (", published wheel" if "-wheel" in sys.prefix else ""),
            "vocab_size": self.api.llama_vocab_n_tokens(self.vocab),
        }

    def encode(self, text: str) -> list[int]:
        if self.fork:  # its package declares the function wrongly: the process would abort
            return super().encode(text)
        data = text.encode()
        ids = (self.api.llama_token * (len(data) + 8))()
        count = self.api.llama_tokenize(self.vocab, data, len(data), ids, len(ids), True, False)
        return list(ids[:count])

    def get_model(self, repack: bool) -> Any:
        if repack not in self.models:
            params = self.api.llama_model_default_params()
            params.n_gpu_layers = 0
            if self.fork:
                params.repack_tensors = repack
                params.use_mmap = not repack
            model = self.api.llama_model_load_from_file(self.model.encode(), params)
            if not model:
                raise RuntimeError(f"{self.name} cannot load {Path(self.model).name}")
            self.models[repack] = model
        return self.models[repack]

    def get_context(self, test: Test, setting: str) -> Any:
        key = self.key(test, setting)
        if key not in self.contexts:
            self.contexts[key] = self.new_context(setting, key[1], test.batch, test.batch)
        return self.contexts[key]

    def new_context(self, setting: str, length: int, sequences: int, outputs: int) -> Any:
        """A context for sequences of that length; at most ``outputs`` positions of a batch have logits."""
        params = self.api.llama_context_default_params()
        params.n_ctx = length * sequences
        params.n_batch = params.n_ubatch = CHUNK
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self.threads
        if self.fork:
            params.flash_attn = "fa=1" in setting
        else:
            params.flash_attn_type = int("fa=1" in setting)
            params.n_outputs_max = outputs
        context = self.api.llama_init_from_model(self.get_model("rtr=1" in setting), params)
        if not context:
            raise RuntimeError(f"{self.name} cannot make a context of {params.n_ctx} tokens ({setting})")
        return context

    def key(self, test: Test, setting: str) -> tuple[str, int, int]:
        return (setting, -(-test.context // 256) * 256, test.batch)

    def release(self, test: Test, setting: str) -> None:
        context = self.contexts.pop(self.key(test, setting), None)
        if context:
            self.api.llama_free(context)

    def decode(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> None:
        """One llama_decode of rows (id, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        status = self.api.llama_decode(context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        if rows[-1][3]:
            self.api.llama_get_logits_ith(context, len(rows) - 1)  # waits for the result

    def prefill(self, context: Any, ids: list[int], start: int, sequence: int) -> None:
        for first in range(0, len(ids), CHUNK):
            part = ids[first : first + CHUNK]
            last = len(ids) - 1 - first
            self.decode(context, [(t, start + first + i, sequence, i == last) for i, t in enumerate(part)])

    def logits(self, ids: list[int], first: int) -> Any:
        context = self.new_context(self.settings[0], CHUNK, 1, CHUNK)
        try:
            self.decode(context, [(token, i, 0, i >= first) for i, token in enumerate(ids)])
            size = self.api.llama_vocab_n_tokens(self.vocab)
            rows = (self.api.llama_get_logits_ith(context, i) for i in range(first, len(ids)))
            return np.stack([np.ctypeslib.as_array(row, (size,)) for row in rows])
        finally:
            self.api.llama_free(context)

    def write(self, test: Test, context: Any, prompts: list[list[int]]) -> float:
        """Seconds of texts by rules, after their prompts."""
        rules, size = RULES[test.rules or ""], self.api.llama_vocab_n_tokens(self.vocab)
        make: Callable[..., Chain | ForkSampler] = ForkSampler if self.fork else Chain
        samplers = [make(self.api, context, rules, prompt, size) for prompt in prompts]
        for sequence, prompt in enumerate(prompts):
            self.prefill(context, prompt[:-1], 0, sequence)
        tokens = [prompt[-1] for prompt in prompts]
        start = clock()
        for step in range(test.tokens):
            position = test.depth - 1 + step
            self.decode(context, [(token, position, sequence, True) for sequence, token in enumerate(tokens)])
            tokens = [sampler.choose(row) for row, sampler in enumerate(samplers)]
        seconds = clock() - start
        for sampler in samplers:
            sampler.close()
        return seconds

    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
        context = self.get_context(test, setting)
        if self.fork:
            self.api.llama_kv_cache_clear(context)
        else:
            self.api.llama_memory_clear(self.api.llama_get_memory(context), False)
        if test.rules:
            return self.write(test, context, [ids(test.depth) for _ in range(test.batch)])
        for sequence in range(test.batch):
            self.prefill(context, ids(test.depth), 0, sequence)
        if test.prefill:
            prompt = ids(test.tokens)
            start = clock()
            self.prefill(context, prompt, test.depth, 0)
            return clock() - start
        steps = [ids(test.batch) for _ in range(test.tokens)]
        start = clock()
        for step, tokens in enumerate(steps):
            self.decode(context, [(t, test.depth + step, sequence, True) for sequence, t in enumerate(tokens)])
        return clock() - start


if __name__ == "__main__":
    serve(lambda model, threads: LlamaCpp(model, threads, sys.argv[1]))
