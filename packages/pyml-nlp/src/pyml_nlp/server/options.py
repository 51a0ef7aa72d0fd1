"""How a model is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyml_core.errors import quoted

from ..engine import HasEngine
from ..errors import ArgumentError
from ..generation.scheduler import MAX_BATCH_SIZE
from ..values import choice, flag, number, seconds, text, whole

TOOL_FORMATS = (
    "hermes", "qwen3_coder", "mistral", "llama", "pythonic", "functiongemma", "gemma4", "phi4_mini", "generic",
)  # fmt: skip
"""Names of formats of calls; the formats themselves are loaded with the first answer."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "both")

LOG_FORMATS = ("text", "json", "off")
METRIC_NAMES = ("pyml", "vllm")


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        alias: the model's name in answers and lists; None: its own.
        any_model: whether requests that name another model are answered by this one.
        host: address to listen on.
        port: to listen on; 0: any free one.
        unix: path of a Unix socket to listen on, in place of host and port; None: none.
        api_keys: name of each client -> its key; without any key, none is needed.
        api_key_file: a file of further keys, see :func:`.read_keys`; None: no file.
        insecure: listen on an address that other machines reach, without any key.
        allowed_hosts: names of the server in addition to those of its address, as behind a proxy; ``*``: all.
        max_batch_size: most texts that are generated at a time.
        max_queue: most texts that wait for a place; further requests are refused with status 503.
        max_queue_tokens: most tokens of the prompts of texts that wait; None: no limit.
        queue_timeout: seconds that a text may wait for a place; None: no limit.
        max_gap: seconds by which a new prompt may hold up running texts, about.
        kv_bytes: most bytes of keys and values of running texts; None: what memory is free.
        max_output: most tokens of an answer whose request sets no limit.
        timeout: seconds that a request may take, from its arrival; None: as many as it sets itself.
        drain: seconds that running texts have to end when the server is to end.
        cors_origins: origins whose pages may use the server, beside its own page.
        max_body_bytes: most bytes of a request's body.
        tool_format: how the model writes calls of tools, a name of :data:`.answer.formats.FORMATS`; None: chosen by its
            chat template.
        reasoning_field: the field of chat answers that has the reasoning: ``reasoning_content``, ``reasoning`` or
            ``both``.
        chat_template: Jinja source of a chat template in place of the model's own; None: none.
        draft_model: a smaller, loaded model that drafts tokens; None: none does.
        models: folder of models that a request for a reload may name; None: it may name none.
        log: form of the line that the logger ``pyml.serve`` gets for each request: ``"text"``, ``"json"`` or ``"off"``.
        log_texts: whether these lines have prompts and texts.
        metrics_names: names of the metrics: ``"pyml"``, or ``"vllm"`` for vLLM's as well.
        request_traces: number of requests whose timelines are kept.
        live_trace: whether clients may watch the calls of the model; with the page they may in any case.
        otel: whether requests are sent as spans of OpenTelemetry, where its environment variables say.
        ui: whether ``/`` is a page to chat with the model.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    alias: str | None = None
    any_model: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    unix: Path | None = None
    api_keys: Mapping[str, str] = field(default_factory=dict)
    api_key_file: Path | None = None
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    max_batch_size: int = MAX_BATCH_SIZE
    max_queue: int = 128
    max_queue_tokens: int | None = None
    queue_timeout: float | None = None
    max_gap: float = 0.05
    kv_bytes: int | None = None
    max_output: int = 4096
    timeout: float | None = None
    drain: float = 30.0
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20
    tool_format: str | None = None
    reasoning_field: str = "reasoning_content"
    chat_template: str | None = None
    draft_model: HasEngine | None = None
    models: Path | None = None
    log: str = "text"
    log_texts: bool = False
    metrics_names: str = "pyml"
    request_traces: int = 0
    live_trace: bool = False
    otel: bool = False
    ui: bool = True

    def __post_init__(self) -> None:
        own = {
            "alias": None if self.alias is None else text("alias", self.alias),
            "any_model": flag("any_model", self.any_model),
            "host": text("host", self.host),
            "port": whole("port", self.port, 0, 65535),
            "unix": _path("unix", self.unix),
            "api_key_file": _path("api_key_file", self.api_key_file),
            "insecure": flag("insecure", self.insecure),
            "allowed_hosts": tuple(text("allowed_hosts", name) for name in self.allowed_hosts),
            "models": _path("models", self.models),
            "ui": flag("ui", self.ui),
            "api_keys": {text("api_keys", name): _key(key) for name, key in dict(self.api_keys).items()},
            "max_batch_size": whole("max_batch_size", self.max_batch_size, 1),
            "max_queue": whole("max_queue", self.max_queue, 0),
            "max_queue_tokens": _optional_whole("max_queue_tokens", self.max_queue_tokens),
            "queue_timeout": seconds("queue_timeout", self.queue_timeout),
            "max_gap": seconds("max_gap", self.max_gap) or 0.05,
            "kv_bytes": _optional_whole("kv_bytes", self.kv_bytes),
            "chat_template": None if self.chat_template is None else text("chat_template", self.chat_template),
            "max_output": whole("max_output", self.max_output, 1),
            "timeout": seconds("timeout", self.timeout),
            "drain": _drain(self.drain),
            "cors_origins": tuple(text("cors_origins", origin) for origin in self.cors_origins),
            "tool_format": None if self.tool_format is None else choice("tool_format", self.tool_format, TOOL_FORMATS),
            "reasoning_field": choice("reasoning_field", self.reasoning_field, REASONING_FIELDS),
            "max_body_bytes": whole("max_body_bytes", self.max_body_bytes, 1),
            "log": _one_of("log", self.log, LOG_FORMATS),
            "log_texts": flag("log_texts", self.log_texts),
            "metrics_names": _one_of("metrics_names", self.metrics_names, METRIC_NAMES),
            "request_traces": whole("request_traces", self.request_traces, 0),
            "live_trace": flag("live_trace", self.live_trace),
            "otel": flag("otel", self.otel),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def reasoning_fields(self) -> tuple[str, ...]:
        """Names of the fields that have the reasoning."""
        return REASONING_FIELDS[:2] if self.reasoning_field == "both" else (self.reasoning_field,)

    def replace(self, **changes: Any) -> ServeOptions:
        """These options with changes."""
        return replace(self, **changes)


def _path(name: str, value: Any) -> Path | None:
    if value is None:
        return None
    try:
        return Path(value)
    except TypeError:
        raise ArgumentError(f"must be a path, got {quoted(value)}", name) from None


def _one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ArgumentError(f"must be one of {', '.join(choices)}, got {quoted(value)}", name)
    return str(value)


def _drain(value: Any) -> float:
    found = number("drain", value)
    if not 0 <= found < float("inf"):
        raise ArgumentError(f"must be >= 0 and finite, got {found:g}", "drain")
    return found


def _optional_whole(name: str, value: int | None) -> int | None:
    return None if value is None else whole(name, value, 1)


def _key(value: Any) -> str:
    key = text("api_keys", value)
    if not key or not key.isascii() or any(c.isspace() for c in key):
        raise ArgumentError("must be of ASCII characters without spaces", "api_keys")
    return key
