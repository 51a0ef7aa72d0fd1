"""StarCoder 2."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny import llama
from tests.helpers.tiny.model import FAMILIES, VOCAB, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    width, inner = model.text["hidden_size"], model.text["intermediate_size"]
    matrices = llama.attention(model) | {"mlp.c_fc": (inner, width), "mlp.c_proj": (width, inner)}
    norms = llama.norms(model)
    return llama.shapes(model, matrices, norms, [*norms, *(matrices if model.text["use_bias"] else ())])


def _metadata(writer: Any, model: TinyModel) -> None:
    llama.sizes(writer, model)
    writer.add_layer_norm_eps(model.config["norm_epsilon"])
    writer.add_rope_freq_base(model.config["rope_theta"])
    llama.rotation(writer, model)


FAMILIES["starcoder2"] = Family(
    shapes=_shapes,
    gguf_names={**llama.GGUF_NAMES, "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    metadata=_metadata,
    tied=True,
)

_STARCODER2: dict[str, Any] = {
    "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "vocab_size": VOCAB, "norm_epsilon": 1e-5,
    "hidden_act": "gelu_pytorch_tanh", "max_position_embeddings": 256, "rope_theta": 999999.4420358813,
    "bos_token_id": 0, "eos_token_id": 0, "residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1,
}  # fmt: skip

MODELS = (
    TinyModel("starcoder2", 101, {
        **_STARCODER2, "hidden_size": 96, "intermediate_size": 150, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "use_bias": True, "sliding_window": None, "mlp_type": "default",
        "norm_type": "layer_norm",
    }, gguf=True),
    TinyModel("starcoder2_window", 102, {
        **_STARCODER2, "hidden_size": 160, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "use_bias": False, "sliding_window": 19, "tie_word_embeddings": False,
    }),
)  # fmt: skip
