"""Files that a command writes in the end: whether they can be, before any work."""

from __future__ import annotations

from pathlib import Path

import click


def check_places(trace: str | None, prompt_cache: str | None, output: str | None, resume: bool) -> None:
    """Try the places of a trace, of a prompt cache that is not there yet, and of a batch's results.

    Raises:
        UsageError: a trace file of another ending. PymlError: a place where no file can be.
    """
    if trace is not None:
        from pyml_core.errors import quoted
        from pyml_nn.trace.files import ENDINGS, check_ending

        if not trace.lower().endswith(ENDINGS):
            raise click.UsageError(f"--trace-out must end in {', '.join(ENDINGS)}, got {quoted(trace)}")
        check_ending(trace)
        _check(trace, "the trace cannot be written")
    if prompt_cache is not None and not Path(prompt_cache).exists():
        _check(prompt_cache, "cannot save the KV cache")
    if output is not None and (resume or not Path(output).exists()):
        _check(output, "cannot be written")


def _check(path: str, problem: str) -> None:
    from pyml_core.errors import PymlError
    from pyml_nn.files import check_place

    try:
        check_place(path)
    except OSError as error:
        raise PymlError(f"{path}: {problem}: {error.strerror}") from None
