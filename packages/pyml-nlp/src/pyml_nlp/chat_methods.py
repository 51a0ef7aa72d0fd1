"""Messages in, answers out: the methods of a language model that use its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyml_core.locks import importing

from .engine import Engine
from .generation.preparing import within_timeout
from .generation_methods import GenerationMethods
from .options.checks import instance
from .values import text

if TYPE_CHECKING:
    from typing import Unpack

    from pyml_nn import KVCache

    from .chat import ChatTemplate, Conversation, Messages
    from .engine import HasEngine
    from .generation.iterator import Generation
    from .options.chat import ChatOptions
    from .options.generation import GenerationOptions
    from .options.keywords import ChatGenerationKeywords, ChatKeywords


class ChatMethods(GenerationMethods):
    """The methods of :class:`.LanguageModel` that use its chat template.

    Args:
        engine, generation_options: see :class:`GenerationMethods`.
    """

    def __init__(self, engine: Engine, generation_options: GenerationOptions) -> None:
        super().__init__(engine, generation_options)
        self._chat_template: ChatTemplate | None = None

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's chat template; ChatTemplateError if it has none."""
        if self._chat_template is None:
            with importing:  # few programs chat
                from .chat import ChatTemplate

            self._chat_template = ChatTemplate(self.engine.tokenizer, self.engine.name)
        return self._chat_template

    def set_chat_template(self, source: str) -> None:
        """Use this chat template, a Jinja source, in place of the model's own.

        Raises:
            ArgumentError: ``source`` is not a text.
        """
        with importing:  # few programs chat
            from .chat import ChatTemplate

        made = ChatTemplate(self.engine.tokenizer, self.engine.name, text("source", source))
        self.close_chat()
        self._chat_template = made

    def chat(
        self,
        messages: Messages,
        options: GenerationOptions | int | None = None,
        *,
        chat_options: ChatOptions | None = None,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[ChatGenerationKeywords],
    ) -> Generation:
        """Answer messages: the model's own chat template makes a prompt of them, which is continued.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which stands for one message of the user.
            options, cache, timeout, speculate, draft_model: as for :meth:`generate`.
            chat_options: how the prompt is made; None: :class:`ChatOptions` without arguments.
            changes: options that differ, as keywords: as for :meth:`generate`, and fields of :class:`ChatOptions`
                (``tools``, ``documents``, ``template``, ``variables``, ``continue_final_message``).

        Returns:
            The answer, an iterator as of :meth:`generate`. It ends with the model's turn.

        Raises:
            ChatTemplateError: the model has no template, or as of :meth:`chat_ids`.
            PymlError: as of :meth:`generate`.
        """
        from .options.chat import ChatOptions, split_chat  # loaded with the first chat

        if chat_options is not None:
            instance("chat_options", chat_options, ChatOptions)
        template, generation = split_chat(changes)
        ids, timeout = within_timeout(timeout, lambda: self.chat_ids(messages, chat_options, **template))
        return self.generate(
            ids, options, cache=cache, timeout=timeout, speculate=speculate, draft_model=draft_model, **generation
        )

    def chat_text(
        self,
        messages: Messages,
        options: GenerationOptions | int | None = None,
        *,
        chat_options: ChatOptions | None = None,
        cache: KVCache | None = None,
        timeout: float | None = None,
        speculate: bool = True,
        draft_model: HasEngine | None = None,
        **changes: Unpack[ChatGenerationKeywords],
    ) -> str:
        """The text of an answer. Arguments and errors are those of :meth:`chat`."""
        return self.chat(
            messages, options, chat_options=chat_options, cache=cache, timeout=timeout, speculate=speculate,
            draft_model=draft_model, **changes,
        ).read()  # fmt: skip

    def conversation(
        self, system: str | None = None, options: ChatOptions | None = None, **changes: Unpack[ChatKeywords]
    ) -> Conversation:
        """A chat of several turns, each of which computes only what is new; see :class:`Conversation`.

        Args:
            system: a system message to begin with.
            options: how prompts are made; None: :class:`ChatOptions` without arguments.
            changes: fields of :class:`ChatOptions` that differ, as keywords.

        Raises:
            ChatTemplateError: the model has no template.
            ArgumentError: an unknown option, or a value of the wrong type.
        """
        with importing:  # few programs chat
            from .chat import Conversation

        self.chat_template.start()
        return Conversation(self, system, options, **changes)

    def apply_chat_template(
        self, messages: Messages, options: ChatOptions | None = None, **changes: Unpack[ChatKeywords]
    ) -> str:
        """The prompt that the model's chat template makes of messages, as text, as transformers' method returns it.

        Without options it does not end with the beginning of an answer: ``add_generation_prompt`` is False then.
        Arguments and errors are those of :meth:`chat_ids`.
        """
        return self.chat_template.render(messages, options, **changes)

    def chat_ids(
        self, messages: Messages, options: ChatOptions | None = None, **changes: Unpack[ChatKeywords]
    ) -> list[int]:
        """The token ids of the prompt that the chat template makes; the text of a message is never a control token.

        Args:
            messages: mappings with ``role`` and ``content``, or a text, which stands for one message of the user.
            options: how the prompt is made; None: :class:`ChatOptions` without arguments.
            changes: fields of :class:`ChatOptions` that differ, as keywords.

        Raises:
            ChatTemplateError: the template refuses the messages, in its own words; the template is malformed, or takes
                more time or memory than it may; the messages are malformed.
            ArgumentError: an unknown option, or a value of the wrong type.
        """
        return self.chat_template.ids(messages, options, **changes)

    def close_chat(self) -> None:
        """End the process that renders templates, if there is one."""
        if self._chat_template is not None:
            self._chat_template.close()
