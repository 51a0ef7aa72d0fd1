"""How a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..values import choice, flag, whole, without_none
from .adapters import Adapters, adapter_files
from .checks import given

if TYPE_CHECKING:
    from typing import Unpack

    from .keywords import LoadKeywords

DTYPES = ("auto", "f32", "bf16", "q8_0", "q4_0")
KV_DTYPES = ("auto", "f32", "f16", "int8")


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: type of the weights in memory. ``auto``: as stored in GGUF, q8_0 from safetensors; ``f32`` (and f32
            arithmetic), ``bf16``, ``q8_0``, ``q4_0``: converted.
        threads: number of worker threads; None: what suits the machine.
        context_length: maximum number of positions of a sequence; None: the model's own.
        prefill_chunk: maximum number of prompt tokens in one run; buffers are allocated for them.
        prefix_cache_bytes: maximum number of bytes of keys and values kept from earlier texts, for prompts that begin
            with the same tokens; 0: none.
        screen: find the most probable tokens from half of the bytes of a large q8_0 head, where they alone decide; see
            :mod:`pyml_core.screen`. False: always compute all logits.
        kv_dtype: type of keys and values: ``f32``, ``f16`` or ``int8``. ``auto``: int8 with quantised matrices if a
            head is a multiple of 32 wide; f32 with f32 weights; else f16.
        allow_unknown_keys: ignore unknown keys of the configuration that may change the model's results, with a
            warning for each. False: they are an error.
        adapters: LoRA adapters that texts may choose by name (``generate(..., adapter=name)``): paths of PEFT folders
            or GGUF files, pairs of a path and a scale, or a dictionary of these by name.

    Values are converted once, here: NumPy's scalars to Python's, None to the default.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    dtype: str = "auto"
    threads: int | None = None
    context_length: int | None = None
    prefill_chunk: int = 512
    prefix_cache_bytes: int = 256 << 20
    screen: bool = True
    kv_dtype: str = "auto"
    allow_unknown_keys: bool = False
    adapters: Adapters = ()

    def __post_init__(self) -> None:
        own = without_none(self)
        for name in ("threads", "context_length", "prefill_chunk"):
            own[name] = None if own[name] is None else whole(name, own[name], 1)
        own["prefix_cache_bytes"] = whole("prefix_cache_bytes", own["prefix_cache_bytes"], 0)
        own["screen"] = flag("screen", own["screen"])
        own["allow_unknown_keys"] = flag("allow_unknown_keys", own["allow_unknown_keys"])
        own["dtype"] = choice("dtype", own["dtype"], DTYPES)
        own["kv_dtype"] = choice("kv_dtype", own["kv_dtype"], KV_DTYPES)
        own["adapters"] = adapter_files(own["adapters"])
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Unpack[LoadKeywords]) -> LoadOptions:
        """A copy with some fields changed; None leaves a field as it is.

        Raises:
            ArgumentError: an unknown name, or a value of the wrong type or out of its range.
        """
        new = given(changes, LOAD)
        return replace(self, **new) if new else self


LOAD = frozenset(LoadOptions.__dataclass_fields__)
"""The keywords of :meth:`LoadOptions.replace`."""
