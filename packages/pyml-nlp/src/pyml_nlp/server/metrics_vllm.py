"""The metrics that have names of vLLM, too: gateways, autoscalers and dashboards look for these."""

from __future__ import annotations

from typing import NamedTuple


class Alias(NamedTuple):
    """Another name of a metric.

    Attributes:
        name: vLLM's, without ``_total`` of a counter.
        of: pyml's.
        labels: vLLM's names of its labels.
    """

    name: str
    of: str
    labels: tuple[str, ...] = ()


KV_USAGE = "vllm:kv_cache_usage_perc"
"""Share of the memory of keys and values that is in use, 0..1."""

ALIASES = (
    Alias("vllm:num_requests_running", "pyml_requests_running"),
    Alias("vllm:num_requests_waiting", "pyml_requests_waiting"),
    Alias("vllm:num_preemptions", "pyml_preemptions"),
    Alias("vllm:prompt_tokens", "pyml_prompt_tokens"),
    Alias("vllm:generation_tokens", "pyml_generation_tokens"),
    Alias("vllm:request_success", "pyml_request_finish", ("finished_reason",)),
    Alias("vllm:prefix_cache_queries", "pyml_prompt_tokens"),
    Alias("vllm:prefix_cache_hits", "pyml_prompt_tokens_cached"),
    Alias("vllm:spec_decode_num_draft_tokens", "pyml_draft_tokens"),
    Alias("vllm:spec_decode_num_accepted_tokens", "pyml_draft_tokens_accepted"),
    Alias("vllm:time_to_first_token_seconds", "pyml_time_to_first_token_seconds"),
    Alias("vllm:inter_token_latency_seconds", "pyml_inter_token_seconds"),
    Alias("vllm:e2e_request_latency_seconds", "pyml_request_seconds"),
    Alias("vllm:request_queue_time_seconds", "pyml_queue_seconds"),
    Alias("vllm:request_prompt_tokens", "pyml_request_prompt_tokens"),
    Alias("vllm:request_generation_tokens", "pyml_request_output_tokens"),
    Alias("vllm:iteration_tokens_total", "pyml_run_tokens"),
)
"""Source: vLLM's documentation, "Production metrics", version 1 of its engine."""
