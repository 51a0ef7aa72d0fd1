"""The text models inside of models that also read images (Qwen VL, Mistral 3, LLaVA, ...); the towers are not loaded.

The position of a piece of text is the same on the three axes of M-RoPE, which then is plain RoPE.

Source: Wang et al. 2024, arXiv 2409.12191 (M-RoPE); transformers' ``modeling_qwen2_vl.py``, ``modeling_llava.py`` and
their relatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any

from ..config import hf
from ..errors import ConfigError, show
from ..weights import NameRules

WRAPPERS: Mapping[str, str] = MappingProxyType({
    "idefics3": "llama", "internvl": "qwen2", "llava": "llama", "llava_next": "llama", "llava_onevision": "qwen2",
    "mistral3": "mistral", "qwen2_5_vl": "qwen2_5_vl_text", "qwen2_vl": "qwen2_vl_text", "qwen3_vl": "qwen3_vl_text",
    "smolvlm": "llama", "vipllava": "llama",
})  # fmt: skip
"""``model_type`` of the whole -> that of a text model that does not say its own."""

_MODULES = {
    "llama": "llama", "ministral3": "ministral3", "mistral": "mistral", "phi3": "phi3", "qwen2": "qwen2",
    "qwen2_vl_text": "qwen2", "qwen2_5_vl_text": "qwen2", "qwen3": "qwen3", "qwen3_vl_text": "qwen3",
    "smollm3": "smollm3",
}  # fmt: skip
"""``model_type`` of a text model -> its architecture."""

_M_ROPE = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text")

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 2048,
    },
    "ministral3": {
        "vocab_size": 131_072, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 34,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262_144,
    },
    "mistral": {
        "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    },
    "qwen2": {
        "vocab_size": 151_936, "hidden_size": 4096, "intermediate_size": 22_016, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32_768,
    },
    "qwen3_vl_text": {"head_dim": 128},
}  # fmt: skip
"""Values of absent keys: transformers leaves out of ``text_config`` what its classes have as defaults."""

_HARMLESS = {
    "boi_token_id", "boi_token_index", "downsample_ratio", "eoi_token_id", "eoi_token_index", "hidden_size",
    "ignore_index", "image_grid_pinpoints", "image_seq_length", "mm_tokens_per_image", "multimodal_projector_bias",
    "projector_hidden_act", "projector_layernorm_eps", "scale_factor", "spatial_merge_size",
    "use_image_newline_parameter", "vision_aspect_ratio", "vision_config", "vision_feature_layer",
    "vision_feature_select_strategy", "vocab_size",
}  # fmt: skip
"""Keys beside ``text_config``: of the tower, the projector and the places of images."""

RULES = NameRules(
    hf_prefixes=("language_model.model.", "model.language_model.", "model.text_model.", "language_model.", "model."),
    ignored=(r"(model\.)?(visual|vision_tower|vision_model|multi_modal_projector|connector)\..*",
             r"(model\.)?image_newline"),
)  # fmt: skip
"""Names of the text model's weights, with a tower beside it."""


def text_config(values: Mapping[str, Any], where: str, allow_unknown: bool = False) -> tuple[dict[str, Any], str]:
    """Return the text model's part of a ``config.json``, and its name for messages.

    Older folders of Qwen 2 VL have its keys at the top level.

    Raises:
        ConfigError: ``text_config`` is not an object, or a key beside it may change the mathematics.
    """
    kind = values["model_type"]
    fields = hf.open_fields(values, where, (kind,), allow_unknown)
    text = fields.raw("text_config")
    if text is None and kind in ("qwen2_vl", "qwen2_5_vl"):
        return {key: value for key, value in values.items() if key not in {"vision_config", "model_type"}}, where
    inner = f"{where}: text_config"
    if not isinstance(text, Mapping):
        raise ConfigError(f"{inner}: expected an object of keys and values, found {show(text)}")
    tied = fields.raw("tie_word_embeddings")
    if tied is not None and not isinstance(tied, bool):
        raise fields.error("tie_word_embeddings", f"expected true or false, found {show(tied)}")
    hf.close_fields(fields, _HARMLESS | {key for key, value in text.items() if values.get(key) == value})
    found = dict(text)
    if found.get("tie_word_embeddings") is None and tied is not None:
        found["tie_word_embeddings"] = tied
    return found, inner


def _without_m_rope(text: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with plain RoPE for M-RoPE."""
    plain = dict(text)
    for key in ("rope_parameters", "rope_scaling"):
        if isinstance(section := text.get(key), Mapping):
            plain[key] = {
                name: "default" if name in ("type", "rope_type") and value == "mrope" else value
                for name, value in section.items()
                if name not in ("mrope_section", "mrope_interleaved")
            }
    return plain


class TextPart(ModuleType):
    """An architecture, as the modules beside this one are, whose files also have a tower.

    Args:
        kind: the ``model_type`` of the whole.
        text_kind: the ``model_type`` of the text model.

    Attributes:
        Config: the text model's; reads the whole's ``config.json``.
        Model: the text model's; ignores the weights of the tower.
    """

    def __init__(self, kind: str, text_kind: str) -> None:
        super().__init__(f"{__name__}.{kind}")
        inner = import_module(f".{_MODULES[text_kind]}", __package__)
        base: Any = inner.Config

        def from_hf(
            cls: Any, values: Mapping[str, Any], where: str = "config.json", allow_unknown: bool = False
        ) -> Any:
            text, name = text_config(values, where, allow_unknown)
            text = {**_DEFAULTS.get(text_kind, {}), **(_without_m_rope(text) if text_kind in _M_ROPE else text)}
            return base.from_hf({**text, "model_type": _MODULES[text_kind]}, name, allow_unknown)

        self.Config = type("Config", (base,), {"__doc__": base.__doc__, "from_hf": classmethod(from_hf)})
        self.Model = type("Model", (inner.Model,), {"__doc__": inner.Model.__doc__, "rules": RULES})


def text_part(values: Mapping[str, Any], where: str) -> ModuleType:
    """Find the architecture of the text model of a ``config.json`` whose ``model_type`` is in :data:`WRAPPERS`.

    Raises:
        ConfigError: pyml does not have that architecture.
    """
    kind = values["model_type"]
    text = values.get("text_config")
    found = text.get("model_type") if isinstance(text, Mapping) else None
    text_kind = WRAPPERS[kind] if found is None else found
    if not isinstance(text_kind, str) or text_kind not in _MODULES:
        known = ", ".join(sorted(_MODULES))
        raise ConfigError(f"{where}: text_config: model_type: expected one of {known}, found {show(text_kind)}")
    return TextPart(kind, text_kind)
