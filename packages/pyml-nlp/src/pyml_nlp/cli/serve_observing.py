"""Options of ``pyml serve`` on what can be seen of it: its log, metrics and traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import F, Option, choice, integer

if TYPE_CHECKING:
    from .arguments import ObserveArguments

_HEADING = "Watching"


def observe_options(function: F) -> F:
    """--log, --log-texts, --metrics-names, --request-traces, --live-trace and --otel."""
    for decorator in reversed((
        choice("text", "json", "off")(
            "--log", default="text", metavar="FORM", heading=_HEADING,
            help="A line on stderr for each request: text, json or off. [default: text]",
        ),
        click.option(
            "--log-texts", is_flag=True, cls=Option, heading=_HEADING, help="Log prompts and answers, too.",
        ),
        choice("pyml", "vllm")(
            "--metrics-names", default="pyml", metavar="NAMES", heading=_HEADING,
            help="vllm: give metrics the names of vLLM as well. [default: pyml]",
        ),
        integer(
            "--request-traces", metavar="N", heading=_HEADING,
            help="Keep the timelines of the last N requests. [default: 0]",
        ),
        click.option(
            "--live-trace", is_flag=True, cls=Option, heading=_HEADING,
            help="Let clients watch the runs of the model without the page, too.",
        ),
        click.option(
            "--otel", is_flag=True, cls=Option, heading=_HEADING,
            help="Send requests as spans of OpenTelemetry, to where OTEL_EXPORTER_OTLP_ENDPOINT says.",
        ),
    )):  # fmt: skip
        function = decorator(function)
    return function


def observed(values: ObserveArguments) -> dict[str, Any]:
    """The options of the server that these values are."""
    return {
        "log": values["log"],
        "log_texts": values["log_texts"],
        "metrics_names": values["metrics_names"],
        "request_traces": values["request_traces"],
        "live_trace": values["live_trace"],
        "otel": values["otel"],
    }
