"""Names of tensors in files: the weight that each one is, and the names that are ignored or refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import WeightsError


@dataclass(frozen=True)
class NameRules:
    """Prefixes and additional tensors in the files of an architecture.

    Attributes:
        hf_prefixes: prefixes of checkpoint names; the first one that matches is removed.
        ignored: regular expressions of whole names in the file that the model does not need, in addition to the buffers
            of :func:`is_buffer`.
    """

    hf_prefixes: tuple[str, ...] = ("model.",)
    ignored: tuple[str, ...] = ()


_LAYER = re.compile(r"(\w+)\.(\d{1,9})\.")
_TABLES = ("inv_freq", "freqs", "freqs_cis", "cos", "sin")
_ORIGINS = {
    "qweight": "of weights quantised with GPTQ or AWQ",
    "qzeros": "of weights quantised with GPTQ or AWQ",
    "g_idx": "of weights quantised with GPTQ or AWQ",
    "scales": "of weights quantised with GPTQ, AWQ or MLX",
    "biases": "of weights quantised with MLX",
    "SCB": "of weights quantised with bitsandbytes",
    "absmax": "of weights quantised with bitsandbytes",
    "quant_map": "of weights quantised with bitsandbytes",
    "weight_format": "of weights quantised with bitsandbytes",
    "weight_packed": "of weights quantised with compressed-tensors",
    "weight_shape": "of weights quantised with compressed-tensors",
    "weight_scale": "of weights quantised to 8 bits or fewer",
    "weight_scale_inv": "of weights quantised to FP8",
    "input_scale": "of weights quantised to 8 bits or fewer",
}
"""End of a tensor's name -> its known origin."""


@dataclass(frozen=True)
class Matches:
    """The weights of a model among the names of a file.

    Attributes:
        names: internal name -> name in the file.
        extra_layers: indices of a checkpoint's layers that the model does not have, ascending.
    """

    names: dict[str, str]
    extra_layers: list[int]


def find(names: Iterable[str], expected: Mapping[str, Sequence[str]], rules: NameRules, gguf: bool) -> Matches:
    """Find the weights of a model among a file's names.

    Args:
        names: names of the file's tensors.
        expected: name of a tensor, without the prefix of the whole model -> internal names of the weights in it.
        rules: prefixes and ignored names.
        gguf: whether the names are those of a GGUF file (else of a checkpoint).

    Raises:
        WeightsError: a tensor is unknown, or the file has a weight twice.
    """
    ignored = re.compile("|".join(rules.ignored)) if rules.ignored else None
    depths: dict[str, int] | None = None
    found: dict[str, str] = {}
    extra_layers: set[int] = set()
    for file_name in names:
        name = file_name if gguf else without_prefix(file_name, rules.hf_prefixes)
        known = expected.get(name)
        if known is not None:
            if known[0] in found:
                raise WeightsError(
                    f"{shown(file_name)}: a second tensor for the weight in {found[known[0]]}, expected one"
                )
            found |= dict.fromkeys(known, file_name)
            continue
        if (ignored is not None and ignored.fullmatch(file_name)) or (not gguf and is_buffer(file_name)):
            continue
        depths = _depths(expected) if depths is None else depths
        layer = None if gguf else _LAYER.match(name)
        if layer is None or layer[1] not in depths or int(layer[2]) < depths[layer[1]]:
            raise WeightsError(f"{shown(file_name)}: unknown tensor, which the model would not use{_origin(file_name)}")
        extra_layers.add(int(layer[2]))
    return Matches(found, sorted(extra_layers))


def is_buffer(name: str) -> bool:
    """Whether a checkpoint's tensor is a table of angles or positions, in any spelling.

    Some trainers and older versions of transformers save them. A model computes its own.
    """
    *_, owner, last = ("", *name.split("."))
    if last in ("freqs_cis", "position_ids"):
        return True
    table = last.removesuffix("_cache").removesuffix("_cached")
    return ("rotary" in owner or "rope" in owner) and table.endswith(_TABLES)


def shown(name: str) -> str:
    """Format a tensor's name for a message: unchanged, unless it is long or not printable."""
    return name if len(name) <= 100 and name.isprintable() else repr(name[:80]) + "..."


def _depths(expected: Collection[str]) -> dict[str, int]:
    """The number of layers by the name before their index: ``{"layers": 32}``."""
    depths: dict[str, int] = {}
    for name in expected:
        if layer := _LAYER.match(name):
            depths[layer[1]] = max(depths.get(layer[1], 0), int(layer[2]) + 1)
    return depths


def _origin(name: str) -> str:
    """The known origin of a tensor, as an addition to a message."""
    origin = "of an adapter (LoRA) that is not merged into the model" if "lora_" in name else ""
    origin = origin or _ORIGINS.get(name.rpartition(".")[2], "")
    return f" (it is {origin})" if origin else ""


def without_prefix(name: str, prefixes: Sequence[str]) -> str:
    """Return a checkpoint's name without the first of these prefixes that it has."""
    for prefix in prefixes:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
