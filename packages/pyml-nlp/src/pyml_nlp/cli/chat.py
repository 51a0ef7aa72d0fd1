"""``pyml chat``: a chat on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .chat_options import chat_model, chosen_chat, template_options
from .loaded import check_template, loaded
from .options import (
    BASIC,
    SETTINGS,
    Command,
    Option,
    check_model,
    complete_files,
    configure_logs,
    integer,
    log_options,
    memory_options,
    model_options,
    number,
    positive,
    verbosity,
)
from .output import Output
from .reuse import check_long_texts, long_text_options
from .sampling import grammar_options, sampling_options, stop_options

if TYPE_CHECKING:
    from typing import Unpack

    from .arguments import ChatCommandArguments


@click.command("chat", cls=Command, context_settings=SETTINGS, short_help="Chat on the terminal.")
@model_options
@template_options(BASIC)
@click.option("--load", metavar="FILE", shell_complete=complete_files, help="Go on with messages that /save wrote.")
@integer("--max-tokens", metavar="N", help="Maximum number of tokens of an answer. [default: until the model ends it]")
@integer("--context-len", metavar="N", help="Maximum length of the chat in tokens. [default: the model's]")
@number("--timeout", metavar="SECONDS", help="Stop an answer after SECONDS.")
@click.option("--no-history", is_flag=True, cls=Option, help="Do not keep what is typed in a file.")
@sampling_options
@stop_options
@grammar_options
@long_text_options
@memory_options
@log_options
def command(**values: Unpack[ChatCommandArguments]) -> int:
    """Chat with MODEL, which was trained for conversations; /help in it shows its commands.

    MODEL is a .gguf file, a folder in Hugging Face layout, or a hub id. Without it: the one that PYML_MODEL names, else
    the installed default, SmolLM2 135M Instruct. Only answers go to stdout. With a pipe, each line is a message.
    """
    from .collect import answer_options, generation_changes, load_options, run_arguments
    from .interactive import converse
    from .session import read_chat
    from .task import Job

    level = verbosity(values["verbose"], values["quiet"])
    source = check_model(values["model"], values["safetensors"], values["threads"])
    positive({"--timeout": values["timeout"]})
    check_long_texts(values)
    chat = chosen_chat(values)
    changes = generation_changes(values)
    options = load_options(values)
    configure_logs(level)
    earlier = () if values["load"] is None else read_chat(Path(values["load"]))
    output = Output()
    source = chat_model(source)
    check_template(source)
    lm = loaded(source, options, level)
    job = Job([], answer_options(lm, changes), chat, run_arguments(values))
    return converse(lm, job, output, level >= 0, not values["no_history"], earlier)
