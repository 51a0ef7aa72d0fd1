"""The types of keyword arguments that change options (PEP 692), and the check of their names.

None has one meaning everywhere: the option was not given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from pyml_core.errors import quoted

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..chat.messages import Message
    from ..structured.grammar import Grammar
    from .sampling import SamplingOptions

T = TypeVar("T")

Overflow = Literal["error", "shift"]


class SamplingKeywords(TypedDict, total=False):
    """The fields of :class:`.SamplingOptions`."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    seed: int | None
    min_p: float | None
    typical_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    order: Sequence[str] | None


class GenerationKeywords(SamplingKeywords, total=False):
    """The fields of :class:`.GenerationOptions` and of its sampling, and a grammar in each of its forms."""

    max_tokens: int | None
    sampling: SamplingOptions | None
    stop: str | Sequence[str] | None
    stop_ids: Collection[int] | None
    include_stop: bool | None
    schema: Mapping[str, Any] | str | None
    regex: str | None
    grammar: Grammar | str | None
    logprobs: int | None
    overflow: Overflow | None
    n_keep: int | None
    sample_index: int | None


class ChatKeywords(TypedDict, total=False):
    """The fields of :class:`.ChatOptions`."""

    tools: Sequence[Message] | None
    documents: Sequence[Message] | None
    template: str | None
    add_generation_prompt: bool | None
    continue_final_message: bool | None
    variables: Mapping[str, Any] | None


class ChatGenerationKeywords(GenerationKeywords, ChatKeywords, total=False):
    """What an answer takes: how the prompt is made, and how it is continued."""


class LoadKeywords(TypedDict, total=False):
    """The fields of :class:`.LoadOptions`."""

    dtype: str | None
    threads: int | None
    context_length: int | None
    prefill_chunk: int | None
    prefix_cache_bytes: int | None
    screen: bool | None
    kv_dtype: str | None


SAMPLING = SamplingKeywords.__optional_keys__
GENERATION = GenerationKeywords.__optional_keys__
CHAT = ChatKeywords.__optional_keys__
LOAD = LoadKeywords.__optional_keys__


def given(changes: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The changes that are not None.

    Raises:
        ArgumentError: an unknown name; the message has the name that was probably meant.
    """
    unknown = next((name for name in changes if name not in known), None)
    if unknown is not None:
        from difflib import get_close_matches  # for an error only

        meant = get_close_matches(unknown, sorted(known), 1)
        hint = f"did you mean {meant[0]!r}?" if meant else f"expected one of {', '.join(sorted(known))}"
        raise ArgumentError(f"unknown option {quoted(unknown)}: {hint}")
    return {name: value for name, value in changes.items() if value is not None}


def split_chat(changes: ChatGenerationKeywords) -> tuple[ChatKeywords, GenerationKeywords]:
    """The changes of a prompt, and those of its continuation.

    Raises:
        ArgumentError: an unknown name.
    """
    new: Any = given(changes, CHAT | GENERATION)
    chat: Any = {name: new.pop(name) for name in list(new) if name in CHAT}
    return chat, new


def instance(name: str, value: Any, kind: type[T]) -> T:
    """An object of this class.

    Raises:
        ArgumentError: something else.
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"must be {kind.__name__}, got {quoted(value)}", name)
    return value
