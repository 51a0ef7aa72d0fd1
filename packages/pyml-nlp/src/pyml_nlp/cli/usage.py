"""Messages for errors on the command line, with what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import click

from pyml_core.errors import quoted

from .config import origin

_CUTOFF = 0.75  # similarity of a name that is suggested
_ELSEWHERE = {
    "-p": "--prompt",
    "-n": "--max-tokens",
    "-c": "--context-len",
    "-s": "--seed",
    "-i": "--interactive",
    "-V": "--version",
    "--temp": "--temperature",
    "--n-predict": "--max-tokens",
    "--max-new-tokens": "--max-tokens",
    "--ctx-size": "--context-len",
    "--context-length": "--context-len",
    "--repeat-penalty": "--repetition-penalty",
    "--system-prompt": "--system",
    "--model-draft": "--draft-model",
    "--num-threads": "--threads",
}
"""Options as other engines spell them."""
_MODEL = ("-m", "--model", "--hf-repo", "-hf")


def message(error: click.UsageError) -> str:
    """The line that tells of an error on the command line."""
    if isinstance(error, click.NoSuchOption):
        return _unknown_option(error)
    text = error.format_message()
    return origin(error.ctx, text) + text


def unknown_command(name: str, names: Sequence[str]) -> str:
    """The message for a command that does not exist."""
    close = get_close_matches({"run": "infer", "generate": "infer"}.get(name, name), names, 1, 0.6)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"unknown command {quoted(name)}: {hint}expected one of {', '.join(names)}"


def _unknown_option(error: click.NoSuchOption) -> str:
    text, ctx = f"unexpected argument {quoted(error.option_name)} found", error.ctx
    if ctx is None:
        return text
    params = ctx.command.get_params(ctx)
    if error.option_name in _MODEL and any(param.name == "model" for param in params):
        return f"{text}; the model needs no option: {ctx.command_path} MODEL"
    names = [name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("-")]
    wanted = error.option_name.replace("_", "-")
    wanted = _ELSEWHERE.get(wanted, wanted)
    close = [wanted] if wanted in names else get_close_matches(wanted, names, 1, _CUTOFF)
    return f"{text}; did you mean {close[0]}?" if close else f"{text}; {ctx.command_path} --help lists the options"
