"""``functools[...]``, or a list after ``<|tool_call|>``; ``<|/tool_call|>`` ends it in Phi 4 mini, not in Granite 3.

Sources: the chat template of microsoft/Phi-4-mini-instruct, which has the tools in its system message, and the one that
vLLM has for it (vllm-project/vllm: examples/tool_chat_template_phi4_mini.jinja); the chat template of
ibm-granite/granite-3.3-2b-instruct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..json_calls import json_call, json_list
from ..rules import Rules
from ..source import Reading
from .base import Calls, ToolFormat, json_calls_rule

WORD, BEGIN, END = "functools", "<|tool_call|>", "<|/tool_call|>"
_KEYS = ("arguments", "parameters")


def read_phi(calls: Calls) -> Reading[None]:
    """Read a list of calls, or one call after the marker."""
    source, out, marks = calls.source, calls.out, calls.marks
    while True:
        if not (yield from source.skip(WORD)):
            yield from source.expect(marks[BEGIN])
        if (yield from source.skip_space()) == "{":
            yield from json_call(source, out, calls.tools, _KEYS)
        else:
            yield from json_list(source, out, calls.tools, _KEYS)
        yield from source.skip_space()
        if (yield from source.skip(marks[END])):
            source.hold()
        if (yield from source.skip_space()) not in (WORD[0], marks[BEGIN][0]):
            return


def phi_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """A list between the markers if they are tokens, after the first one if that alone is, otherwise after the word."""
    begin, end = rules.mark(BEGIN), rules.mark(END)
    if not begin.startswith("<["):
        begin, end = rules.text(WORD), ""
    elif not end.startswith("<["):
        end = ""
    return f"{begin} {rules.text('[')} {json_calls_rule(rules, tools, parallel)} {rules.text(']')} {end}"


PHI_4 = ToolFormat("phi4_mini", read_phi, phi_rules, markers=(BEGIN, END), begins=(WORD + "[", BEGIN))
