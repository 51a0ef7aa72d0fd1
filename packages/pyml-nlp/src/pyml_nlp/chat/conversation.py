"""A chat of several turns with one model, each prefilled from the cache of the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pyml_core.pickling import OfOneProcess

from ..generation.prefix_cache import common_length
from ..generation.preparing import within_timeout
from ..values import text as plain_text
from .messages import Message

if TYPE_CHECKING:
    from pyml_nn import KVCache

    from ..generation.iterator import Generation


class Chatter(Protocol):
    """What answers: a language model, of which this is needed."""

    def new_cache(self) -> KVCache:
        """An empty KV cache."""
        ...

    def chat_ids(
        self, messages: Sequence[Message], *, tools: Sequence[Message] | None, variables: Mapping[str, Any] | None
    ) -> list[int]:
        """The prompt that its template makes of messages."""
        ...

    def generate(self, prompt: Sequence[int], **options: Any) -> Generation:
        """Continue a prompt."""
        ...


class Conversation(OfOneProcess, instead="send its messages, for lm.chat"):
    """Messages and the model's answers, in turns.

    The whole conversation goes through the model's template at each turn, and its ids are compared with those in the
    cache: what is the same is not run again. That is most often all but the last answer's end and the new message.
    Results are those of a new cache, bit for bit.

    Args:
        lm: the language model.
        system: a system message to begin with.
        tools, variables: for the template, see :meth:`LanguageModel.chat`.

    Attributes:
        lm, tools, variables: as given.
    """

    def __init__(
        self,
        lm: Chatter,
        system: str | None = None,
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.lm = lm
        self.tools = tools
        self.variables = variables
        self._messages: list[Message] = []
        self._answer: Generation | None = None
        self._cache = lm.new_cache()
        self.reset(system)

    @property
    def messages(self) -> list[Message]:
        """All messages, the last answer with what it has by now."""
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
        """Begin anew."""
        self._messages = [] if system is None else [{"role": "system", "content": plain_text("system", system)}]
        self._answer = None

    def send(self, message: str | Message, **options: Any) -> Generation:
        """Say something; the answer is generated as it is read.

        Args:
            message: what the user says, or any message (``{"role": "tool", ...}``).
            options: as of :meth:`LanguageModel.generate`, but for ``cache``.

        An answer that is not read to its end (or is cancelled) stays in the conversation with what it has.

        Raises:
            ContextOverflowError: the conversation does not fit the context any more. The message is not part of it.
            ChatTemplateError, Cancelled: as of :meth:`LanguageModel.chat`, the same.
        """
        spoken: Message = {"role": "user", "content": message} if isinstance(message, str) else message
        messages = [*self.messages, spoken]
        ids = within_timeout(options, lambda: self.lm.chat_ids(messages, tools=self.tools, variables=self.variables))
        cache = self._cache
        if self._answer is not None and self._answer.finish_reason is None:
            self._answer.cancel()  # nobody may go on with it: the cache is the next answer's
        kept = common_length(cache.ids, ids[:-1])
        if kept < cache.length:
            cache.trim(kept)
        answer = self.lm.generate(ids[kept:], cache=cache, **options)
        self._messages, self._answer = messages, answer
        return answer

    def close(self) -> None:
        """Let go of the cache's memory."""
        self._cache.trim(0)
