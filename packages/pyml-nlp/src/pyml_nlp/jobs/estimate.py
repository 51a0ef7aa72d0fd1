"""Estimated tokens of rows from their sizes, calibrated with a sample of them and the model's tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError, quoted

from ..chat import ChatTemplate
from ..formats.gguf import GGUFFile
from ..generation.prefix_tree import common_length
from ..loading import find, generation_defaults, open_weights
from ..tokenizer import load_tokenizer
from .errors import JobError
from .rows import Row
from .tasks.prompts import Prompts

if TYPE_CHECKING:
    from ..chat.messages import Messages
    from ..options.generation import GenerationOptions

_BYTES_PER_TOKEN = 4.0  # if no row of the sample has a prompt
_OUTPUT = 0.5  # share of max_tokens that texts are expected to have


@dataclass(frozen=True)
class Estimate:
    """A linear estimate of the tokens of a row.

    Attributes:
        fixed: tokens of every row: its instructions and its text.
        per_byte: further tokens of each byte.
        shared: tokens that the prompts of the sample have in common at their beginning.
    """

    fixed: float
    per_byte: float
    shared: int

    def tokens(self, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Tokens of rows of these sizes."""
        return sizes * np.float64(self.per_byte) + np.float64(self.fixed)


class Preparation:
    """What a model's files tell without its weights: tokens of prompts, and default options.

    Args:
        model: its path or hub id.
        chats: whether a chat template is needed.

    Raises:
        PymlError: the files cannot be read, or there is no chat template.
    """

    def __init__(self, model: str, chats: bool) -> None:
        source = find(model)
        with open_weights(source) as files:
            self.defaults: GenerationOptions = generation_defaults(files)
            self._tokenizer = load_tokenizer(files if isinstance(files, GGUFFile) else files.path)
        self._name = source.name
        self._template = ChatTemplate(self._tokenizer, source.name) if chats else None

    def ids(self, text: str) -> list[int]:
        """See :class:`.Encoder`."""
        return self._tokenizer.encode_prompt(text)

    def chat_ids(self, messages: Messages) -> list[int]:
        """See :class:`.Encoder`."""
        if self._template is None:
            self._template = ChatTemplate(self._tokenizer, self._name)
        return self._template.ids(messages)

    def close(self) -> None:
        """End the process that renders templates, if there is one."""
        if self._template is not None:
            self._template.close()


def calibrated(rows: Iterable[tuple[int, Row]], prompts: Prompts, encoder: Preparation, output: int) -> Estimate:
    """An estimate from rows with their sizes.

    Args:
        rows: a sample.
        prompts: makes their prompts.
        encoder: of the model.
        output: most tokens of a text.

    Raises:
        JobError: no row of the sample has a column that prompts need.
    """
    sizes, counts = list[int](), list[int]()
    shared: Sequence[int] | None = None
    columns: dict[str, None] = {}
    valid, sampled = 0, 0
    for size, row in rows:
        sampled += 1
        columns |= dict.fromkeys(row.values)
        valid += row.problem is None
        try:
            ids = prompts.ids(encoder, prompts.item(row))
        except PymlError:  # it will be the row's result
            continue
        sizes.append(size)
        counts.append(len(ids))
        shared = ids if shared is None else shared[: common_length(shared, ids)]
    missing = next((name for name in prompts.needed if name not in columns), None)
    if valid and missing is not None:
        raise JobError(
            f"no row of the sample has a column {quoted(missing)}: they have {', '.join(map(quoted, columns))}"
        )
    expected = output * _OUTPUT
    if not sizes:
        return Estimate(expected, 1 / _BYTES_PER_TOKEN, 0)
    common = len(shared or ()) if len(sizes) > 1 else 0
    rest, total = sum(counts) - common * len(counts), sum(sizes)
    return Estimate(expected + common, rest / max(total, 1), common)
