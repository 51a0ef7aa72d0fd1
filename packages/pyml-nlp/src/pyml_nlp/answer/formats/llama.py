"""A bare JSON object: Llama 3.1 to 3.3.

Source: the chat templates of meta-llama/Llama-3.1-8B-Instruct and meta-llama/Llama-3.2-1B-Instruct. The models separate
several calls by semicolons, and may write ``<|python_tag|>`` before them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..json_calls import json_call
from ..rules import Rules
from ..source import Reading
from .base import Calls, ToolFormat, json_calls_rule

TAG = "<|python_tag|>"


def read_llama(calls: Calls) -> Reading[None]:
    """Read objects with ``name`` and ``parameters``."""
    source, tag = calls.source, calls.marks[TAG]
    while True:
        yield from source.skip_space()
        if (yield from source.skip(tag)):
            yield from source.skip_space()
        yield from json_call(source, calls.out, calls.tools, ("parameters", "arguments"), bare=True)
        yield from source.skip_space()
        if not (yield from source.skip(";")):
            return


def llama_rules(rules: Rules, tools: Mapping[str, Any], parallel: bool) -> str:
    """Bare objects."""
    return json_calls_rule(rules, tools, parallel, key="parameters", separator="; ")


LLAMA = ToolFormat(
    "llama", read_llama, llama_rules, markers=(TAG,), begins=(TAG,), opening="{", bare=True, stops=("<|eom_id|>",)
)
