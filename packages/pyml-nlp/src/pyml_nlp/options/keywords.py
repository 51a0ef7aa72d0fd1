"""The types of keyword arguments that change options (PEP 692).

None has one meaning everywhere: the option was not given. Only annotations use this module: making its types takes
milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from .sampling_keywords import SamplingKeywords as SamplingKeywords

if TYPE_CHECKING:
    from ..chat.messages import Message
    from ..structured.grammar import Grammar
    from .adapters import Adapters
    from .sampling import SamplingOptions

Overflow = Literal["error", "shift"]
LogitsProcessor = Callable[[list[int], npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class GenerationKeywords(SamplingKeywords, total=False):
    """The fields of :class:`.GenerationOptions` and of its sampling, and a grammar in each of its forms."""

    max_tokens: int | None
    sampling: SamplingOptions | None
    stop: str | Sequence[str] | None
    stop_ids: Collection[int] | None
    include_stop: bool | None
    schema: Mapping[str, Any] | type[Any] | str | None
    regex: str | None
    grammar: Grammar | str | None
    logprobs: int | None
    overflow: Overflow | None
    n_keep: int | None
    sample_index: int | None
    logits_processor: LogitsProcessor | None
    adapter: str | None


class ChatKeywords(TypedDict, total=False):
    """The fields of :class:`.ChatOptions`."""

    tools: Sequence[Message] | None
    documents: Sequence[Message] | None
    template: str | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    variables: Mapping[str, Any] | None


class ChatGenerationKeywords(GenerationKeywords, ChatKeywords, total=False):
    """Options of an answer: those of its prompt, and those of its generation."""


class LoadKeywords(TypedDict, total=False):
    """The fields of :class:`.LoadOptions`."""

    dtype: str | None
    threads: int | None
    context_length: int | None
    prefill_chunk: int | None
    prefix_cache_bytes: int | None
    screen: bool | None
    kv_dtype: str | None
    allow_unknown_keys: bool | None
    adapters: Adapters | None
