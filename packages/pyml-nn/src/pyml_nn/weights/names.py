"""Names of tensors in files: which weight each one is, what is passed over, what is refused and why."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import WeightsError


@dataclass(frozen=True)
class NameRules:
    """What an architecture's files put around its weights.

    Attributes:
        hf_prefixes: prefixes of checkpoint names, of which the first that fits is left out.
        ignored: regular expressions of whole names (as the file has them) that a model has no use for, besides the
            buffers of :func:`is_buffer`.
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
"""By the end of a tensor's name: what is known to have it."""


@dataclass(frozen=True)
class Found:
    """What a file's names stand for.

    Attributes:
        names: internal name -> name in the file.
        left_out: numbers of a checkpoint's layers that the model does not have, ascending.
    """

    names: dict[str, str]
    left_out: list[int]


def find(names: Iterable[str], wanted: Mapping[str, Sequence[str]], rules: NameRules, gguf: bool) -> Found:
    """Find the weights of a model among a file's names.

    Args:
        names: of the file's tensors.
        wanted: a tensor's name, without the prefix of the whole model -> internal names of the weights in it.
        rules: how names are written.
        gguf: whether they are a GGUF file's names (else a checkpoint's).

    Raises:
        WeightsError: a tensor is unknown, or a weight is there twice.
    """
    ignored = re.compile("|".join(rules.ignored)) if rules.ignored else None
    depths: dict[str, int] | None = None
    found: dict[str, str] = {}
    left_out: set[int] = set()
    for file_name in names:
        name = file_name if gguf else _without_prefix(file_name, rules.hf_prefixes)
        known = wanted.get(name)
        if known is not None:
            if known[0] in found:
                raise WeightsError(f"{shown(file_name)}: the same weight as {found[known[0]]}, expected it once")
            found |= dict.fromkeys(known, file_name)
            continue
        if (ignored is not None and ignored.fullmatch(file_name)) or (not gguf and is_buffer(file_name)):
            continue
        depths = _depths(wanted) if depths is None else depths
        layer = None if gguf else _LAYER.match(name)
        if layer is None or layer[1] not in depths or int(layer[2]) < depths[layer[1]]:
            raise WeightsError(
                f"{shown(file_name)}: unknown tensor, which the model would leave out{_origin(file_name)}"
            )
        left_out.add(int(layer[2]))
    return Found(found, sorted(left_out))


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
    """A tensor's name for a message: as it is, unless it is long or cannot be printed."""
    return name if len(name) <= 100 and name.isprintable() else repr(name[:80]) + "..."


def _depths(wanted: Collection[str]) -> dict[str, int]:
    """How many layers there are by what stands before their number: ``{"layers": 32}``."""
    depths: dict[str, int] = {}
    for name in wanted:
        if layer := _LAYER.match(name):
            depths[layer[1]] = max(depths.get(layer[1], 0), int(layer[2]) + 1)
    return depths


def _origin(name: str) -> str:
    """What a tensor is known to come from, as an addition to a message."""
    origin = "of an adapter (LoRA) that is not merged into the model" if "lora_" in name else ""
    origin = origin or _ORIGINS.get(name.rpartition(".")[2], "")
    return f" (it is {origin})" if origin else ""


def _without_prefix(name: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
