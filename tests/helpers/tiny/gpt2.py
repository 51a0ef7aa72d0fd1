"""GPT-2."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny.model import FAMILIES, VOCAB, Family, Shapes, TinyModel, transposed


def _shapes(model: TinyModel) -> Shapes:
    c = model.config
    width = c["n_embd"]
    inner = c.get("n_inner") or 4 * width
    yield "wte.weight", (c["vocab_size"], width)
    yield "wpe.weight", (c["n_positions"], width)
    for i in range(model.n_layers):
        for name, shape in (("attn.c_attn", (width, 3 * width)), ("attn.c_proj", (width, width)),
                            ("mlp.c_fc", (width, inner)), ("mlp.c_proj", (inner, width))):  # fmt: skip
            yield f"h.{i}.{name}.weight", shape
            yield f"h.{i}.{name}.bias", shape[1:]
        for name in ("ln_1", "ln_2"):
            yield f"h.{i}.{name}.weight", (width,)
            yield f"h.{i}.{name}.bias", (width,)
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)
    if not model.tied:
        yield "lm_head.weight", (c["vocab_size"], width)


def _metadata(writer: Any, model: TinyModel) -> None:
    c = model.config
    writer.add_context_length(c["n_positions"])
    writer.add_embedding_length(c["n_embd"])
    writer.add_feed_forward_length(c.get("n_inner") or 4 * c["n_embd"])
    writer.add_head_count(c["n_head"])
    writer.add_layer_norm_eps(c["layer_norm_epsilon"])


FAMILIES["gpt2"] = Family(
    shapes=_shapes,
    gguf_names={
        "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output", "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    },
    metadata=_metadata,
    convert=transposed,
    layers="h.",
    embedding="wte",
    final_norm="ln_f",
    tied=True,
)  # fmt: skip

_GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": VOCAB, "n_positions": 128, "n_ctx": 128,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("gpt2", 11, {**_GPT2, "n_embd": 96, "n_head": 6, "n_layer": 3}, gguf=True, prefix="transformer."),
    TinyModel("gpt2_head20", 12, {
        **_GPT2, "n_embd": 140, "n_head": 7, "n_layer": 2, "n_inner": 203, "activation_function": "gelu",
        "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False,
    }),
    TinyModel("gpt2_head80", 13, {**_GPT2, "n_embd": 160, "n_head": 2, "n_layer": 2, "n_positions": 77}),
)  # fmt: skip
