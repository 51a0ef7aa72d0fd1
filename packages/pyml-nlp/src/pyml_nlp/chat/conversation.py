"""A chat of several turns with one model, in which each turn reuses the cache of the previous one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pyml_core.errors import quoted
from pyml_core.locks import importing
from pyml_core.pickling import OfOneProcess

from ..errors import ArgumentError
from ..generation.prefix_tree import common_length
from ..generation.preparing import within_timeout
from ..options.adapters import adapter_name
from ..options.chat import ChatOptions, chat_options
from ..values import text as plain_text
from .messages import Message, checked_messages

if TYPE_CHECKING:
    from typing import Unpack

    from pyml_nn import KVCache

    from ..engine import HasEngine
    from ..generation.iterator import Generation
    from ..options.generation import GenerationOptions
    from ..options.keywords import ChatKeywords, GenerationKeywords


class Chatter(Protocol):
    """The methods of a language model that a conversation uses."""

    def new_cache(self, max_length: int | None = None, adapter: str | None = None) -> KVCache:
        """An empty KV cache of sequences with this adapter."""
        ...

    def chat_ids(self, messages: Sequence[Message], options: ChatOptions | None) -> list[int]:
        """The prompt that the chat template makes of messages."""
        ...

    def generate(
        self,
        prompt: Sequence[int],
        options: GenerationOptions | int | None = None,
        *,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[GenerationKeywords],
    ) -> Generation:
        """Continue a prompt."""
        ...


class Conversation(OfOneProcess, instead="send its messages, for lm.chat"):
    """Messages and the model's answers, in turns.

    The template renders the whole conversation at each turn, and its ids are compared with those in the cache: the
    common beginning is not computed again. That is usually everything except the end of the last answer and the new
    message. Results are bit-identical to those of a new cache.

    Args:
        lm: the language model.
        system: a system message to begin with.
        options: how prompts are made; None: :class:`ChatOptions` without arguments.
        changes: fields of :class:`ChatOptions` that differ, as keywords.

    Attributes:
        lm: the language model.
        options: how prompts are made.

    Raises:
        ArgumentError: an unknown option, or a value of the wrong type.
    """

    def __init__(
        self,
        lm: Chatter,
        system: str | None = None,
        options: ChatOptions | None = None,
        **changes: Unpack[ChatKeywords],
    ) -> None:
        if not callable(getattr(lm, "chat_ids", None)):
            raise ArgumentError(f"must be a model that pyml_nlp.load has returned, got {quoted(lm)}", "lm")
        self.lm = lm
        self.options = chat_options(options, changes)
        self._messages: list[Message] = []
        self._answer: Generation | None = None
        self._cache = lm.new_cache()
        self._adapter: str | None = None
        self.reset(system)

    def __repr__(self) -> str:
        return f"<Conversation: {len(self.messages)} messages, {self._cache.length} tokens computed>"

    def _repr_html_(self) -> str:
        with importing:
            from pyml_core.notebook import html_rows  # start-up: for notebooks alone

        rows = [(message["role"], message.get("content")) for message in self.messages]
        shown = [(role, content if isinstance(content, str) else quoted(content)) for role, content in rows]
        return html_rows("Conversation", [*shown, ("computed", f"{self._cache.length} tokens")])

    @property
    def messages(self) -> list[Message]:
        """All messages, with the text of the last answer so far."""
        answer = self._answer
        if answer is None or not answer.tokens:
            return [*self._messages]
        return [*self._messages, {"role": "assistant", "content": answer.text}]

    @property
    def system(self) -> str | None:
        """The system message."""
        first = self._messages[0] if self._messages else {}
        return first["content"] if first.get("role") == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[0 if self.system is None else 1 :]
        self._messages = rest if text is None else [{"role": "system", "content": plain_text("system", text)}, *rest]
        self._answer = None

    def reset(self, system: str | None = None) -> None:
        """Forget all messages and begin with a system message, if one is given."""
        self._messages = [] if system is None else [{"role": "system", "content": plain_text("system", system)}]
        self._answer = None

    def send(
        self,
        message: str | Message,
        options: GenerationOptions | int | None = None,
        *,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[GenerationKeywords],
    ) -> Generation:
        """Send a message; the answer is generated as it is read.

        Args:
            message: a text of the user, or any message (``{"role": "tool", ...}``).
            options, timeout, speculate, draft_model, changes: see :meth:`LanguageModel.generate`.

        An answer that is not read to its end, or is cancelled, stays in the conversation with its text so far. The
        message of a call that raises is not part of the conversation.

        Raises:
            ContextOverflowError: the conversation does not fit the context any more.
            ChatTemplateError, Cancelled, ArgumentError: see :meth:`LanguageModel.chat`.
        """
        spoken: Message = {"role": "user", "content": message} if isinstance(message, str) else message
        messages = [*self.messages, spoken]
        ids, timeout = within_timeout(timeout, lambda: self.lm.chat_ids(messages, self.options))
        adapter = adapter_name(changes.get("adapter")) or getattr(options, "adapter", None)
        if self._answer is not None and self._answer.finish_reason is None:
            self._answer.cancel()  # its generation must stop: the next answer uses the cache
        if adapter != self._adapter:  # keys and values are of one adapter
            self._cache, self._adapter = self.lm.new_cache(adapter=adapter), adapter
        cache = self._cache
        kept = common_length(cache.ids, ids[:-1])
        if kept < cache.length:
            cache.trim(kept)
        answer = self.lm.generate(
            ids[kept:], options, cache=cache, timeout=timeout, speculate=speculate, draft_model=draft_model, **changes
        )
        self._messages, self._answer = messages, answer
        return answer

    def restore(self, messages: Sequence[Message]) -> None:
        """Go on with other messages, such as those of an earlier conversation.

        Raises:
            ChatTemplateError: something that is no list of messages.
        """
        given: list[Message] = [dict(message) for message in checked_messages(messages, lambda text: text)]
        self._messages, self._answer = given, None

    def take_back(self) -> Message | None:
        """Remove the last message of the user with everything after it, and return it; None if there is none."""
        messages = self.messages
        last = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=None)
        if last is None:
            return None
        self._messages, self._answer = messages[:last], None
        return messages[last]

    @property
    def n_tokens(self) -> int:
        """Number of tokens in the cache: those of the last prompt and of the answer so far."""
        return self._cache.length

    def close(self) -> None:
        """Free the memory of the cache."""
        self._cache.trim(0)
