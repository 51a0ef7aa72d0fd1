"""Mixtral."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    c = model.text
    width, inner = c["hidden_size"], c["intermediate_size"]
    matrices: dict[str, tuple[int, int]] = llama.attention(model)
    matrices["block_sparse_moe.gate"] = (c["num_local_experts"], width)
    for expert in range(c["num_local_experts"]):
        for name, shape in (("w1", (inner, width)), ("w2", (width, inner)), ("w3", (inner, width))):
            matrices[f"block_sparse_moe.experts.{expert}.{name}"] = shape
    return llama.shapes(model, matrices, llama.norms(model))


def _metadata(writer: Any, model: TinyModel) -> None:
    llama.metadata(writer, model)
    writer.add_expert_count(model.config["num_local_experts"])
    writer.add_expert_used_count(model.config["num_experts_per_tok"])


FAMILIES["mixtral"] = Family(
    shapes=_shapes,
    gguf_names={
        **llama.GGUF_NAMES, "block_sparse_moe.gate": "ffn_gate_inp", "w1": "ffn_gate_exps", "w2": "ffn_down_exps",
        "w3": "ffn_up_exps",
    },
    metadata=_metadata,
    convert=llama.interleaved,
    architecture="llama",
)  # fmt: skip

_MIXTRAL: dict[str, Any] = {
    **llama.LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "rope_theta": 1000000.0,
    "tie_word_embeddings": False, "sliding_window": None, "output_router_logits": False, "router_aux_loss_coef": 0.02,
}  # fmt: skip

MODELS = (
    TinyModel("mixtral", 91, {
        **_MIXTRAL, "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2,
    }, gguf=True),
    TinyModel("mixtral_head80", 92, {  # some of its experts are never chosen
        **_MIXTRAL, "hidden_size": 160, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "num_local_experts": 19, "num_experts_per_tok": 3, "sliding_window": 21,
        "tie_word_embeddings": True,
    }),
)  # fmt: skip
