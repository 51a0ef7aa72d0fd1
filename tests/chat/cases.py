"""Conversations for chat templates, and the other input of each template.

Used by the tests, which compare with goldens.json, and by ``tests/oracle/chat_templates.py``, which makes it with
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in (Path(__file__).parent / "templates").glob("*")}
"""Public chat templates of models, by name, as their repositories have them."""

GOLDENS = Path(__file__).parent / "goldens.json"

NAMED_TOKENS = {
    "gemma3": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "generation": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_1": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "llama3_2": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "mistral": {"bos_token": "<s>", "eos_token": "</s>"},
    "mistral_small": {"bos_token": "<s>", "eos_token": "</s>"},
    "phi3": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    "qwen2_5": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "smollm2": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
}
"""The tokens that each model's tokenizer gives a name."""

CONTROL = {
    "gemma3": ["<start_of_turn>", "<end_of_turn>", "<start_of_image>"],
    "llama3_1": ["<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|python_tag|>"],
    "mistral": [
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
        "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]",
        "[IMG]",
    ],
    "phi3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "qwen3": ["<|im_start|>"],
}
CONTROL |= {
    "generation": CONTROL["llama3_1"],
    "llama3_2": CONTROL["llama3_1"],
    "mistral_small": CONTROL["mistral"],
    "qwen2_5": CONTROL["qwen3"],
    "smollm2": [],
}
"""Control tokens of each model, apart from those with a name."""


def undated(text: str) -> str:
    """A text with the current date, in the forms that templates give it, taken out."""
    for form in ("%Y-%m-%d", "%d %b %Y"):
        text = text.replace(datetime.now().strftime(form), f"{{today {form}}}")
    return text


@dataclass(frozen=True)
class Case:
    """The input of a template: messages and options."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    """A message of the model."""
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    """A system message."""
    return {"role": "system", "content": content}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather at a place, such as "Zürich" <now>.',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City & country"},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
            },
            "required": ["place"],
        },
        "return": {"type": "number"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {}}}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"place": "Köln", "unit": "°C"}},
}
RESULT = {"role": "tool", "name": "get_weather", "content": '{"celsius": 21.5}', "tool_call_id": "call12345"}
TALK = [user("Hi"), assistant("Hello! What can I do?"), user("Count to 3.")]

CASES = {
    "user": Case([user("What is the capital of France?")]),
    "no generation prompt": Case([user("Hi")], add_generation_prompt=False),
    "system": Case([system("You are terse."), user("Hi")]),
    "turns": Case([system("Be kind."), *TALK]),
    "turns without a prompt": Case([*TALK, assistant("1, 2, 3")], add_generation_prompt=False),
    "an answer is the last": Case([*TALK, assistant("1, 2, 3")]),
    "spaces": Case([system("  a\n"), user("\n  two  lines \n\n"), assistant("  ok \n"), user("\t")]),
    "no text": Case([user("")]),
    "characters": Case(
        [user("Grüße, 世界 🎉 <b>&amp;\"quoted\" 'x' {{ 1 }} {% raw %} \\n \u2028 a <"), assistant("é"), user("[")]
    ),
    "parts": Case([user([{"type": "text", "text": " one "}, {"type": "text", "text": "two"}])]),
    "parts of a system": Case([system([{"type": "text", "text": "Be brief."}]), user("Hi")]),
    "tools": Case([user("Weather in Köln?")], tools=[WEATHER, CLOCK]),
    "tools and a system": Case([system("Use tools."), *TALK], tools=[WEATHER]),
    "no tools": Case([user("Hi")], tools=[]),
    "a call": Case([user("Weather?"), assistant("", tool_calls=[CALL])], tools=[WEATHER], add_generation_prompt=False),
    "a call without text": Case([user("Weather?"), assistant(None, tool_calls=[CALL]), RESULT], tools=[WEATHER]),
    "a result": Case(
        [user("Weather?"), assistant("", tool_calls=[CALL]), RESULT, assistant("21.5 °C"), user("Thanks")],
        tools=[WEATHER],
    ),
    "two results": Case([user("?"), assistant("", tool_calls=[CALL, CALL]), RESULT, RESULT], tools=[WEATHER]),
    "builtin tools": Case([user("2 + 2?")], variables={"builtin_tools": ["code_interpreter", "brave_search"]}),
    "tools in the system message": Case(
        [system("Use tools."), user("?")], tools=[WEATHER], variables={"tools_in_user_message": False}
    ),
    "a date": Case([user("When?")], variables={"date_string": "1 Jan 2030"}),
    "thoughts in the text": Case([user("1+1?"), assistant("<think>\nEasy.\n</think>\n\n2"), user("2+2?")]),
    "thoughts in the last answer": Case([user("1+1?"), assistant("<think>\nEasy.\n</think>\n\n2")]),
    "thoughts apart": Case([user("1+1?"), assistant("2", reasoning_content="Easy."), user("2+2?")]),
    "thoughts by another name": Case([user("1+1?"), assistant("2", reasoning="Easy.")], add_generation_prompt=False),
    "no thinking": Case([user("1+1?")], variables={"enable_thinking": False}),
    "documents": Case([user("What?")], documents=[{"title": "T", "text": "D"}]),
    "continued": Case([user("Count."), assistant("1, 2,")], continue_final_message=True),
    "continued after a space": Case([user("Count."), assistant("1, 2, ")], continue_final_message=True),
    "continued parts": Case(
        [user("Count."), assistant([{"type": "text", "text": "1, 2,"}])], continue_final_message=True
    ),
    "two users": Case([user("a"), user("b")]),
    "an answer is the first": Case([assistant("a"), user("b")]),
    "a system alone": Case([system("a")]),
    "an unknown role": Case([{"role": "narrator", "content": "Once."}]),
    "no content": Case([{"role": "user"}]),
}
