"""Runner of Hugging Face transformers: f32 weights, PyTorch on the CPU, a dynamic KV cache, no compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from peers.protocol import CHUNK, RULES, Engine, Test, clock, serve


class Transformers(Engine):
    """A model folder in Hugging Face layout, in float32."""

    name = "transformers"

    def __init__(self, model: str, threads: int) -> None:
        super().__init__(model, threads)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.lm = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.lm.eval()

    def describe(self) -> dict[str, Any]:
        return {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "note": "weights and KV cache f32",
            "vocab_size": self.lm.config.get_text_config().vocab_size,
        }

    def encode(self, text: str) -> list[int]:
        return list(transformers.AutoTokenizer.from_pretrained(self.model)(text)["input_ids"])

    def forward(self, rows: list[list[int]], cache: Any) -> None:
        self.lm(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def prefill(self, rows: list[list[int]], cache: Any) -> None:
        for first in range(0, len(rows[0]), CHUNK):
            self.forward([row[first : first + CHUNK] for row in rows], cache)

    def logits(self, ids: list[int], first: int) -> Any:
        return self.lm(input_ids=torch.tensor([ids])).logits[0, first:].float().numpy()

    def write(self, test: Test, prompts: list[list[int]]) -> float:
        """Seconds of texts by rules, without those of the same prompts with one token each."""
        rules = RULES[test.rules or ""]
        options: dict[str, Any] = {"do_sample": False}
        if rules.temperature:
            options = {"do_sample": True, "temperature": rules.temperature, "top_k": rules.top_k, "top_p": rules.top_p}
        self.lm.generation_config.eos_token_id = None
        ids = torch.tensor(prompts)
        seconds = []
        for count in (1, test.tokens + 1):
            start = clock()
            self.lm.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, pad_token_id=0,
                repetition_penalty=rules.repetition_penalty, **options,
            )  # fmt: skip
            seconds.append(clock() - start)
        return seconds[1] - seconds[0]

    def measure(self, test: Test, setting: str, ids: Callable[[int], list[int]]) -> float:
        if test.rules:
            return self.write(test, [ids(test.depth) for _ in range(test.batch)])
        cache = transformers.DynamicCache(config=self.lm.config)
        self.prefill([ids(test.depth) for _ in range(test.batch)], cache)
        if test.prefill:
            prompt = ids(test.tokens)
            start = clock()
            self.prefill([prompt], cache)
            return clock() - start
        steps = [ids(test.batch) for _ in range(test.tokens)]
        start = clock()
        for tokens in steps:
            self.forward([[token] for token in tokens], cache)
        return clock() - start


if __name__ == "__main__":
    serve(Transformers)
