"""Runner of OpenVINO GenAI: an int8 export, its own generate loop, time taken from its own clock.

Prefill is the time to the first token; decode is the time between the first and the last of N + 1 tokens (greedy, or by
rules, in its own order of them). Both of its attention back ends are tried (paged attention and the stateful model),
and measured with whatever was fastest for the test. Logits are those of the model's own graph (``openvino_model.xml``)
in the same plugin, because the pipelines compute the last position's only.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from peers.protocol import RULES, Engine, Test, serve


class OpenVINO(Engine):
    """A model folder exported for OpenVINO with int8 weights."""

    name = "OpenVINO"
    settings = ("PA", "SDPA")

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(model, threads)
        self.pipes = {
            setting: openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND=setting)
            for setting in self.settings
        }
        self.graph: Any = None  # for logits
        self.vocab_size = int(json.loads(Path(model, "config.json").read_text())["vocab_size"])

    def describe(self) -> dict[str, Any]:
        return {
            "version": f"openvino-genai {importlib.metadata.version('openvino-genai')}",
            "note": "weights int8 a row, KV cache and attention back end as it chooses by default (u8 cache)",
            "vocab_size": self.vocab_size,
        }

    def logits(self, ids: list[int], first: int) -> Any:
        if self.graph is None:
            xml = Path(self.model, "openvino_model.xml")
            compiled = openvino.Core().compile_model(xml, "CPU", {"INFERENCE_NUM_THREADS": self.threads})
            self.graph = compiled.create_infer_request()
        count = len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        names = {name for port in self.graph.model_inputs for name in port.names}
        self.graph.reset_state()
        self.graph.infer({name: value for name, value in inputs.items() if name in names})
        return self.graph.get_tensor("logits").data[0, first:].astype(np.float32)

    def write(self, test: Test, setting: str, prompts: list[list[int]]) -> float:
        """Seconds of texts by rules, after their first tokens."""
        rules = RULES[test.rules or ""]
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = test.tokens + 1
        config.ignore_eos = True
        config.repetition_penalty = rules.repetition_penalty
        config.do_sample = rules.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = rules.temperature, rules.top_p
            config.rng_seed = hash(tuple(prompts[0])) & 0xFFFF_FFFF
            if rules.top_k:
                config.top_k = rules.top_k
        result = self.pipes[setting].generate(openvino.Tensor(np.array(prompts, dtype=np.int64)), config)
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != config.max_new_tokens * test.batch:
            expected = config.max_new_tokens * test.batch
            raise RuntimeError(f"{metrics.get_num_generated_tokens()} tokens came, expected {expected}")
        return (float(metrics.get_generate_duration().mean) - float(metrics.get_ttft().mean)) / 1e3

    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
        if test.rules:
            return self.write(test, setting, [ids(test.depth) for _ in range(test.batch)])
        if test.batch > 1 or (test.prefill and test.depth):
            raise ValueError(f"this runner has no {test.name}")
        prompt = ids(test.tokens if test.prefill else max(test.depth, 1))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1 if test.prefill else test.tokens + 1
        config.ignore_eos = True
        config.do_sample = False
        result = self.pipes[setting].generate(openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
        metrics = result.perf_metrics
        if metrics.get_num_generated_tokens() != config.max_new_tokens:
            raise RuntimeError(f"{metrics.get_num_generated_tokens()} tokens came, expected {config.max_new_tokens}")
        if test.prefill:
            return float(metrics.get_ttft().mean) / 1e3
        return float(metrics.get_tpot().mean) / 1e3 * test.tokens  # the first token is not in that mean


if __name__ == "__main__":
    serve(OpenVINO)
