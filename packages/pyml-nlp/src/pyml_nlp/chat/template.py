"""A model's chat template: messages to text or token ids, like transformers' ``apply_chat_template``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyml_core.errors import quoted
from pyml_core.locks import cached_property
from pyml_core.pickling import OfOneProcess

from .. import logs
from ..errors import ChatTemplateError
from ..options.chat import ChatOptions, chat_options
from ..stages import TEMPLATE, TOKENISE, stage
from .messages import (
    Message,
    Messages,
    TextLimits,
    checked,
    checked_list,
    checked_messages,
    cut_end,
    fill_contents,
    open_end,
)
from .parts import has_parts, join_parts
from .renderer import Renderer
from .sentinels import TRUSTED, ControlTokens, choose_sentinels, markers_of, remove_sentinel, unescaped

if TYPE_CHECKING:
    from typing import Unpack

    from ..options.keywords import ChatKeywords
    from ..tokenizer import Tokenizer

INSTRUCT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""A small model that was trained for chat, which error messages recommend."""

WITHOUT_PROMPT = ChatOptions(add_generation_prompt=False)
"""The default of :meth:`ChatTemplate.render`, like transformers' ``apply_chat_template``."""

_OWN = ("messages", "tools", "documents", "add_generation_prompt")  # variables with an option of their own
_MAX_CHECKED = 256  # unused variables that are warned of: a server's clients may send any number of names


class Prompt(NamedTuple):
    """A rendered prompt.

    Attributes:
        text: as transformers renders it.
        boundaries: positions in it that no control token may cross, because the text there is a user's.
        source: the template.
    """

    text: str
    boundaries: list[int]
    source: str


class ChatTemplate(OfOneProcess, instead="send the model or its tokenizer"):
    """The chat templates of a model, by name; most models have one, ``default``. Thread-safe.

    Args:
        tokenizer: the model's tokenizer, which has the templates.
        model: the model's name, for messages.
        source: a template in place of the model's own; None: none.

    Raises:
        ChatTemplateError: the model has no template.
    """

    def __init__(self, tokenizer: Tokenizer, model: str, source: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._templates = dict(tokenizer.metadata.chat_templates) if source is None else {"default": source}
        if not self._templates:
            raise no_template(model)
        self._named_tokens = dict(tokenizer.metadata.named_tokens)
        self._renderer = Renderer()
        self._model = model
        self._part_templates: dict[str, bool] = {}  # by source
        self._marked: dict[str, ControlTokens] = {}  # by source
        self._checked: set[tuple[str, str]] = set()  # sources and names of variables, see _warn_of_unused

    def start(self) -> None:
        """Start the process that renders, without waiting for it."""
        self._renderer.start()

    def close(self) -> None:
        """End the process that renders; rendering starts it again."""
        self._renderer.close()

    def source(self, name: str | None = None, tools: Sequence[Message] | None = None) -> str:
        """Return the Jinja source of a template.

        Args:
            name: its name; None: ``tool_use`` if there are tools and such a template, else ``default``, else the only
                one.
            tools: the tools of the request, if any.

        Raises:
            ChatTemplateError: there is no such template.
        """
        names = list(self._templates)
        tools = checked_list(tools, "tools", TextLimits())
        if name is None and tools and "tool_use" in names:
            name = "tool_use"
        elif name is None:
            name = names[0] if len(names) == 1 else "default"
        if not isinstance(name, str) or name not in self._templates:
            raise ChatTemplateError(f"chat template: expected one of {', '.join(names)}, got {quoted(name)}")
        return self._templates[name]

    def reads(self, variable: str, tools: Sequence[Message] | None = None) -> bool:
        """Whether a template reads a variable; the template is that of :meth:`source`.

        Raises:
            ChatTemplateError: there is no such template, or it is malformed.
        """
        return variable in self._renderer.names(self.source(tools=tools))

    def render(self, messages: Messages, options: ChatOptions | None = None, **changes: Unpack[ChatKeywords]) -> str:
        """Return the text of a prompt, by default without a generation prompt.

        Control tokens spelled by a message look like the template's own in this text. :meth:`ids` distinguishes them.

        Raises:
            ChatTemplateError, ArgumentError: see :meth:`prompt`.
        """
        return self.prompt(messages, chat_options(options, changes, WITHOUT_PROMPT)).text

    def ids(self, messages: Messages, options: ChatOptions | None = None, **changes: Unpack[ChatKeywords]) -> list[int]:
        """Return the token ids of a prompt. Messages, tools, documents and variables never give control tokens.

        Markers of calls and reasoning that are added words stay text as well, except in messages of the assistant and
        of the system.

        Raises:
            ChatTemplateError: see :meth:`prompt`.
            TextError: a text cannot be encoded.
        """
        with stage(TEMPLATE):
            prompt = self.prompt(messages, chat_options(options, changes))
        with stage(TOKENISE):
            ids = self._tokenizer.encode(prompt.text, add_special=False, boundaries=prompt.boundaries)
        self._check(prompt, ids)
        return ids

    def prompt(self, messages: Messages, options: ChatOptions) -> Prompt:
        """Render messages.

        Args:
            messages: mappings with ``role``, ``content`` and further keys that the template uses; or a text, which
                stands for one message of the user.
            options: how the prompt is made.

        Raises:
            ChatTemplateError: the template refuses the messages, in its own words; the template is malformed, or takes
                more time or memory than it may; there is no such template; the messages are malformed.
        """
        continued = options.continue_final_message
        prompted = options.add_generation_prompt and not continued
        source = self.source(options.template, options.tools)
        plain = TextLimits()
        given = {
            "messages": checked_messages(messages, plain),
            "tools": checked_list(options.tools, "tools", plain),
            "documents": checked_list(options.documents, "documents", plain),
            "variables": checked(options.variables or {}, "variables", plain),
        }
        for taken in _OWN:
            if taken in given["variables"]:
                raise ChatTemplateError(f"variables: {taken} is an argument of its own")
        self._warn_of_unused(source, options)
        if has_parts(given["messages"]) and not self._takes_parts(source):
            join_parts(given["messages"])
        sentinel, end = choose_sentinels(2, json.dumps(given, ensure_ascii=False), source)
        variables = given.pop("variables")
        given, variables = (self._protected(parts, source, sentinel) for parts in (given, variables))
        tag = end + " "
        final = open_end(given["messages"], tag) if continued else ""
        given |= self._named_tokens | variables
        given["add_generation_prompt"] = prompted
        rendered = unescaped(self._rendered(source, given), sentinel, end)
        if continued:
            rendered = cut_end(rendered, final, tag)
        return Prompt(*remove_sentinel(rendered, sentinel), source)

    def _rendered(self, source: str, variables: dict[str, Any]) -> str:
        try:
            return self._renderer.render(source, variables)
        except ChatTemplateError:
            if not fill_contents(variables["messages"]):
                raise
            return self._renderer.render(source, variables)

    def _takes_parts(self, source: str) -> bool:
        """Whether a template writes the texts of a list of parts, rather than the list."""
        if source not in self._part_templates:
            probe = {"type": "text", "text": "probe of parts"}
            variables = dict.fromkeys(_OWN) | self._named_tokens | {"add_generation_prompt": False}
            variables["messages"] = [{"role": "user", "content": [probe]}]
            try:
                written = self._renderer.render(source, variables)
            except ChatTemplateError:
                written = ""
            whole = "'type'" in written or '"type"' in written
            self._part_templates[source] = probe["text"] in written and not whole
        return self._part_templates[source]

    def _warn_of_unused(self, source: str, options: ChatOptions) -> None:
        """Log a warning, once, for tools, documents and variables that the template does not read."""
        given = {name for name in ("tools", "documents") if getattr(options, name)} | set(options.variables or {})
        new = sorted({(source, name) for name in given} - self._checked)[: _MAX_CHECKED - len(self._checked)]
        if not new:
            return
        self._checked.update(new)
        used = self._renderer.names(source)
        for _, name in new:
            if name not in used:
                logs.generator.warning("%s: the chat template does not use %s, so it has no effect", self._model, name)

    def _protected(self, parts: Mapping[str, Any], source: str, sentinel: str) -> dict[str, Any]:
        """Return the parts with sentinels in the control tokens that they spell; names of variables stay unchanged."""

        def protect(text: str) -> str:
            return self._control.with_sentinels(text, sentinel)

        def protect_more(text: str) -> str:
            return self._with_markers(source).with_sentinels(text, sentinel)

        found = {name: checked(part, name, protect_more) for name, part in parts.items() if name != "messages"}
        if "messages" in parts:
            found["messages"] = [
                checked(one, f"messages[{number}]", protect if one["role"] in TRUSTED else protect_more)
                for number, one in enumerate(parts["messages"])
            ]
        return found

    @cached_property
    def _control(self) -> ControlTokens:
        return ControlTokens(self._tokenizer.control_tokens)

    def _with_markers(self, source: str) -> ControlTokens:
        """The control tokens, and the markers of a template."""
        if source not in self._marked:
            markers = markers_of(source, self._tokenizer.markers)
            both = {**markers, **self._tokenizer.control_tokens}
            self._marked[source] = ControlTokens(both) if markers else self._control
        return self._marked[source]

    def _check(self, prompt: Prompt, ids: Sequence[int]) -> None:
        """Check that the ids have no more control tokens and markers of the template than it wrote."""
        spelled = {**self._tokenizer.markers, **self._tokenizer.control_tokens}
        own = {number for token, number in spelled.items() if token in prompt.source} | set(self._tokenizer.eos_ids)
        found = Counter(number for number in ids if number in own)
        expected = self._with_markers(prompt.source).count(prompt.text, prompt.boundaries)
        for number, count in found.items():
            if count > expected[number]:
                token = self._tokenizer.decode([number], skip_special=False)
                raise ChatTemplateError(f"messages: a text would become the control token {token}, which it may not be")


def no_template(model: str) -> ChatTemplateError:
    """The error for a model without a chat template."""
    return ChatTemplateError(
        f"{model}: the model has no chat template, so it was not made to chat: use an instruct model, such as "
        f"{INSTRUCT_MODEL}"
    )
