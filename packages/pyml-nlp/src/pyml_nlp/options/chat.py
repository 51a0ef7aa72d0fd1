"""How messages become a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import flag, text, without_none
from .checks import given, instance
from .generation import GENERATION

if TYPE_CHECKING:
    from typing import Unpack

    from ..chat.messages import Message
    from .keywords import ChatGenerationKeywords, ChatKeywords, GenerationKeywords


@dataclass(frozen=True)
class ChatOptions:
    """How a chat template makes a prompt of messages.

    Attributes:
        tools: JSON schemas of functions that the model may call.
        documents: mappings with ``title`` and ``text``, for templates that use them.
        template: name of one of several templates; None: ``tool_use`` if there are tools and such a template, else
            ``default``, else the only one.
        add_generation_prompt: whether the prompt ends with the beginning of an answer.
        continue_final_message: whether the prompt ends within the last message, for the model to continue it; there is
            no generation prompt then.
        variables: further variables of the template, such as ``{"enable_thinking": False}``.

    The contents of tools, documents and variables are checked when a template is rendered.

    Raises:
        ArgumentError: a value of the wrong type.
    """

    tools: Sequence[Message] | None = None
    documents: Sequence[Message] | None = None
    template: str | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        own = without_none(self)
        for name in ("tools", "documents"):
            _check_list(name, own[name])
        if own["template"] is not None:
            own["template"] = text("template", own["template"])
        for name in ("add_generation_prompt", "continue_final_message"):
            own[name] = flag(name, own[name])
        if not isinstance(own["variables"], Mapping | None):
            raise ArgumentError(f"must be a mapping of names and values, got {quoted(own['variables'])}", "variables")
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Unpack[ChatKeywords]) -> ChatOptions:
        """A copy with some fields changed; None leaves a field as it is.

        Raises:
            ArgumentError: an unknown name, or a value of the wrong type.
        """
        new = given(changes, CHAT)
        return replace(self, **new) if new else self


CHAT = frozenset(ChatOptions.__dataclass_fields__)
"""The keywords of :meth:`ChatOptions.replace`."""


def chat_options(options: ChatOptions | None, changes: ChatKeywords, default: ChatOptions | None = None) -> ChatOptions:
    """The given options, or the default, with changes.

    Raises:
        ArgumentError: as of :meth:`ChatOptions.replace`, or something else than options.
    """
    if options is None:
        options = default or ChatOptions()
    return instance("options", options, ChatOptions).replace(**changes)


def split_chat(changes: ChatGenerationKeywords) -> tuple[ChatKeywords, GenerationKeywords]:
    """Return the changes of the prompt, and those of its generation.

    Raises:
        ArgumentError: a name is unknown.
    """
    new: Any = given(changes, CHAT | GENERATION)
    chat: Any = {name: new.pop(name) for name in list(new) if name in CHAT}
    return chat, new


def _check_list(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray | memoryview):
        raise ArgumentError(f"must be a list, got {quoted(value)}", name)
