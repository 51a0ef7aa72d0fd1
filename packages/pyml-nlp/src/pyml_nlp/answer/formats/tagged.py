"""``<tool_call>`` tags, repeated: JSON in them (Hermes, Qwen 2.5 and 3), or XML (Qwen 3 Coder).

Sources: the chat templates of NousResearch/Hermes-3-Llama-3.1-8B, Qwen/Qwen3-0.6B and
Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

from ..json_calls import json_call
from ..source import Reading
from .base import Calls, ToolFormat

BEGIN, END = "<tool_call>", "</tool_call>"


def read_tagged(calls: Calls) -> Reading[None]:
    """Read calls with tags around them; the last end may be missing."""
    source, marks = calls.source, calls.marks
    yield from source.expect(marks[BEGIN])
    while True:
        yield from source.skip_space()
        yield from json_call(source, calls.out, calls.tools, ("arguments", "parameters"))
        yield from source.skip_space()
        if (yield from source.skip(marks[END])):
            source.hold()
        yield from source.skip_space()
        if not (yield from source.skip(marks[BEGIN])):
            return


HERMES = ToolFormat("hermes", read_tagged, markers=(BEGIN, END), begins=(BEGIN,))
