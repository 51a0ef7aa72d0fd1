"""From the body of a chat request to what is submitted: the prompt, the options, and the format of the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import logs
from ..answer import AnswerFormat, answer_format
from ..answer.adapting import with_short_ids, with_system
from ..answer.describing import described, has_calls, without_calls
from ..answer.formats import GENERIC
from ..answer.grammars import call_grammar, late_grammar, reasoned_grammar
from ..answer.marks import token_of
from ..errors import ArgumentError, ChatTemplateError
from ..structured.grammar import Grammar, GrammarError
from .chat_answer import REASONING_FIELDS, ChatChoice
from .requests import ChatRequest, Common, without_ends
from .tool_use import ToolUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..chat_methods import ChatMethods
    from ..tokenizer import Tokenizer

_TEXT = Grammar("schema", '{"type": "string"}')


@dataclass(frozen=True)
class ChatPlan:
    """How a chat request is answered.

    Attributes:
        ids: token ids of the prompt.
        common: of the request, with what the format of its answers needs.
        format: of the answers; None: they are text alone.
        opened: whether the answer begins within reasoning.
    """

    ids: list[int]
    common: Common
    format: AnswerFormat | None
    opened: bool = False

    def choice(
        self, tokenizer: Tokenizer, index: int = 0, reasoning_fields: Sequence[str] = REASONING_FIELDS
    ) -> ChatChoice:
        """The answer to be of one choice.

        Args:
            tokenizer: of the model.
            index: number of the choice.
            reasoning_fields: names of the fields that have the reasoning.
        """
        parser = None if self.format is None else self.format.parser(self.ids, self.common.options, self.opened)
        return ChatChoice(tokenizer, self.common, index, parser, reasoning_fields)


def chat_plan(lm: ChatMethods, request: ChatRequest, *, tool_format: str | None = None) -> ChatPlan:
    """Make the prompt of a chat request. This renders the template and encodes: it may take a while.

    Args:
        lm: the model.
        request: what has been asked for.
        tool_format: name of the format of calls; None: chosen by the chat template.

    Raises:
        ArgumentError: an unknown format, or a schema of a tool that cannot be enforced.
        GrammarError: a response format that cannot be combined with calls.
        ChatTemplateError: the model has no chat template, or it refuses the messages.
    """
    use = request.tools
    common = without_ends(request.common, lm.engine.eos_ids)
    request = replace(request, messages=_adapted(lm, request), common=common)
    if use is None:
        return _plan_without_tools(lm, request)
    form = answer_format(lm, use.tools, names=use.names, parallel=use.parallel, tool_format=tool_format)
    assert form is not None  # there are tools
    assert form.tool_format is not None
    ids = _prompt(lm, request, use, form)
    opened = _opened(request, form, ids)
    changes: dict[str, Any] = {"grammar": _grammar(lm, form, opened, use, request.common.options.grammar)}
    stops = (token_of(lm.tokenizer, stop) for stop in form.tool_format.stops)
    changes["stop_ids"] = {*request.common.options.stop_ids, *(stop for stop in stops if stop is not None)}
    options = replace(request.common.options, **changes)
    return ChatPlan(ids, replace(request.common, options=options), form, opened)


def _plan_without_tools(lm: ChatMethods, request: ChatRequest) -> ChatPlan:
    messages = request.messages
    if has_calls(messages) and not lm.chat_template.reads("tools"):
        messages = without_calls(messages)
    ids, common, form = lm.chat_ids(messages, request.chat), request.common, answer_format(lm)
    content = common.options.grammar
    opened = form is not None and _opened(request, form, ids)
    if content is not None and form is not None and content.kind == "schema":
        content = reasoned_grammar(form, content, opened=opened)
        common = replace(common, options=replace(common.options, grammar=content))
    elif content is not None:
        form = None  # the whole text matches it
    if content is not None:
        lm.engine.vocabulary.matcher(content)
    return ChatPlan(ids, common, form, opened)


def _opened(request: ChatRequest, form: AnswerFormat, ids: list[int]) -> bool:
    """Whether the answer begins within reasoning: of the chat template, or of the message that it continues."""
    messages = request.messages
    if not request.chat.continue_final_message or form.reasoning is None or isinstance(messages, str):
        return form.reasons(ids)
    content = messages[-1].get("content")
    begin, end = form.reasoning
    return isinstance(content, str) and content.rfind(begin) > content.rfind(end)


def _adapted(lm: ChatMethods, request: ChatRequest) -> Any:
    """The messages with roles and ids of calls that the chat template takes."""
    source = lm.chat_template.source(tools=request.chat.tools)
    messages = request.messages if "developer" in source else with_system(request.messages)
    return with_short_ids(messages) if "[TOOL_CALLS]" in source else messages


def _prompt(lm: ChatMethods, request: ChatRequest, use: ToolUse, form: AnswerFormat) -> list[int]:
    """The prompt, with the tools in a message where the chat template has no place for them."""
    assert form.tool_format is not None  # there are tools
    template = lm.chat_template
    if form.tool_format is not GENERIC and template.reads("tools", use.tools):
        return lm.chat_ids(request.messages, request.chat)
    chat = replace(request.chat, tools=None)
    with_system, without = (
        described(request.messages, use.tools, form.tool_format, required=use.required, system=system)
        for system in (True, False)
    )
    if "system" in template.source():
        try:
            return lm.chat_ids(with_system, chat)
        except ChatTemplateError:
            if with_system == without:
                raise
    return lm.chat_ids(without, chat)  # a template may know the role in order to refuse it, as Gemma 2's


def _grammar(
    lm: ChatMethods, form: AnswerFormat, opened: bool, use: ToolUse, content: Grammar | None
) -> Grammar | None:
    """The grammar of the answer: of calls if they are required or begin, or of the response format.

    It is compiled here, because that may take seconds.
    """
    grammar: Grammar | None
    if use.required:
        grammar = call_grammar(form, use.names, opened=opened, parallel=use.parallel)
    elif form.tool_format is GENERIC:
        grammar = call_grammar(form, use.names, opened=opened, parallel=use.parallel, content=content or _TEXT)
    elif content is None:
        return _late_grammar(lm, form, use)
    elif content.kind != "schema":
        return content
    else:
        grammar = call_grammar(form, use.names, opened=opened, parallel=use.parallel, content=content)
    lm.engine.vocabulary.matcher(grammar)
    return grammar


def _late_grammar(lm: ChatMethods, form: AnswerFormat, use: ToolUse) -> Grammar | None:
    """The grammar of calls from their marker on. Without strict tools it is left out if it cannot be enforced.

    Raises:
        ArgumentError, GrammarError: a schema of strict tools that cannot be enforced.
    """
    try:
        grammar = late_grammar(form, use.names, parallel=use.parallel)
        if grammar is not None:
            lm.engine.vocabulary.matcher(grammar)
    except (ArgumentError, GrammarError) as error:
        if use.strict:
            raise
        logs.generator.info("calls of tools are not held to their schemas: %s", error)
        return None
    return grammar
