"""Ollama's ``options``, ``format`` and ``think`` as fields of a chat request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..openai.fields import Fields
from ..values import choice, is_list, number, whole

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "stop", "repeat_penalty", "presence_penalty",
    "frequency_penalty",
)  # fmt: skip
_NEUTRAL = {"mirostat": 0, "tfs_z": 1}
"""Options that would change the text and are not supported -> the value that has no effect."""

_RUNTIME = frozenset({
    "num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_gqa", "use_mmap", "use_mlock", "numa",
    "low_vram", "f16_kv", "vocab_only", "logits_all", "penalize_newline", "mirostat_tau", "mirostat_eta",
})  # fmt: skip
"""Options about how a model is run, which the server decides."""

NAMES = {
    **{name: f"options.{name}" for name in (*_SAMPLING, "seed")},
    "max_completion_tokens": "options.num_predict",
    "max_tokens": "options.num_predict",
    "response_format.json_schema.schema": "format",
    "response_format": "format",
    "reasoning_effort": "think",
}
"""Fields of a chat request -> what they are called here."""


def option_fields(given: Any, limit: str, dropped: list[str]) -> dict[str, Any]:
    """The fields that ``options`` stands for.

    Args:
        given: the options; None: there are none.
        limit: name of the field with the limit of tokens.
        dropped: gets the names of those without an effect.

    Raises:
        ArgumentError: one cannot be honoured.
    """
    if given is None:
        return {}
    fields = Fields(given, "options")
    found = {name: fields.any(name) for name in _SAMPLING}
    seed, most = fields.take("seed", whole, -1), fields.take("num_predict", whole, -1)
    found["seed"] = None if seed == -1 else seed
    found[limit] = None if most in (-1, -2) else most  # as many as there may be
    for name, neutral in _NEUTRAL.items():
        value = fields.take(name, number, float(neutral))
        if value != neutral:
            raise ArgumentError(f"is not supported, except {neutral}, got {value:g}", fields.path(name))
    if fields.take("repeat_last_n", whole, -1) >= 0 and found["repeat_penalty"] not in (None, 1, 1.0):
        dropped.append("options.repeat_last_n")
    dropped += [f"options.{name}" for name in fields.end(_RUNTIME)]
    return found


def format_field(given: Any) -> dict[str, Any]:
    """``response_format`` for ``"json"`` or a schema.

    Raises:
        ArgumentError: it is something else.
    """
    if given in (None, ""):
        return {}
    if given == "json":
        return {"response_format": {"type": "json_object"}}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"must be 'json' or a schema, got {quoted(given)}", "format")
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": given}}}


def think_field(given: Any) -> dict[str, Any]:
    """Whether, or how much, the model is to reason, for templates that let it choose.

    Raises:
        ArgumentError: it is neither a flag nor a level.
    """
    if given is None:
        return {}
    if isinstance(given, bool):
        return {"chat_template_kwargs": {"enable_thinking": given}}
    return {"reasoning_effort": choice("think", given, ("none", "minimal", "low", "medium", "high", "max"))}


def no_images(given: Any, name: str) -> None:
    """Refuse images.

    Raises:
        ArgumentError: there are some.
    """
    if given is not None and (not is_list(given) or list(given)):
        raise ArgumentError("is not supported: the model reads text alone", name)
