"""The values that click passes to the commands. Annotations alone use these types: no command makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from ..engine import HasEngine


class ModelArguments(TypedDict):
    """The values of :func:`model_options`."""

    model: str | None
    safetensors: str | None
    dtype: str
    threads: int | None


class MemoryArguments(TypedDict):
    """The values of :func:`memory_options`."""

    lora: tuple[str, ...]
    full_head: bool
    kv_dtype: str
    allow_unknown_keys: bool


class LogArguments(TypedDict):
    """The values of :func:`log_options`."""

    verbose: int
    quiet: int


class SamplingArguments(TypedDict):
    """The values of :func:`sampling_options`; None: not given."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: dict[int, float] | None
    sampler_order: tuple[str, ...] | None
    seed: int | None


class StopArguments(TypedDict):
    """The values of :func:`stop_options`."""

    stop: tuple[str, ...]
    stop_id: tuple[int, ...]
    include_stop: bool


class GrammarArguments(TypedDict):
    """The values of :func:`grammar_options`."""

    json_schema: str | None
    regex: str | None
    grammar: str | None


class TemplateArguments(TypedDict):
    """The values of :func:`template_options`."""

    system: str | None
    tools: str | None
    chat_arg: tuple[str, ...]


class ChatArguments(TemplateArguments):
    """The values of :func:`add_chat_options`."""

    chat: bool
    interactive: bool


class LongTextArguments(TypedDict):
    """The values of :func:`long_text_options`."""

    overflow: str
    n_keep: int | None
    draft_model: str | None
    no_speculation: bool


class ReuseArguments(LongTextArguments):
    """The values of :func:`reuse_options`."""

    n: int | None
    best_of: int | None
    output: str | None
    resume: bool
    max_batch_size: int | None
    prompt_cache: str | None


class GenerationArguments(
    ModelArguments, SamplingArguments, StopArguments, GrammarArguments, LongTextArguments, MemoryArguments, LogArguments
):
    """The values that ``pyml-infer`` and ``pyml chat`` have in common."""

    max_tokens: int | None
    context_len: int | None
    timeout: float | None


class ChatCommandArguments(GenerationArguments, TemplateArguments):
    """All values of ``pyml chat``."""

    load: str | None
    no_history: bool


class ObserveArguments(TypedDict):
    """The values of :func:`observe_options`."""

    log: str
    log_texts: bool
    metrics_names: str
    request_traces: int | None
    live_trace: bool
    otel: bool


class ServeArguments(ModelArguments, MemoryArguments, LogArguments, ObserveArguments):
    """All values of ``pyml serve``."""

    host: str
    port: int
    unix: str | None
    alias: str | None
    any_model: bool
    no_ui: bool
    context_len: int | None
    api_key_file: str | None
    insecure: bool
    allowed_host: tuple[str, ...]
    models: str | None
    tool_format: str | None
    reasoning_field: str | None
    drain: float | None
    max_body_bytes: int | None
    max_batch: int | None
    max_queue: int | None
    max_queue_tokens: int | None
    queue_timeout: float | None
    max_gap: float | None
    cache_bytes: int | None
    kv_bytes: int | None
    chat_template: str | None
    draft_model: str | None
    max_output: int | None
    timeout: float | None
    cors_origin: tuple[str, ...]
    ray: str | None
    replicas: tuple[int, int] | None


class InferArguments(GenerationArguments, ChatArguments, ReuseArguments):
    """All values of ``pyml-infer``."""

    prompt: str | None
    batch_file: str | None
    stream: bool | None
    logprobs: int | None
    echo: bool
    as_json: bool
    trace_out: str | None


class JobPlanArguments(SamplingArguments, StopArguments, GrammarArguments, LogArguments):
    """All values of ``pyml batch plan``."""

    inputs: tuple[str, ...]
    output: str
    model: str | None
    task: str
    prompt: str | None
    prompt_column: str | None
    messages_column: str | None
    system: str | None
    max_tokens: int | None
    logprobs: int | None
    top: int | None
    id_column: str
    row_options: str | None
    parquet: bool
    rows_per_shard: int | None
    tokens_per_shard: int | None
    group: bool
    cpu_level: str | None
    dtype: str
    context_len: int | None
    kv_dtype: str


class AuditArguments(ModelArguments, LogArguments):
    """All values of ``pyml audit``."""

    prompt_lengths: tuple[int, ...] | None
    repetitions: int | None
    layers: tuple[int, ...] | None
    output: str | None
    quick: bool
    compare: tuple[str, str] | None


class BenchArguments(ModelArguments, SamplingArguments, GrammarArguments, MemoryArguments, LogArguments):
    """All values of ``pyml-bench``."""

    prompt: int
    steps: int
    depth: int
    batch: int
    repetitions: int
    text: str | None
    logprobs: int | None
    output_format: str


class EvalArguments(ModelArguments, LogArguments):
    """All values of ``pyml eval``."""

    file: str
    against: str | None
    against_dtype: str | None
    window: int
    stride: int | None
    chunks: int | None
    as_json: bool


class RunArguments(TypedDict):
    """The arguments of :meth:`.LanguageModel.generate` that are not options of a text."""

    timeout: float | None
    speculate: bool
    draft_model: HasEngine | None
