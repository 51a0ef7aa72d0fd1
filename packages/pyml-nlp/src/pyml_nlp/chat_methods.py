"""Messages in, answers out: what a language model does with its chat template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyml_core.locks import importing

from .engine import Engine
from .generation.preparing import within_timeout
from .model_methods import ModelMethods

if TYPE_CHECKING:
    from .chat import ChatTemplate, Conversation, Message, Messages
    from .generation.iterator import Generation


class ChatMethods(ModelMethods, ABC):
    """The methods of :class:`.LanguageModel` that use its chat template.

    Args:
        engine: what generates.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._chat_template: ChatTemplate | None = None

    @abstractmethod
    def generate(self, prompt: str | Sequence[int], *arguments: Any, **options: Any) -> Generation:
        """Continue a text; see :meth:`.LanguageModel.generate`."""

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template; ChatTemplateError if it has none."""
        if self._chat_template is None:
            with importing:
                from .chat import ChatTemplate

            self._chat_template = ChatTemplate(self.engine.tokenizer, self.engine.name)
        return self._chat_template

    def chat(
        self,
        messages: Messages,
        max_tokens: int = 256,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Generation:
        """Answer messages, which the model's own template makes a prompt of.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which is what a user says.
            max_tokens: most tokens of the answer.
            tools, documents, template, continue_final_message, variables: see :meth:`chat_ids`.
            options: as of :meth:`generate`.

        Returns:
            The answer, to be read step by step, as of :meth:`generate`. It ends with the model's turn.

        Raises:
            ChatTemplateError: the model has no template, or as of :meth:`chat_ids`.
            PymlError: as of :meth:`generate`.
        """
        ids = within_timeout(
            options,
            lambda: self.chat_ids(
                messages,
                tools=tools,
                documents=documents,
                template=template,
                continue_final_message=continue_final_message,
                variables=variables,
            ),
        )
        return self.generate(ids, max_tokens, **options)

    def conversation(
        self,
        system: str | None = None,
        *,
        tools: Sequence[Message] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """A chat of several turns, each of which runs only what is new; see :class:`pyml_nlp.chat.Conversation`."""
        with importing:
            from .chat import Conversation

        self.chat_template.start()
        return Conversation(self, system, tools, variables)

    def apply_chat_template(
        self,
        messages: Messages,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that the model's chat template makes of messages, as text: what transformers' method gives.

        Arguments and errors as of :meth:`chat_ids`.
        """
        return self.chat_template.render(
            messages,
            tools=tools,
            documents=documents,
            name=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def chat_ids(
        self,
        messages: Messages,
        *,
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of that prompt, in which the text of a message is never a control token.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which is what a user says.
            tools: JSON schemas of functions that the model may call.
            documents: mappings with ``title`` and ``text``, for templates that know them.
            template: the name of one of several templates; None: ``tool_use`` if there are tools and such a
                template, else ``default``.
            add_generation_prompt: end with the beginning of an answer.
            continue_final_message: end within the last message, for the model to continue it; there is no generation
                prompt then.
            variables: what else the template is to know, such as ``{"enable_thinking": False}``.

        Raises:
            ChatTemplateError: the template refuses the messages, with its own words; it is malformed or takes more
                time or memory than a template may; messages are no messages.
        """
        return self.chat_template.ids(
            messages,
            tools=tools,
            documents=documents,
            name=template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )

    def close_chat(self) -> None:
        """End the process that renders templates, if there is one."""
        if self._chat_template is not None:
            self._chat_template.close()
