"""BERT."""

from __future__ import annotations

from typing import Any

from tests.helpers.tiny.model import FAMILIES, VOCAB, Family, Shapes, TinyModel


def _shapes(model: TinyModel) -> Shapes:
    c = model.config
    width, inner = c["hidden_size"], c["intermediate_size"]
    tables = ("word", c["vocab_size"]), ("position", c["max_position_embeddings"]), ("token_type", c["type_vocab_size"])
    for name, rows in tables:
        yield f"embeddings.{name}_embeddings.weight", (rows, width)
    norms = ["embeddings.LayerNorm"]
    for i in range(model.n_layers):
        layer = f"encoder.layer.{i}"
        for name, shape in (("attention.self.query", (width, width)), ("attention.self.key", (width, width)),
                            ("attention.self.value", (width, width)), ("attention.output.dense", (width, width)),
                            ("intermediate.dense", (inner, width)), ("output.dense", (width, inner))):  # fmt: skip
            yield f"{layer}.{name}.weight", shape
            yield f"{layer}.{name}.bias", shape[:1]
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)


for _name in ("bert", "roberta", "xlm-roberta"):
    FAMILIES[_name] = Family(shapes=_shapes, gguf_names={}, metadata=lambda writer, model: None)

_BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": VOCAB, "type_vocab_size": 2,
    "max_position_embeddings": 150, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip

MODELS = (
    TinyModel("bert", 81, {
        **_BERT, "hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 160,
    }),
    TinyModel("bert_head20", 82, {
        **_BERT, "hidden_size": 140, "num_attention_heads": 7, "num_hidden_layers": 2, "intermediate_size": 203,
        "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 1,
    }, prefix="bert."),
    TinyModel("roberta", 83, {
        **_BERT, "model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": 1, "type_vocab_size": 1,
        "max_position_embeddings": 152, "hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
        "intermediate_size": 160, "layer_norm_eps": 1e-5,
    }, prefix="roberta."),
    TinyModel("xlm_roberta", 84, {
        **_BERT, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "pad_token_id": 1,
        "type_vocab_size": 1, "max_position_embeddings": 152, "hidden_size": 64, "num_attention_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 128, "layer_norm_eps": 1e-5,
    }),
)  # fmt: skip
