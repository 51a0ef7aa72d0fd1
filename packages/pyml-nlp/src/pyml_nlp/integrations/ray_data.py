"""A class for ``map_batches`` of Ray Data: texts for the rows of a dataset.

Ray Data runs several batches of a worker at a time, because :meth:`Generate.__call__` is a coroutine: their texts share
the places of one model, so that no place waits for the slowest text of a batch. This module imports no Ray, unless Ray
runs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from pyml_core.errors import PymlError, quoted

from ..errors import ArgumentError
from ..generation.text_stream import cancelled_at_end
from ..loading import load
from ..options.generation import GenerationOptions
from ..options.load import LoadOptions
from ..values import flag, text, whole

if TYPE_CHECKING:
    from ..generation.text_stream import TextStream
    from ..language_model import LanguageModel
    from ..options.keywords import GenerationKeywords

PROMPT, TEXT, ID, ERROR = "prompt", "text", "id", "error"
FINISH, PROMPT_TOKENS, TOKENS = "finish_reason", "prompt_tokens", "tokens"

SEEDS = 1 << 63
"""Number of seeds."""


class Generate:
    """Generates a text for each row of a batch.

    ``dataset.map_batches(Generate, fn_constructor_kwargs={"model": "model.gguf"}, num_cpus=8, compute=...)``

    A worker loads the model once. A row that cannot be answered has an error and no text; it ends nothing else. Seeds
    depend on the id of a row, not on its batch, so a row that is computed again has the same text.

    Args:
        model: a file, a folder or a hub id, at the same path on all machines; None: the default model.
        prompt_column: of the prompts, or of lists of messages.
        text_column: of the texts.
        id_column: decides a row's seed; without this column, its prompt does.
        chat: whether prompts are messages of a user, or lists of messages, for the model's chat template.
        threads: of the model; None: the logical CPUs that Ray has given to the worker.
        together: most texts that are generated at a time.
        load_options: how the model is loaded.
        options: of the texts, as of ``generate``; ``seed`` is that of all rows together.

    Attributes:
        lm: the model.

    Raises:
        ArgumentError: an invalid argument. PymlError, OSError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        prompt_column: str = PROMPT,
        text_column: str = TEXT,
        id_column: str = ID,
        chat: bool = False,
        threads: int | None = None,
        together: int = 16,
        load_options: LoadOptions | None = None,
        **options: Unpack[GenerationKeywords],
    ) -> None:
        self._prompt_column = text("prompt_column", prompt_column)
        self._text_column = text("text_column", text_column)
        self._id_column = text("id_column", id_column)
        self._seed = whole("seed", options.pop("seed", None) or 0)
        self._chat = flag("chat", chat)
        together = whole("together", together, 1)
        found = load_options or LoadOptions()
        if threads is not None or found.threads is None:
            found = found.replace(threads=whole("threads", threads, 1) if threads is not None else assigned_cpus())
        self.lm: LanguageModel = load(model, found)
        self.lm.server.max_batch_size = together
        self._options: GenerationOptions = self.lm.generation_options.replace(**options)

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with further columns: the text, ``finish_reason``, ``prompt_tokens``, ``tokens``, and ``error``.

        ``error`` is empty where there is a text.

        Raises:
            ArgumentError: the batch has no column of prompts.
        """
        prompts = batch.get(self._prompt_column)
        if prompts is None:
            columns_found = ", ".join(sorted(batch))
            raise ArgumentError(
                f"must be one of {quoted(columns_found)}, got {quoted(self._prompt_column)}", "prompt_column"
            )
        ids = batch.get(self._id_column, prompts)
        rows = [self._submitted(prompt, row_id) for prompt, row_id in zip(prompts, ids, strict=True)]
        streams = [row for row in rows if not isinstance(row, str)]
        with cancelled_at_end(streams):  # if Ray ends the task
            await asyncio.gather(*(_ended(stream) for stream in streams))
        found = [_columns(row) for row in rows]
        names = (self._text_column, FINISH, PROMPT_TOKENS, TOKENS, ERROR)
        columns = zip(*found, strict=True) if found else [()] * len(names)
        types = (object, object, np.int64, np.int64, object)
        made = zip(names, columns, types, strict=True)
        return {**batch, **{name: np.array(list(values), dtype) for name, values, dtype in made}}

    def _submitted(self, prompt: Any, row_id: Any) -> TextStream | str:
        """The text of a row, or its error."""
        try:
            if hasattr(prompt, "tolist"):
                prompt = prompt.tolist()
            options = self._options.replace(seed=row_seed(self._seed, row_id))
            if self._chat:
                messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
                prompt = self.lm.chat_ids(messages)
            elif not isinstance(prompt, str):
                raise ArgumentError(f"must be a text, got {quoted(prompt)}", self._prompt_column)
            return self.lm.submit(prompt, options)
        except PymlError as error:
            return str(error)


def row_seed(seed: int, row_id: Any) -> int:
    """The seed of a row, from that of the dataset and the row's id."""
    name = row_id.tolist() if hasattr(row_id, "tolist") else row_id
    return int.from_bytes(blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()) % SEEDS


def assigned_cpus() -> int:
    """The logical CPUs that Ray has given to this worker, at least one: its processes may use all that there are."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        raise ArgumentError("must be given outside of Ray's workers", "threads")
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


async def _ended(stream: TextStream) -> None:
    """Wait for the end of a text; its error is read later."""
    with suppress(PymlError):
        await stream.read()


def _columns(row: TextStream | str) -> Sequence[Any]:
    if not isinstance(row, str):
        completion = row.completion
        try:
            return row.result().text, completion.finish_reason, len(completion.prompt), len(completion.tokens), ""
        except PymlError as error:
            row = str(error)
    return "", "error", 0, 0, row
