"""``pyml list``: the models on this machine, their sizes, and the memory that they need."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from .options import SETTINGS, Command, configure_logs, integer, positive
from .output import Output

if TYPE_CHECKING:
    from ..cached_models import CachedModel

DEFAULT_CONTEXT = 4096


@click.command("list", cls=Command, context_settings=SETTINGS, short_help="List the models on this machine.")
@integer("--context-len", metavar="N", help="Count the KV cache of N positions. [default: 4096]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each model.")
def command(context_len: int | None, as_json: bool) -> None:
    """List the models in the caches: by which name to load them, size, memory needed, and whether they run here.

    Models of huggingface-hub's cache are there after pyml pull, or the first use. Other files and folders are not
    listed: pyml inspect shows one.
    """
    positive({"--context-len": context_len})
    configure_logs(-1)
    output = Output()
    from ..cached_models import cached_models

    rows = [_row(model, context_len or DEFAULT_CONTEXT) for model in cached_models()]
    if as_json:
        output.write("".join(json.dumps(row.facts(), ensure_ascii=False) + "\n" for row in rows))
    elif rows:
        output.write(_table(rows))
    else:
        output.write("No models yet: pyml pull MODEL gets one from the hub.\n")


@dataclass(frozen=True)
class Row:
    """A model of the list.

    Attributes:
        model: the model.
        memory: bytes that it needs; None: not known.
        problem: why it does not run here; None: it runs.
    """

    model: CachedModel
    memory: int | None
    problem: str | None

    def facts(self) -> dict[str, object]:
        """The row for JSON."""
        model = self.model
        return {
            "model": model.source.name, "path": str(model.source.path), "size": model.size, "memory": self.memory,
            "runs": self.problem is None, "problem": self.problem, "default": model.default,
        }  # fmt: skip


def _row(model: CachedModel, context_len: int) -> Row:
    from pyml_core.errors import OutOfMemoryError, PymlError

    from ..loading import describe, open_weights, weight_source

    memory = None
    try:
        with open_weights(model.source) as files:
            description = describe(files)
            length = min(context_len, description.config.context_length)
            model_class, config = description.architecture.Model, description.config
            plan = model_class.memory_plan(config, weight_source(files, model_class.specs(config)), "auto", length)
        memory = plan.total
        plan.check()
    except OutOfMemoryError:
        return Row(model, memory, "too little memory is free")
    except PymlError as error:
        return Row(model, memory, str(error).removeprefix("Failed to parse GGUF: "))
    return Row(model, memory, None)


def _table(rows: list[Row]) -> str:
    from ..memory import gigabytes

    cells = [("MODEL", "SIZE", "MEMORY", "RUNS HERE")]
    for row in rows:
        model = row.model
        note = f" (default for {model.default})" if model.default else ""
        needed = "" if row.memory is None else gigabytes(row.memory)
        cells.append((model.source.name, gigabytes(model.size), needed, (row.problem or "yes") + note))
    name, size, memory = (max(len(row[column]) for row in cells) for column in range(3))
    return "".join(f"{row[0]:<{name}}  {row[1]:>{size}}  {row[2]:>{memory}}  {row[3]}\n" for row in cells)
