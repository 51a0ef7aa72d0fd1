"""Bodies of requests, as prompts and options.

Source: OpenAI's OpenAPI description (openai/openai-openapi), and the extensions of vLLM and llama.cpp. A field that
would change the text and cannot be honoured is an error; a hint without an effect here is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..generation.admission import check_length
from ..options.chat import ChatOptions
from ..options.sampling import GREEDY_BELOW
from ..structured.grammar import Grammar, one_grammar
from ..values import choice, is_list, seconds, stop_ids, text, texts, token_ids, whole
from .fields import Fields
from .tool_use import ToolUse, tool_use

if TYPE_CHECKING:
    from ..options.generation import GenerationOptions

MAX_CHOICES = 8
MAX_PROMPTS = 64
MAX_STOPS = 64
MAX_STOP = 256
MAX_TOP = 20
MAX_VARIABLES = 64

HINTS = frozenset({
    "user", "safety_identifier", "metadata", "store", "service_tier", "verbosity", "prediction", "prompt_cache_key",
    "prompt_cache_retention", "priority",
})  # fmt: skip
"""Fields that change no text here."""

_REFUSED = {
    "functions": "is not supported: use tools",
    "function_call": "is not supported: use tools",
    "audio": "is not supported: answers are texts",
    "web_search_options": "is not supported",
    "chat_template": "is not supported: the model's own template is used",
    "suffix": "is not supported",
}
_SAMPLING = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "top_k", "min_p", "typical_p",
    "repetition_penalty", "repeat_penalty", "seed", "logit_bias",
)  # fmt: skip
_COMMON = (
    *_SAMPLING, "model", "max_tokens", "stop", "stop_token_ids", "include_stop_str_in_output", "n", "stream",
    "stream_options", "timeout", "cache_salt", "response_format", "structured_outputs", "logprobs", "return_token_ids",
    "ignore_eos", "timings_per_token", "return_progress",
)  # fmt: skip
CHAT_FIELDS = frozenset({
    *_COMMON, "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "reasoning_effort", "continue_final_message", "add_generation_prompt", "chat_template_kwargs", "documents",
})  # fmt: skip
COMPLETION_FIELDS = frozenset({*_COMMON, "prompt", "echo", "best_of"})


@dataclass(frozen=True)
class Common:
    """What requests of both kinds have.

    Attributes:
        options: how a text is generated; of choice i the ``sample_index`` is i.
        n: number of choices of each prompt.
        stream: whether the answer comes in chunks.
        include_usage: whether the last chunk has the counts of tokens.
        timeout: seconds until the text must have ended; None: no limit.
        return_token_ids: whether choices have the ids of their tokens.
        ignore_eos: whether a text goes on to its limit, see :func:`.without_ends`.
        continuous_usage: whether every chunk has the counts of tokens so far.
        timings_per_token: whether every chunk has the times so far.
        progress: whether chunks tell how much of the prompt has been computed.
        cache_salt: prefixes of texts with other salts are not reused.
    """

    options: GenerationOptions
    n: int
    stream: bool
    include_usage: bool
    timeout: float | None
    return_token_ids: bool
    ignore_eos: bool = False
    continuous_usage: bool = False
    timings_per_token: bool = False
    progress: bool = False
    cache_salt: str = ""


@dataclass(frozen=True)
class ChatRequest:
    """A request for answers to messages.

    Attributes:
        common: of both kinds.
        messages: as given; the chat template checks them.
        chat: how they become a prompt.
        tools: which tools the model may call; None: it may call none.
    """

    common: Common
    messages: Any
    chat: ChatOptions
    tools: ToolUse | None


@dataclass(frozen=True)
class CompletionRequest:
    """A request for continuations of prompts.

    Attributes:
        common: of both kinds.
        prompts: texts or lists of token ids.
        echo: whether the text of a choice begins with its prompt.
    """

    common: Common
    prompts: list[Any] = field(default_factory=list)
    echo: bool = False


def chat_request(
    body: Any, defaults: GenerationOptions, max_output: int, ignored: list[str] | None = None
) -> ChatRequest:
    """Read the body of a chat request.

    Args:
        body: the JSON object.
        defaults: the model's own options, for fields that are not given.
        max_output: most tokens of an answer that sets no limit.
        ignored: gets the names of unknown fields; None: an unknown field is an error.

    Raises:
        ArgumentError: a field is missing, unknown, out of range, or cannot be honoured; its name is the field's.
        GrammarError: a schema that cannot be used.
    """
    fields = Fields(body)
    fields.refuse(_REFUSED)
    messages = fields.required("messages")
    limit = fields.whole("max_completion_tokens", 1)
    older = fields.whole("max_tokens", 1)
    wanted = fields.flag("logprobs")
    top = fields.whole("top_logprobs", 0, MAX_TOP)
    if top is not None and not wanted:
        raise ArgumentError("needs logprobs to be true", "top_logprobs")
    if fields.any("modalities") not in (None, ["text"]):
        raise ArgumentError("must be ['text']", "modalities")
    tools = tool_use(fields)
    variables: dict[str, Any] = dict(fields.take("chat_template_kwargs", _variables, dict[str, Any]()))
    effort = fields.text("reasoning_effort")
    if effort is not None:
        variables |= {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}
    chat = ChatOptions(
        tools=None if tools is None else tools.tools,
        documents=fields.any("documents"),
        add_generation_prompt=fields.flag("add_generation_prompt", True),
        continue_final_message=fields.flag("continue_final_message"),
        variables=variables or None,
    )
    common = _common(fields, defaults, limit or older or max_output, (top or 0) if wanted else None)
    fields.finish(CHAT_FIELDS, HINTS, ignored)
    return ChatRequest(common, messages, chat, tools)


def completion_request(
    body: Any, defaults: GenerationOptions, ignored: list[str] | None = None, longest: int | None = None
) -> CompletionRequest:
    """Read the body of a completion request; see :func:`chat_request`.

    Args:
        body, defaults, ignored: as there.
        longest: most ids of a prompt, which are counted before each of them is checked; None: no limit.

    Raises:
        ContextOverflowError: a prompt has more ids.
        ArgumentError, GrammarError: as there.
    """
    fields = Fields(body)
    fields.refuse(_REFUSED)
    prompts = _prompts(fields.required("prompt"), longest)
    echo = fields.flag("echo")
    limit = fields.whole("max_tokens", 0 if echo else 1, default=16)
    top = fields.whole("logprobs", 0, MAX_TOP)
    best_of = fields.whole("best_of", 1)
    common = _common(fields, defaults, 16 if limit is None else limit, top)
    if best_of not in (None, common.n):
        raise ArgumentError(f"is not supported, except as n ({common.n}), got {best_of}", "best_of")
    fields.finish(COMPLETION_FIELDS, HINTS, ignored)
    return CompletionRequest(common, prompts, echo)


def _common(fields: Fields, defaults: GenerationOptions, max_tokens: int, logprobs: int | None) -> Common:
    fields.text("model")  # there is one
    n = fields.whole("n", 1, MAX_CHOICES, 1) or 1
    stream = fields.flag("stream")
    include_usage = continuous_usage = False
    if "stream_options" in fields:
        if not stream:
            raise ArgumentError("needs stream to be true", "stream_options")
        inner = Fields(fields.any("stream_options"), "stream_options")
        include_usage, continuous_usage = inner.flag("include_usage"), inner.flag("continuous_usage_stats")
        inner.finish(("include_usage", "continuous_usage_stats"), ("include_obfuscation",))
    changes: dict[str, Any] = _sampling(fields)
    grammar = _grammar(fields)
    changes |= {
        "max_tokens": max_tokens,
        "logprobs": logprobs,
        "stop": fields.take("stop", _stops, ()),
        "stop_ids": fields.take("stop_token_ids", stop_ids, tuple[int, ...]()),
        "include_stop": fields.flag("include_stop_str_in_output"),
        "grammar": grammar,
    }
    options = defaults.replace(**changes)
    timeout = fields.take("timeout", seconds, None)
    ignore_eos = fields.flag("ignore_eos")
    if ignore_eos and grammar is not None:
        raise ArgumentError("cannot be used with a grammar, which ends the text", "ignore_eos")
    return Common(
        options,
        n,
        stream,
        include_usage,
        timeout,
        fields.flag("return_token_ids"),
        ignore_eos,
        continuous_usage,
        fields.flag("timings_per_token"),
        fields.flag("return_progress"),
        fields.text("cache_salt") or "",
    )


def without_ends(common: Common, eos_ids: Collection[int]) -> Common:
    """The same, without tokens that end texts if they are to be ignored: they are excluded, as llama.cpp does it."""
    if not common.ignore_eos:
        return common
    biases = {**(common.options.sampling.logit_bias or {}), **dict.fromkeys(eos_ids, float("-inf"))}
    return replace(common, options=common.options.replace(logit_bias=biases))


def _sampling(fields: Fields) -> dict[str, Any]:
    repeat = fields.any("repeat_penalty")
    found: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "logit_bias": fields.take("logit_bias", _biases, None),
        "seed": fields.take("seed", _seed, None),
        **{name: fields.any(name) for name in ("top_k", "min_p", "typical_p", "repetition_penalty")},
    }
    if found["repetition_penalty"] is None:
        found["repetition_penalty"] = repeat
    if found["top_p"] is not None and found["top_p"] < GREEDY_BELOW:  # the most probable token alone
        found["top_p"], found["temperature"] = None, 0.0
    return found


def _seed(name: str, value: Any) -> int | None:
    found = whole(name, value, -(1 << 63), (1 << 64) - 1)
    return found % (1 << 64)


def _biases(name: str, value: Any) -> Any:
    """Token ids with numbers in -100 .. 100; -100 excludes a token."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"must be an object of token ids with numbers, got {quoted(value)}", name)
    inner = Fields(value, name)
    found = {key: inner.number(key, -100, 100) for key in value}
    return {key: float("-inf") if bias == -100 else bias for key, bias in found.items()} or None


def _stops(name: str, value: Any) -> Any:
    found = texts(name, value)
    if len(found) > MAX_STOPS:
        raise ArgumentError(f"must be at most {MAX_STOPS} texts, got {len(found)}", name)
    longest = max(map(len, found), default=0)
    if longest > MAX_STOP:
        raise ArgumentError(f"must be of at most {MAX_STOP} characters, got one of {longest}", name)
    return found


def _variables(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"must be an object, got {quoted(value)}", name)
    if len(value) > MAX_VARIABLES:
        raise ArgumentError(f"must have at most {MAX_VARIABLES} names, got {len(value)}", name)
    return dict(value)


def _grammar(fields: Fields) -> Grammar | None:
    """The grammar of ``response_format`` or ``structured_outputs``."""
    given = [name for name in ("response_format", "structured_outputs") if name in fields]
    if len(given) > 1:
        raise ArgumentError("cannot be used together with response_format", "structured_outputs")
    if "structured_outputs" in fields:
        inner = Fields(fields.any("structured_outputs"), "structured_outputs")
        choices = inner.take("choice", _choices, None)
        grammar = one_grammar(inner.any("json"), inner.any("regex"), inner.any("grammar"))
        if choices is not None and grammar is not None:
            raise ArgumentError("must be one of json, regex, choice and grammar", "structured_outputs")
        if choices is not None:
            grammar = Grammar("regex", "|".join(re.escape(item) for item in choices))
        inner.finish(("json", "regex", "choice", "grammar"))
        return grammar
    if "response_format" not in fields:
        return None
    inner = Fields(fields.any("response_format"), "response_format")
    kind = choice(inner.path("type"), inner.required("type"), ("text", "json_object", "json_schema"))
    schema: Any = None
    if kind == "json_object":
        schema = inner.any("schema") or {"type": "object"}
    elif kind == "json_schema":
        outer = Fields(inner.required("json_schema"), "response_format.json_schema")
        schema = outer.required("schema")
        outer.finish(("schema", "name", "description", "strict"), ("name", "description", "strict"))
    inner.finish(("type", "schema", "json_schema"))
    return one_grammar(schema=schema)


def _choices(name: str, value: Any) -> list[str]:
    if not is_list(value) or not value:
        raise ArgumentError(f"must be a list of texts, got {quoted(value)}", name)
    return [text(name, item) for item in value]


def _prompts(value: Any, longest: int | None) -> list[Any]:
    """Texts or lists of ids: one, or several."""

    def ids(items: list[Any]) -> list[int]:
        if longest is not None:
            check_length(longest, len(items))
        return list(token_ids("prompt", items))

    if isinstance(value, str):
        return [value]
    if not is_list(value):
        raise ArgumentError(f"must be a text, token ids, or a list of these, got {quoted(value)}", "prompt")
    items = list(value)
    if items and all(isinstance(item, str) for item in items):
        prompts: list[Any] = items
    elif items and all(is_list(item) for item in items):
        prompts = [ids(list(item)) for item in items]
    else:
        prompts = [ids(items)]
    if not all(prompts) and not all(isinstance(one, str) for one in prompts):
        raise ArgumentError("must be at least one token, got none", "prompt")
    if len(prompts) > MAX_PROMPTS:
        raise ArgumentError(f"must be at most {MAX_PROMPTS} prompts, got {len(prompts)}", "prompt")
    return prompts
