"""Phi."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, VOCAB, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    c = model.text
    width, inner, matrices = c["hidden_size"], c["intermediate_size"], llama.attention(model)
    matrices["self_attn.dense"] = matrices.pop("self_attn.o_proj")
    matrices |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for name, shape in llama.shapes(model, matrices, {"input_layernorm": width}, [*matrices, "input_layernorm"]):
        yield name.replace("model.norm.", "model.final_layernorm."), shape
    yield "lm_head.bias", (c["vocab_size"],)


def _metadata(writer: Any, model: TinyModel) -> None:
    llama.sizes(writer, model)
    writer.add_layer_norm_eps(model.config["layer_norm_eps"])
    llama.rotation(writer, model)


FAMILIES["phi"] = Family(
    shapes=_shapes,
    gguf_names={
        **llama.GGUF_NAMES, "model.final_layernorm": "output_norm", "self_attn.dense": "attn_output",
        "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    },
    metadata=_metadata,
    architecture="phi2",
    final_norm="model.final_layernorm",
)  # fmt: skip

_PHI: dict[str, Any] = {
    "model_type": "phi", "architectures": ["PhiForCausalLM"], "vocab_size": VOCAB, "layer_norm_eps": 1e-5,
    "hidden_act": "gelu_new", "max_position_embeddings": 256, "rope_theta": 10000.0, "bos_token_id": 0,
    "eos_token_id": 0, "attention_dropout": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.1, "qk_layernorm": False,
    "tie_word_embeddings": False,
}  # fmt: skip

MODELS = (
    TinyModel("phi", 153, {  # as Phi 2
        **_PHI, "hidden_size": 120, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 6, "partial_rotary_factor": 0.4,
    }, gguf=True),
    TinyModel("phi_grouped", 154, {
        **_PHI, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-3,
    }, gguf=True),
)  # fmt: skip
