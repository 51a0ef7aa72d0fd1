"""Tiny random models: the configurations, and weights from a seed. ``tiny_files`` builds them and writes their files.

Weights come from ``np.random.RandomState``, whose stream NumPy has frozen, so that the goldens made from these seeds
elsewhere stay valid. Sizes are odd on purpose: heads and widths that are no powers of two, windows shorter than a
prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]

VOCAB = 331
ATTENTION_INPUTS = ("c_attn", "q_proj", "k_proj", "qkv_proj", "query_key_value")
GEMMAS = ("gemma2", "gemma3_text")
PROMPT_LENGTH = 70  # longer than one page of the KV cache and than every window below


@dataclass(frozen=True)
class TinyModel:
    """A configuration as its ``config.json`` has it, and the seed of its weights."""

    name: str
    seed: int
    config: dict[str, Any]
    gguf: bool = False
    prefix: str = ""  # of the weights' names in the safetensors file

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the language model, which is inside the other's in a model that also sees."""
        found: dict[str, Any] = self.config.get("text_config", self.config)
        return found

    @property
    def family(self) -> str:
        """The ``model_type``: ``gpt2``, ``gemma3_text``, ``llama``, ..."""
        return str(self.text["model_type"])

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.text.get("num_hidden_layers", self.text.get("n_layer", 0)))

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table; the default differs between families."""
        return bool(self.text.get("tie_word_embeddings", self.family in ("gpt2", "falcon", *GEMMAS)))

    @property
    def long_from(self) -> int:
        """Positions from this one on are rotated with LongRoPE's long factors."""
        long = "long_factor" in (self.text.get("rope_scaling") or {})
        return int(self.text["original_max_position_embeddings"]) if long else PROMPT_LENGTH

    @property
    def prompt(self) -> list[int]:
        """Token ids to compute logits for."""
        return [int(i) for i in np.random.RandomState(self.seed + 1).randint(0, VOCAB, PROMPT_LENGTH)]

    def truncated(self, n_layers: int) -> TinyModel:
        """This model with its first layers only."""
        key = "n_layer" if self.family == "gpt2" else "num_hidden_layers"
        config = {**self.text, key: n_layers}
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:n_layers]
        if self.text is not self.config:
            config = {**self.config, "text_config": config}
        return TinyModel(self.name, self.seed, config, self.gguf, self.prefix)

    def weights(self) -> dict[str, F32Array]:
        """Weights by their names in Hugging Face's files."""
        return {self.prefix + name: self._weight(name, shape) for name, shape in self._shapes()}

    def names(self) -> list[str]:
        """Names of the weights."""
        return [self.prefix + name for name, _ in self._shapes()]

    def _weight(self, name: str, shape: tuple[int, ...]) -> F32Array:
        # Seeded by its name, so that a truncated model has equal weights.
        noise = np.random.RandomState([self.seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith("bias"):
            noise *= 0.2
        elif len(shape) == 1:
            noise = 0.25 * noise + (0.0 if self.family in GEMMAS else 1.0)
        elif any(part in name for part in ("embed", "wte", "wpe")):
            noise *= 1.0 / np.sqrt(shape[1]) if self.tied else 0.5  # a tied head has logits near 1, as others do
        else:  # larger queries and keys, so that attention is far from uniform
            k = shape[0] if self.family == "gpt2" and "lm_head" not in name else shape[1]
            noise *= (1.6 if any(part in name for part in ATTENTION_INPUTS) else 1.0) / np.sqrt(k)
        return noise.astype(np.float32)

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        return {"gpt2": self._gpt2_shapes, "falcon": self._falcon_shapes}.get(self.family, self._llama_shapes)()

    def _gpt2_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        c = self.config
        width = c["n_embd"]
        inner = c.get("n_inner") or 4 * width
        yield "wte.weight", (c["vocab_size"], width)
        yield "wpe.weight", (c["n_positions"], width)
        for i in range(self.n_layers):
            for name, shape in (("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width)),
                                ("mlp.c_fc", (width, inner)), ("mlp.c_proj", (inner, width))):  # fmt: skip
                yield f"h.{i}.{name}.weight", shape
                yield f"h.{i}.{name}.bias", shape[1:]
            for name in ("ln_1", "ln_2"):
                yield f"h.{i}.{name}.weight", (width,)
                yield f"h.{i}.{name}.bias", (width,)
        yield "ln_f.weight", (width,)
        yield "ln_f.bias", (width,)
        if not self.tied:
            yield "lm_head.weight", (c["vocab_size"], width)

    def _falcon_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        c = self.config
        width, heads, new = c["hidden_size"], c["num_attention_heads"], c.get("new_decoder_architecture", False)
        inner = c.get("ffn_hidden_size") or 4 * width
        kv_heads = c["num_kv_heads"] if new else 1 if c.get("multi_query", True) else heads
        matrices = {
            "self_attention.query_key_value": ((heads + 2 * kv_heads) * (width // heads), width),
            "self_attention.dense": (width, width),
            "mlp.dense_h_to_4h": (inner, width),
            "mlp.dense_4h_to_h": (width, inner),
        }
        norms = ["input_layernorm"]
        if new and c.get("num_ln_in_parallel_attn", 2) == 2:
            norms = ["ln_attn", "ln_mlp"]
        elif not c.get("parallel_attn", True):
            norms.append("post_attention_layernorm")
        yield "word_embeddings.weight", (c["vocab_size"], width)
        for i in range(self.n_layers):
            for name, shape in matrices.items():
                yield f"h.{i}.{name}.weight", shape
                if c.get("bias"):
                    yield f"h.{i}.{name}.bias", shape[:1]
            for name in norms:
                yield f"h.{i}.{name}.weight", (width,)
                yield f"h.{i}.{name}.bias", (width,)
        yield "ln_f.weight", (width,)
        yield "ln_f.bias", (width,)
        if not self.tied:
            yield "lm_head.weight", (c["vocab_size"], width)

    def _llama_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        c = self.text
        width, inner, heads = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
        head_dim = c.get("head_dim") or width // heads
        kv = c.get("num_key_value_heads", heads) * head_dim
        fused = {
            "self_attn.qkv_proj": ((heads * head_dim) + 2 * kv, width),
            "self_attn.o_proj": (width, heads * head_dim),
            "mlp.gate_up_proj": (2 * inner, width),
            "mlp.down_proj": (width, inner),
        }
        matrices = (
            fused
            if self.family == "phi3"
            else {
                "self_attn.q_proj": (heads * head_dim, width),
                "self_attn.k_proj": (kv, width),
                "self_attn.v_proj": (kv, width),
                "self_attn.o_proj": (width, heads * head_dim),
                "mlp.gate_proj": (inner, width),
                "mlp.up_proj": (inner, width),
                "mlp.down_proj": (width, inner),
            }
        )
        if self.family == "mixtral":
            matrices = {name: shape for name, shape in matrices.items() if not name.startswith("mlp")}
            matrices["block_sparse_moe.gate"] = (c["num_local_experts"], width)
            for expert in range(c["num_local_experts"]):
                for name, shape in (("w1", (inner, width)), ("w2", (width, inner)), ("w3", (inner, width))):
                    matrices[f"block_sparse_moe.experts.{expert}.{name}"] = shape
        biased = [name for name in matrices if c.get("attention_bias" if name.startswith("self_attn") else "mlp_bias")]
        if self.family == "qwen2" or c.get("use_qkv_bias"):
            biased = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
        norms = {"input_layernorm": width, "post_attention_layernorm": width}
        if c.get("use_parallel_residual"):
            del norms["post_attention_layernorm"]
        if self.family in GEMMAS:
            norms |= {"pre_feedforward_layernorm": width, "post_feedforward_layernorm": width}
        if self.family in ("gemma3_text", "qwen3"):
            norms |= {"self_attn.q_norm": head_dim, "self_attn.k_norm": head_dim}
        yield "model.embed_tokens.weight", (c["vocab_size"], width)
        for i in range(self.n_layers):
            for name, shape in matrices.items():
                yield f"model.layers.{i}.{name}.weight", shape
                if name in biased:
                    yield f"model.layers.{i}.{name}.bias", shape[:1]
            for name, size in norms.items():
                yield f"model.layers.{i}.{name}.weight", (size,)
                if self.family == "stablelm":
                    yield f"model.layers.{i}.{name}.bias", (size,)
        yield "model.norm.weight", (width,)
        if self.family == "stablelm":
            yield "model.norm.bias", (width,)
        if not self.tied:
            yield "lm_head.weight", (c["vocab_size"], width)


_GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCAB, "n_positions": 128, "n_ctx": 128,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_GEMMA3: dict[str, Any] = {
    "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 256, "bos_token_id": 2, "eos_token_id": [1, 5],
    "pad_token_id": 0, "final_logit_softcapping": None, "attn_logit_softcapping": None, "attention_bias": False,
}  # fmt: skip
_LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "max_position_embeddings": 256, "rope_theta": 10000.0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
_MISTRAL = {**_LLAMA, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
_GEMMA2: dict[str, Any] = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 256,
    "rope_theta": 10000.0, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "cache_implementation": "hybrid",
    "attention_bias": False, "attention_dropout": 0.0,
}  # fmt: skip
_PHI3: dict[str, Any] = {
    **_LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attention_bias": False, "tie_word_embeddings": False, "sliding_window": None, "pad_token_id": 0,
}  # fmt: skip


def _longrope(pairs: int) -> dict[str, Any]:
    return {
        "type": "longrope",
        "short_factor": [round(1 + 0.02 * i, 4) for i in range(pairs)],
        "long_factor": [round(1.1 + 0.3 * i, 4) for i in range(pairs)],
    }


_FALCON: dict[str, Any] = {
    "model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": VOCAB, "layer_norm_epsilon": 1e-5,
    "alibi": False, "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "bos_token_id": 0, "eos_token_id": 0, "bias": False, "multi_query": True, "parallel_attn": True,
    "new_decoder_architecture": False,
}  # fmt: skip
_MIXTRAL: dict[str, Any] = {
    **_LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "rope_theta": 1000000.0,
    "tie_word_embeddings": False, "sliding_window": None, "output_router_logits": False, "router_aux_loss_coef": 0.02,
}  # fmt: skip
_QWEN2 = {**_LLAMA, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "rms_norm_eps": 1e-6}
_STABLELM: dict[str, Any] = {
    **{key: value for key, value in _LLAMA.items() if not key.startswith(("rms", "attention", "mlp"))},
    "model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "layer_norm_eps": 1e-5, "qk_layernorm": False,
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3 = {**_QWEN2, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}

MODELS = {
    model.name: model
    for model in (
        TinyModel("gpt2", 11, {**_GPT2, "n_embd": 96, "n_head": 6, "n_layer": 3}, gguf=True, prefix="transformer."),
        TinyModel("gpt2_head20", 12, {
            **_GPT2, "n_embd": 140, "n_head": 7, "n_layer": 2, "n_inner": 203, "activation_function": "gelu",
            "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False,
        }),
        TinyModel("gpt2_head80", 13, {**_GPT2, "n_embd": 160, "n_head": 2, "n_layer": 2, "n_positions": 77}),
        TinyModel("gemma3", 21, {  # the published pattern (5 local layers, 1 global), keys as on the hub
            **_GEMMA3, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "rope_theta":
            1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None,
            "_sliding_window_pattern": 6,
        }, gguf=True),
        TinyModel("gemma3_head80", 22, {  # untied, scaled global RoPE, capped logits, keys of transformers 5
            **_GEMMA3, "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 4, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 80, "query_pre_attn_scalar": 56, "sliding_window": 13,
            "tie_word_embeddings": False, "final_logit_softcapping": 5.0,
            "layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 100000.0, "factor": 8.0},
            },
        }),
        TinyModel("gemma3_head20", 23, {  # a head_dim that is not hidden / heads, an activation of another kind
            **_GEMMA3, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 3,
            "num_key_value_heads": 3, "head_dim": 20, "query_pre_attn_scalar": 24, "sliding_window": 65,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "rope_theta": 20000.0, "rope_local_base_freq": 300.0, "hidden_activation": "silu",
        }),
        TinyModel("llama", 31, {
            **_LLAMA, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "tie_word_embeddings": False,
        }, gguf=True),
        TinyModel("llama_head80", 32, {
            **_LLAMA, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
            "rms_norm_eps": 1e-3,
        }, gguf=True),
        TinyModel("llama3_scaled", 33, {
            **_LLAMA, "hidden_size": 72, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": True, "rope_theta": 500.0,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        }, gguf=True),
        TinyModel("llama_linear", 34, {
            **_LLAMA, "hidden_size": 84, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 3,
            "num_key_value_heads": 1, "tie_word_embeddings": False, "hidden_act": "gelu",
            "rope_scaling": {"type": "linear", "factor": 2.5},
        }),
        TinyModel("llama_gelu_tanh", 35, {  # keys as transformers 5 writes them
            **{key: value for key, value in _LLAMA.items() if key != "rope_theta"},
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
        }),
        TinyModel("mistral_window", 41, {
            **_MISTRAL, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "head_dim": 24, "sliding_window": 13, "tie_word_embeddings": False,
            "rope_theta": 1000000.0,
        }),
        TinyModel("mistral_full", 42, {
            **_MISTRAL, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 1, "sliding_window": None, "tie_word_embeddings": False,
        }, gguf=True),
        TinyModel("gemma2", 24, {
            **_GEMMA2, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 20, "query_pre_attn_scalar": 20, "sliding_window": 13,
            "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0,
        }, gguf=True),
        TinyModel("gemma2_head80", 25, {  # the default pattern and caps given up, biases, untied
            **_GEMMA2, "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 1, "head_dim": 80, "query_pre_attn_scalar": 56, "sliding_window": 33,
            "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True,
            "tie_word_embeddings": False, "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        }),
        TinyModel("gemma3_vision", 26, {  # its text model in text_config, next to a vision tower
            "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 4,
            "eoi_token_index": 5, "image_token_index": 6, "mm_tokens_per_image": 4, "eos_token_id": [1, 5],
            "text_config": {
                **_GEMMA3, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 40, "sliding_window": 24,
                "sliding_window_pattern": 2, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            "vision_config": {
                "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_use_head": False,
            },
        }, prefix="language_model."),
        TinyModel("phi3", 71, {  # as Phi-3 mini 4k
            **_PHI3, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "sliding_window": 13, "original_max_position_embeddings": 256,
            "rope_scaling": None,
        }, gguf=True),
        TinyModel("phi3_long", 72, {  # as Phi-4 mini: a part of each head is rotated; the prompt is a long one
            **_PHI3, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 1, "tie_word_embeddings": True, "original_max_position_embeddings": 37,
            "partial_rotary_factor": 0.75, "rope_scaling": _longrope(15),
        }, gguf=True),
        TinyModel("phi3_head80", 75, {  # a short prompt
            **_PHI3, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "original_max_position_embeddings": 128,
            "rope_scaling": {**_longrope(40), "original_max_position_embeddings": 128, "attention_factor": 1.2},
        }),
        TinyModel("falcon", 81, {  # as Falcon 7B
            **_FALCON, "hidden_size": 100, "num_hidden_layers": 3, "num_attention_heads": 5,
        }, gguf=True, prefix="transformer."),
        TinyModel("falcon_new", 82, {  # as Falcon 40B
            **_FALCON, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_kv_heads": 2,
            "new_decoder_architecture": True, "tie_word_embeddings": False,
        }, gguf=True, prefix="transformer."),
        TinyModel("falcon_head80", 83, {  # as Falcon 2 11B: the new architecture with one norm; biases
            **_FALCON, "hidden_size": 160, "num_hidden_layers": 2, "num_attention_heads": 2, "num_kv_heads": 1,
            "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "bias": True, "ffn_hidden_size": 203,
            "rope_theta": 500042.0, "max_position_embeddings": 8192,
        }, prefix="transformer."),
        TinyModel("falcon_sequential", 84, {  # one branch after the other, a key/value head for each query head
            **_FALCON, "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 3, "num_kv_heads": 3,
            "multi_query": False, "parallel_attn": False, "bias": True, "activation": "gelu_pytorch_tanh",
        }, prefix="transformer."),
        TinyModel("mixtral", 91, {
            **_MIXTRAL, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2,
        }, gguf=True),
        TinyModel("mixtral_head80", 92, {  # some of its experts are never chosen
            **_MIXTRAL, "hidden_size": 160, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_local_experts": 19, "num_experts_per_tok": 3, "sliding_window": 21,
            "tie_word_embeddings": True,
        }),
        TinyModel("qwen2", 61, {
            **_QWEN2, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 1000000.0, "use_sliding_window": False,
            "sliding_window": 17, "max_window_layers": 3,
        }, gguf=True),
        TinyModel("qwen2_window", 62, {  # the upper layers slide; YaRN
            **_QWEN2, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 2,
            "num_key_value_heads": 1, "tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 19,
            "max_window_layers": 1, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                     "original_max_position_embeddings": 64},
        }),
        TinyModel("qwen3", 63, {
            **_QWEN3, "hidden_size": 72, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 5,
            "num_key_value_heads": 1, "head_dim": 20, "tie_word_embeddings": True, "rope_theta": 1000000.0,
            "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 3,
        }, gguf=True),
        TinyModel("qwen3_head80", 64, {  # biases, keys of transformers 5, YaRN with all of its own
            **{key: value for key, value in _QWEN3.items() if key != "rope_theta"},
            "hidden_size": 96, "intermediate_size": 140, "num_hidden_layers": 2, "num_attention_heads": 6,
            "num_key_value_heads": 3, "head_dim": 80, "tie_word_embeddings": False, "attention_bias": True,
            "use_sliding_window": True, "sliding_window": 21, "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 5000.0, "factor": 8.0, "original_max_position_embeddings": 32,
                "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.3,
            },
        }),
        TinyModel("stablelm", 67, {
            **_STABLELM, "hidden_size": 96, "intermediate_size": 176, "num_hidden_layers": 3, "num_attention_heads": 6,
            "num_key_value_heads": 2, "use_qkv_bias": True, "partial_rotary_factor": 0.25,
            "use_parallel_residual": False,
        }, gguf=True),
        TinyModel("stablelm_parallel", 68, {
            **_STABLELM, "hidden_size": 160, "intermediate_size": 130, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "use_qkv_bias": False, "partial_rotary_factor": 0.5,
            "use_parallel_residual": True, "layer_norm_eps": 1e-3,
        }, gguf=True),
        TinyModel("yarn", 65, {  # with two coefficients
            **_QWEN2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 20000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "mscale": 0.7,
                             "mscale_all_dim": 0.4},
        }),
        TinyModel("yarn_gguf", 66, {
            **_QWEN2, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 20000.0,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48},
        }, gguf=True),
    )
}  # fmt: skip

# Rows of 256, so that every block type fits: for models with quantised matrices.
QUANTIZED = TinyModel("quantized", 51, {
    **_LLAMA, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True,
})  # fmt: skip
