"""From the body of a chat request to what is submitted: the prompt, the options, and the format of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..answer import AnswerFormat, answer_format
from .chat_answer import REASONING_FIELDS, ChatChoice
from .requests import ChatRequest, Common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..chat_methods import ChatMethods
    from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class ChatPlan:
    """How a chat request is answered.

    Attributes:
        ids: token ids of the prompt.
        common: of the request, with what the format of its answers needs.
        format: of the answers; None: they are text alone.
    """

    ids: list[int]
    common: Common
    format: AnswerFormat | None

    def choice(
        self, tokenizer: Tokenizer, index: int = 0, reasoning_fields: Sequence[str] = REASONING_FIELDS
    ) -> ChatChoice:
        """The answer to be of one choice.

        Args:
            tokenizer: of the model.
            index: number of the choice.
            reasoning_fields: names of the fields that have the reasoning.
        """
        parser = None if self.format is None else self.format.parser(self.ids, self.common.options)
        return ChatChoice(tokenizer, self.common, index, parser, reasoning_fields)


def chat_plan(lm: ChatMethods, request: ChatRequest, *, tool_format: str | None = None) -> ChatPlan:
    """Make the prompt of a chat request. This renders the template and encodes: it may take a while.

    Args:
        lm: the model.
        request: what has been asked for.
        tool_format: name of the format of calls; None: chosen by the chat template.

    Raises:
        ArgumentError: the chat template does not describe tools to the model, or the format is unknown.
        ChatTemplateError: the model has no chat template, or it refuses the messages.
    """
    form = answer_format(lm, request.chat.tools if request.tools else None, tool_format=tool_format)
    return ChatPlan(lm.chat_ids(request.messages, request.chat), request.common, form)
