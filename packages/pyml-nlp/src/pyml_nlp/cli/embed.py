"""``pyml embed``: vectors of texts by an embedding model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .options import (
    DTYPES,
    SETTINGS,
    Command,
    check_model,
    choice,
    complete_files,
    configure_logs,
    exclusive,
    integer,
    log_options,
    read_stdin,
    utf8,
    verbosity,
)
from .output import Output, ProgressBar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

PART = 1024
"""Number of texts that are embedded before their lines are written."""

_ENDINGS = (".npy", ".jsonl")


class _Text(NamedTuple):
    """A text, and the name that its line has."""

    text: str
    id: str | int | None = None


@click.command("embed", cls=Command, context_settings=SETTINGS, short_help="Vectors of texts, by an embedding model.")
@click.argument("model", shell_complete=complete_files)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    shell_complete=complete_files,
    help="Texts of a file, one a line ('-': stdin); .jsonl: texts, or objects with a text and perhaps an id.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write to FILE: .npy (float32, a row for each text) or .jsonl. [default: JSONL on stdout]",
)
@click.option("--prompt", metavar="TEXT", help="Put TEXT before every text.")
@click.option("--prompt-name", metavar="NAME", help="Put the model's prompt of this name before every text.")
@choice(*DTYPES)("--dtype", default="auto", metavar="TYPE", help=f"Weights in memory: {', '.join(DTYPES)}. auto: q8_0.")
@integer("-t", "--threads", metavar="N", help="Worker threads. [default: as many as suit]")
@log_options
def command(
    model: str,
    texts: tuple[str, ...],
    files: tuple[str, ...],
    output: str | None,
    prompt: str | None,
    prompt_name: str | None,
    dtype: str,
    threads: int | None,
    verbose: int,
    quiet: int,
) -> None:
    """Vectors of TEXTs, and of the texts in files, by the embedding model MODEL: a folder or a hub id.

    Pooling, normalisation and prompts are those of the model's files. Texts longer than the model allows are cut.
    """
    level = verbosity(verbose, quiet)
    exclusive({"--prompt": prompt is not None, "--prompt-name": prompt_name is not None})
    source = check_model(model, None, threads) or model
    if output is not None and not output.endswith(_ENDINGS):
        raise click.UsageError(f"--output must end in {' or '.join(_ENDINGS)}, got {output!r}")
    found = [_Text(utf8("TEXT", text)) for text in texts]
    for file in files:
        found += _read(file)
    if not found:
        raise click.UsageError("expected a TEXT, or --file with texts")
    configure_logs(level or -1)
    from .. import load_embedder

    if output is not None:
        from pyml_core.errors import PymlError
        from pyml_nn.files import check_place

        try:
            check_place(output)
        except OSError as error:
            raise PymlError(f"{output}: cannot be written: {error.strerror}") from None
    stdout = Output() if output is None else None
    with ProgressBar("Loading", level >= 0) as bar:
        embedder = load_embedder(source, dtype=dtype, threads=threads, progress=bar)
    rows: list[npt.NDArray[np.float32]] = []
    with ProgressBar("Embedding", level >= 0) as bar:
        for start in range(0, len(found), PART):
            part = found[start : start + PART]
            vectors = embedder.embed([one.text for one in part], prompt=prompt, prompt_name=prompt_name)
            if stdout is not None:
                bar.clear()
                stdout.write("".join(_lines(part, vectors, start)))
            rows.append(vectors)
            bar(start + len(part), len(found), f"{start + len(part)} of {len(found)} texts")
    if output is not None:
        _save(output, found, rows)


def _read(file: str) -> list[_Text]:
    """The texts of a file; PymlError, naming the line, for one that is none."""
    from pyml_core.errors import PymlError, quoted

    from ..text_files import parse_json, read_text

    content = read_stdin() if file == "-" else read_text(file)
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    if not file.endswith(".jsonl"):
        return [_Text(line) for line in lines]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = parse_json(line)
        except ValueError as error:
            raise PymlError(f"{file}: line {number}: {error}") from None
        text, name = (value.get("text"), value.get("id")) if isinstance(value, dict) else (value, None)
        if not isinstance(text, str) or not isinstance(name, str | int | None):
            raise PymlError(
                f"{file}: line {number}: expected a text, or an object with a text and perhaps an id, "
                f"got {quoted(line)}"
            )
        found.append(_Text(text, name))
    return found


def _lines(texts: Sequence[_Text], vectors: npt.NDArray[np.float32], first: int) -> Iterator[str]:
    """A line of JSON for each text; numbers have the digits that float32 needs."""
    for index, (one, vector) in enumerate(zip(texts, vectors, strict=True), first):
        line: Mapping[str, Any] = {
            "index": index,
            **({} if one.id is None else {"id": one.id}),
            "embedding": [float(str(number)) for number in vector],
        }
        yield json.dumps(line) + "\n"


def _save(path: str, texts: Sequence[_Text], rows: Sequence[npt.NDArray[np.float32]]) -> None:
    import numpy as np

    from pyml_core.errors import PymlError
    from pyml_nn.files import new_file

    vectors = np.concatenate(rows)
    try:
        with new_file(path) as file:
            if path.endswith(".npy"):
                np.save(file, vectors)
            else:
                file.writelines(line.encode() for line in _lines(texts, vectors, 0))
    except OSError as error:
        raise PymlError(f"{path}: cannot be written: {error.strerror}") from None
