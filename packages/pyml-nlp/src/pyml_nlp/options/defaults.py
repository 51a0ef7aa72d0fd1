"""The default options of a model, from its own files.

A Hugging Face folder names them in ``generation_config.json``, a GGUF file in its metadata (``general.sampling.*``, the
keys of llama.cpp, which its converter copies from the folder). The rules are those of transformers, for both kinds, so
that a model has the same defaults in both: ``do_sample: false`` is greedy; with ``do_sample: true`` or any field of
sampling, fields that are left out have transformers' defaults. Files that say nothing have the project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyml_core.errors import quoted

from .. import logs
from ..errors import ArgumentError
from .generation import DEFAULT_SAMPLING, GenerationOptions
from .sampling import SamplingOptions

HF_KEYS = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")}
"""By name of the option: the keys of ``generation_config.json``."""

GGUF_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""By name of the option: the keys of GGUF metadata."""

LEFT_OUT = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""transformers' defaults of the fields that a file leaves out."""

_UNSUPPORTED = ("general.sampling.mirostat", "general.sampling.xtc_probability")  # 0 is off


def from_generation_config(config: Mapping[str, Any], where: str) -> GenerationOptions:
    """The defaults of a Hugging Face folder; an invalid value is a warning, and ignored.

    Args:
        config: ``generation_config.json``, empty if there is none.
        where: its path, for warnings.
    """
    do_sample = config.get("do_sample")
    if not isinstance(do_sample, bool | None):
        logs.load.warning("%s: do_sample must be true or false, got %s; ignored", where, quoted(do_sample))
        do_sample = None
    return _options(_valid(config, HF_KEYS, where), do_sample)


def from_gguf(metadata: Mapping[str, Any], where: str) -> GenerationOptions:
    """The defaults of a GGUF file; an invalid value is a warning, and ignored.

    Args:
        metadata: of the file.
        where: its path, for warnings.
    """
    for key in _UNSUPPORTED:
        if metadata.get(key):
            logs.load.warning("%s: %s is not supported; ignored", where, key)
    found = _valid(metadata, GGUF_KEYS, where)
    if metadata.get("general.sampling.penalty_last_n") == 0:  # the penalty looks at no token
        found.pop("repetition_penalty", None)
    return _options(found, None)


def _options(found: dict[str, Any], do_sample: bool | None) -> GenerationOptions:
    """The options for the values that a file has."""
    penalty: Any = {name: found.pop(name) for name in ("repetition_penalty",) if name in found}
    if do_sample is False:
        sampling = SamplingOptions(temperature=0.0, **penalty)
    elif do_sample or found:
        sampling = SamplingOptions(**LEFT_OUT, **penalty).replace(**found)  # type: ignore[arg-type]
    else:
        sampling = DEFAULT_SAMPLING.replace(**penalty)
    return GenerationOptions(sampling=sampling)


def _valid(values: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
    """The values of these keys that options can have, by name of the option."""
    found = {}
    for name, key in keys.items():
        if values.get(key) is None:
            continue
        try:
            SamplingOptions(**{name: values[key]})
        except ArgumentError as error:
            logs.load.warning("%s: %s %s; ignored", where, key, error.problem)
        else:
            found[name] = _decimal(values[key])
    return found


def _decimal(value: Any) -> Any:
    """The decimal number that was stored as a float32, such as 0.95 for 0.949999988079071; other values as they are."""
    if not isinstance(value, float):
        return value
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return float(str(single)) if float(single) == value else value
