"""The checks that every ``config.json`` goes through, before and after its keys are read."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import show
from .fields import Fields, unknown_keys
from .hf_keys import is_harmless, may_matter, quantised_with

_log = logging.getLogger("pyml.load")

_OWN_CODE = {"phi": "Phi", "phi3": "Phi3", "falcon": "Falcon"}
"""Model types whose folders name code of their own that is now part of transformers -> prefix of its classes."""

_OTHER_REPOSITORY = re.compile(r"[\w.-]+/[\w-]+")  # the source of a tokenizer; not a class
_BUILT_IN = re.compile(r"(configuration|modeling)_(\w+)\.(\w+?)(Config|Model|For[A-Z]\w+)")


def repeats_built_ins(config: Mapping[str, Any]) -> bool:
    """Whether the ``auto_map`` of a ``config.json`` names only classes that are now part of transformers.

    Such folders were published before transformers supported their architecture, and their code is equivalent. The map
    may also name the repository that the tokenizer was taken from: its files are in the folder.
    """
    kind, classes = config.get("model_type"), config.get("auto_map")
    if not isinstance(classes, Mapping) or not isinstance(kind, str) or kind not in _OWN_CODE:
        return False
    names = [
        name
        for key, name in classes.items()
        if not (key == "AutoTokenizer" and isinstance(name, str) and _OTHER_REPOSITORY.fullmatch(name))
    ]
    found = [_BUILT_IN.fullmatch(name) if isinstance(name, str) else None for name in names]
    return all(match is not None and match[2] == kind and match[3] == _OWN_CODE[kind] for match in found)


def open_fields(values: Any, where: str, model_types: Collection[str], allow_unknown: bool = False) -> Fields:
    """Return the fields of a ``config.json`` of one of these model types, after the checks common to all.

    Raises:
        ConfigError: another model type, custom code (``auto_map``), a quantisation scheme, an encoder, ...
    """
    fields = Fields(values, where, "", allow_unknown)
    for key in ("auto_map", "trust_remote_code", "custom_pipelines"):
        if fields.raw(key) and not (key == "auto_map" and repeats_built_ins(values)):
            raise fields.error(key, "refused: it asks for the repository's own code to be run, and pyml runs none")
    fields.choice("model_type", dict.fromkeys(model_types))
    fields.fixed("is_encoder_decoder", False)
    fields.fixed("add_cross_attention", False)
    fields.fixed("cross_attention_hidden_size")
    fields.fixed("pruned_heads", {})
    fields.fixed("per_layer_config")
    if (quantised := quantised_with(values)) is not None:
        key, how = quantised
        raise fields.error(
            key,
            f"the weights are {' '.join(['quantised', *how])}, which is not supported: use the weights in bf16, f16 or "
            "f32, or a GGUF file",
        )
    return fields


def close_fields(fields: Fields, harmless: Collection[str] = ()) -> None:
    """Refuse unread keys that may change the mathematics, and log a warning about the other ones.

    Args:
        fields: the configuration.
        harmless: keys that change nothing in this architecture.

    Raises:
        ConfigError: a key may change the mathematics, and its value is not known to be neutral.
    """
    unknown = []
    for key, value in fields.unread():
        if key in harmless or is_harmless(key, value):
            continue
        if may_matter(key, value):
            fields.refuse(key, f"unknown key (found {show(value)}), which may change the model's results")
        else:
            unknown.append((key, value))
    if unknown:
        _log.warning("%s", unknown_keys(fields, unknown))
