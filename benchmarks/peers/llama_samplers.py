"""How llama.cpp and ik_llama.cpp choose a text's tokens by rules, through their Python packages."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from peers.protocol import Rules


class Chain:
    """llama.cpp's sampler chain for the rules, in their order; penalties look at the whole text."""

    def __init__(self, api: Any, context: Any, rules: Rules, prompt: list[int], size: int) -> None:
        self.api, self.context = api, context
        self.chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        parts = []
        if rules.repetition_penalty != 1.0:
            penalties = api.llama_sampler_init_penalties
            sizes = [size] if len(penalties.argtypes) == 5 else []  # of the vocabulary, in newer versions
            parts.append(penalties(*sizes, api.llama_n_ctx(context), rules.repetition_penalty, 0.0, 0.0))
        if rules.temperature == 0.0:
            parts.append(api.llama_sampler_init_greedy())
        else:
            parts.append(api.llama_sampler_init_temp(rules.temperature))
            parts += [api.llama_sampler_init_top_k(rules.top_k)] if rules.top_k else []
            parts += [api.llama_sampler_init_top_p(rules.top_p, 1)] if rules.top_p < 1.0 else []
            parts.append(api.llama_sampler_init_dist(hash(tuple(prompt)) & 0xFFFF_FFFF))
        for part in parts:
            api.llama_sampler_chain_add(self.chain, part)
        for token in prompt:
            api.llama_sampler_accept(self.chain, token)

    def choose(self, row: int) -> int:
        """The token after a row of the last batch."""
        return int(self.api.llama_sampler_sample(self.chain, self.context, row))

    def close(self) -> None:
        """Free the chain."""
        self.api.llama_sampler_free(self.chain)


class ForkSampler:
    """ik_llama.cpp's functions for the rules. It has no chains: NumPy fills the array of candidates."""

    def __init__(self, api: Any, context: Any, rules: Rules, prompt: list[int], size: int) -> None:
        self.api, self.context, self.rules, self.size = api, context, rules, size
        self.ids = list(prompt)
        self.candidates = np.zeros(self.size, [("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self.penalize = api._lib.llama_sample_repetition_penalties  # the package has no function for it
        self.penalize.restype = None
        last = (ctypes.c_void_p, ctypes.POINTER(api.llama_token_data_array), ctypes.POINTER(ctypes.c_int32))
        self.penalize.argtypes = (*last, ctypes.c_size_t, *[ctypes.c_float] * 3)

    def choose(self, row: int) -> int:
        """The token after a row of the last batch."""
        api, rules, context = self.api, self.rules, self.context
        logits = np.ctypeslib.as_array(api.llama_get_logits_ith(context, row), (self.size,))
        self.candidates["id"] = np.arange(self.size, dtype=np.int32)
        self.candidates["logit"] = logits
        data = self.candidates.ctypes.data_as(ctypes.POINTER(api.llama_token_data))
        array = api.llama_token_data_array(data, self.size, -1, False)
        pointer = ctypes.byref(array)
        if rules.repetition_penalty != 1.0:
            past = (ctypes.c_int32 * len(self.ids))(*self.ids)
            self.penalize(context, pointer, past, len(past), rules.repetition_penalty, 0.0, 0.0)
        if rules.temperature == 0.0:
            token = int(api.llama_sample_token_greedy(context, pointer))
        else:
            api.llama_sample_temp(context, pointer, rules.temperature)
            if rules.top_k:
                api.llama_sample_top_k(context, pointer, rules.top_k, 1)
            if rules.top_p < 1.0:
                api.llama_sample_top_p(context, pointer, rules.top_p, 1)
            token = int(api.llama_sample_token(context, pointer))
        self.ids.append(token)
        return token

    def close(self) -> None:
        """Nothing is kept."""
