"""``pyml serve``: an HTTP server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .adapters import adapters_of
from .chat_options import chat_model
from .loaded import servable
from .options import (
    SETTINGS,
    Command,
    Option,
    check_model,
    configure_logs,
    integer,
    invalid,
    log_options,
    memory_options,
    model_options,
    number,
    parsed,
    positive,
    usage_error,
    verbosity,
)
from .serve_observing import observe_options, observed

if TYPE_CHECKING:
    from typing import Unpack

    from ..options.load import LoadOptions
    from ..server.options import ServeOptions
    from .arguments import ServeArguments

_LIMITS = "Limits"
_SECURITY = "Security"
_RAY = "Many machines"
KEY_VARIABLE = "PYML_SERVE_API_KEY"
"""The environment variable of the key of the client ``default``."""


def _replicas(text: str) -> tuple[int, int]:
    from ..server.ray_serve import parse_replicas

    return parse_replicas(text)


_ENVIRONMENT = {"auto_envvar_prefix": "PYML_SERVE"}  # an option --max-queue may be PYML_SERVE_MAX_QUEUE


@click.command(
    "serve", cls=Command, context_settings={**SETTINGS, **_ENVIRONMENT}, short_help="Serve a model over HTTP."
)
@model_options
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on. [default: 127.0.0.1]")
@integer("--port", default="8000", metavar="N", help="Port to listen on; 0: any free one. [default: 8000]")
@click.option("--unix", metavar="PATH", help="Listen on a Unix socket instead.")
@click.option("--alias", metavar="NAME", help="The model's name in the API. [default: its own]")
@click.option("--any-model", is_flag=True, help="Answer requests that name another model, too.")
@click.option("--no-ui", is_flag=True, help="Serve the API alone, without the page at /.")
@integer("--context-len", metavar="N", help="Most positions of a text. [default: the model's]")
@click.option("--chat-template", metavar="FILE", help="A chat template in place of the model's own.")
@click.option("--draft-model", metavar="MODEL", help="A smaller model that drafts tokens.")
@click.option("--tool-format", metavar="NAME", help="How the model writes calls. [default: by its chat template]")
@click.option(
    "--reasoning-field", metavar="NAME", help="reasoning_content, reasoning or both. [default: reasoning_content]"
)
@integer("--max-batch", metavar="N", heading=_LIMITS, help="Most texts that are generated at a time. [default: 8]")
@integer("--max-queue", metavar="N", heading=_LIMITS, help="Most texts that wait for a place. [default: 128]")
@integer("--max-queue-tokens", metavar="N", heading=_LIMITS, help="Most tokens of the prompts that wait.")
@number("--queue-timeout", metavar="SECONDS", heading=_LIMITS, help="Most seconds that a text waits for a place.")
@number("--max-gap", metavar="SECONDS", heading=_LIMITS, help="How long a prompt may hold up texts. [default: 0.05]")
@integer("--cache-bytes", metavar="N", heading=_LIMITS, help="Most bytes of kept prompts. [default: 268435456]")
@integer("--kv-bytes", metavar="N", heading=_LIMITS, help="Most bytes of keys and values. [default: as are free]")
@integer("--max-output", metavar="N", heading=_LIMITS, help="Most tokens of an answer without a limit. [default: 4096]")
@integer("--max-body-bytes", metavar="N", heading=_LIMITS, help="Most bytes of a request. [default: 4194304]")
@number("--timeout", metavar="SECONDS", heading=_LIMITS, help="Most seconds that a request may take.")
@number("--drain", metavar="SECONDS", heading=_LIMITS, help="Time for running requests at the end. [default: 30]")
@click.option(
    "--api-key-file",
    metavar="FILE",
    cls=Option,
    heading=_SECURITY,
    help="Admit only clients with a key: lines of NAME KEY. PYML_SERVE_API_KEY is another key.",
)
@click.option(
    "--insecure",
    is_flag=True,
    cls=Option,
    heading=_SECURITY,
    help="Let anybody on the network use the server, without a key.",
)
@click.option(
    "--allowed-host",
    multiple=True,
    metavar="NAME",
    cls=Option,
    heading=_SECURITY,
    help="A name of the server, as behind a proxy; may be repeated. *: all.",
)
@click.option(
    "--models",
    metavar="FOLDER",
    cls=Option,
    heading=_SECURITY,
    help="Let POST /admin/reload name other models of FOLDER.",
)
@click.option(
    "--cors-origin", multiple=True, metavar="ORIGIN", cls=Option, heading=_SECURITY,
    help="Let pages of ORIGIN use the server; may be repeated.",
)  # fmt: skip
@click.option(
    "--ray",
    metavar="ADDRESS",
    cls=Option,
    heading=_RAY,
    help="Serve replicas on a Ray cluster: local (a new one here), auto (the one that Ray finds) or HOST:PORT.",
)
@parsed(_replicas, "MIN:MAX, two numbers from 1")(
    "--replicas",
    metavar="MIN:MAX",
    heading=_RAY,
    help="Replicas on the cluster, by its load. [default: 1]",
)
@observe_options
@memory_options
@log_options
def command(**values: Unpack[ServeArguments]) -> int:
    """Serve MODEL over HTTP, with the APIs of OpenAI; an embedding model answers requests for embeddings.

    MODEL is a .gguf file, a folder in Hugging Face layout, or a hub id. Without it: the one that PYML_MODEL names, else
    the installed default, SmolLM2 135M Instruct.
    """
    from ..errors import ArgumentError
    from ..options.load import LoadOptions

    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    waits = {"--timeout": values["timeout"], "--queue-timeout": values["queue_timeout"], "--max-gap": values["max_gap"]}
    positive(waits)
    positive({"--context-len": values["context_len"]})
    options = _options(values)
    kept = LoadOptions.prefix_cache_bytes if values["cache_bytes"] is None else values["cache_bytes"]
    try:
        load = LoadOptions(
            dtype=values["dtype"], threads=values["threads"], context_length=values["context_len"],
            screen=not values["full_head"], kv_dtype=values["kv_dtype"], prefix_cache_bytes=kept,
            allow_unknown_keys=values["allow_unknown_keys"], adapters=adapters_of(values["lora"], several=True),
        )  # fmt: skip
    except ArgumentError as error:
        raise invalid(kept, "--cache-bytes", "a whole number from 0") from error
    configure_logs(level)
    source = chat_model(source)
    if values["ray"] is not None:
        return _run_on_ray(values, source, load, options, level)
    if values["replicas"] is not None:
        raise click.UsageError("--replicas needs --ray")
    from ..server.http import run

    if values["draft_model"] is not None:
        from .. import load as load_model

        options = options.replace(draft_model=load_model(values["draft_model"], threads=values["threads"]))
    return run(lambda path: servable(source if path is None else str(path), load, level), options)


def _run_on_ray(
    values: ServeArguments, source: str | None, load: LoadOptions, options: ServeOptions, level: int
) -> int:
    from ..embedding.loading import is_embedding_model
    from ..errors import ArgumentError
    from ..loading import find
    from ..server.ray_serve import Plan, Replicas, run

    if source is not None and is_embedding_model(find(source).path):
        raise click.UsageError(f"--ray serves models that write texts, {source} is an embedding model")
    source, draft = _absolute(source), _absolute(values["draft_model"])
    if values["models"] is not None:
        raise click.UsageError("the argument '--models' cannot be used with '--ray'")
    try:
        return run(
            values["ray"] or "", Plan(source, load, options, draft, level),
            Replicas(*values["replicas"] or (1, 1), threads=values["threads"]),
        )  # fmt: skip
    except ArgumentError as error:
        raise usage_error(error) from None


def _absolute(source: str | None) -> str | None:
    """A path that other processes can use; a hub id stays as it is."""
    return str(Path(source).resolve()) if source is not None and Path(source).exists() else source


def _options(values: ServeArguments) -> ServeOptions:
    """How the model is served.

    Raises:
        UsageError: an invalid value.
    """
    from ..errors import ArgumentError
    from ..server.options import ServeOptions
    from ..text_files import read_text

    key = os.environ.get(KEY_VARIABLE, "").strip()
    given: dict[str, Any] = {
        "alias": values["alias"],
        "any_model": values["any_model"],
        "host": values["host"],
        "port": values["port"],
        "max_batch_size": values["max_batch"],
        "max_queue": values["max_queue"],
        "max_queue_tokens": values["max_queue_tokens"],
        "queue_timeout": values["queue_timeout"],
        "max_gap": values["max_gap"],
        "kv_bytes": values["kv_bytes"],
        "chat_template": None if values["chat_template"] is None else read_text(values["chat_template"]),
        "max_output": values["max_output"],
        "timeout": values["timeout"],
        "drain": values["drain"],
        "max_body_bytes": values["max_body_bytes"],
        "unix": values["unix"],
        "api_key_file": values["api_key_file"],
        "api_keys": {"default": key} if key else None,
        "insecure": values["insecure"],
        "allowed_hosts": values["allowed_host"],
        "models": values["models"],
        "tool_format": values["tool_format"],
        "reasoning_field": values["reasoning_field"],
        "cors_origins": values["cors_origin"],
        **observed(values),
        "ui": not values["no_ui"],
    }
    try:
        return ServeOptions(**{name: value for name, value in given.items() if value is not None})
    except ArgumentError as error:
        raise usage_error(error) from None
