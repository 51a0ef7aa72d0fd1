"""From a row to the token ids of its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from pyml_core.errors import PymlError, quoted

from ...batch_items import KEYS, Item, item_of
from ...errors import ArgumentError
from ...options.generation import GENERATION
from ..manifest import Task
from ..rows import Row
from ..templates import Template

if TYPE_CHECKING:
    from ...chat.messages import Message, Messages
    from ...options.keywords import GenerationKeywords

_NO_OPTIONS = {"prompt", "messages", "id"}


class Encoder(Protocol):
    """Makes token ids: a language model, or its tokenizer and templates without weights."""

    def ids(self, text: str) -> list[int]:
        """Of a text."""
        ...

    def chat_ids(self, messages: Messages) -> list[int]:
        """Of a chat."""
        ...


class Prompts:
    """Makes prompts of rows.

    Args:
        task: the job's.

    Attributes:
        columns: the columns that are read; None: all.

    Raises:
        ArgumentError: an invalid template, two sources of prompts, or an option that a row cannot have.
    """

    def __init__(self, task: Task) -> None:
        given = [name for name in ("prompt", "prompt_column", "messages_column") if getattr(task, name) is not None]
        if len(given) > 1:
            raise ArgumentError(f"cannot be given together with {given[1]}", given[0])
        for name in task.row_options:
            if name not in KEYS - _NO_OPTIONS:
                raise ArgumentError(f"must be options of generation, got {quoted(name)}", "row_options")
        self._task = task
        self._template = None if task.prompt is None else Template(task.prompt)
        self.needed: tuple[str, ...] = ()
        if self._template is not None:
            self.needed = self._template.columns
        elif given:
            self.needed = (task.prompt_column or task.messages_column or "",)
        self.columns = (*self.needed, *task.row_options, task.id_column) if task.columns_are_data else None

    def item(self, row: Row) -> Item:
        """Prompt and options of a row.

        Raises:
            PymlError: the row has a problem, or no prompt.
        """
        if row.problem is not None:
            raise PymlError(row.problem)
        if self.columns is not None:
            return self._item_of_data(row)
        values = row.values
        if self._task.id_column != "id":
            values = {key: value for key, value in values.items() if key != self._task.id_column}
        item = item_of(values, row.number, surrogates=False)
        if item.problem is not None:
            raise PymlError(item.problem)
        return item

    def _item_of_data(self, row: Row) -> Item:
        values, task = row.values, self._task
        options: Any = {name: values[name] for name in task.row_options if values.get(name) is not None}
        if task.messages_column is not None:
            messages = values.get(task.messages_column)
            if not isinstance(messages, list):
                raise PymlError(f"expected messages in column {quoted(task.messages_column)}, got {quoted(messages)}")
            return Item("", options, row.id, row.number, messages=messages)
        if self._template is not None:
            prompt = self._template.render(values)
        else:
            found = values.get(task.prompt_column or "")
            if not isinstance(found, str):
                raise PymlError(f"expected a text in column {quoted(task.prompt_column)}, got {quoted(found)}")
            prompt = found
        if not prompt.strip():
            raise PymlError("expected a prompt, got an empty text")
        return Item(prompt, options, row.id, row.number)

    def text(self, item: Item) -> str:
        """What the prompt of an item begins with, for grouping."""
        if item.messages is None:
            return item.prompt
        if isinstance(item.messages, str):
            return item.messages
        return "\n".join(str(one.get("content")) if isinstance(one, dict) else str(one) for one in item.messages)

    def ids(self, encoder: Encoder, item: Item) -> list[int]:
        """Token ids of the prompt. Messages make a chat in any case.

        Raises:
            PymlError: it cannot be encoded, or the chat template refuses it.
        """
        system = self._task.system
        before: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        if item.messages is not None:
            messages = item.messages
            return encoder.chat_ids([*before, *messages] if before and not isinstance(messages, str) else messages)
        if self._task.kind == "chat":
            return encoder.chat_ids([*before, {"role": "user", "content": item.prompt}])
        return encoder.ids(item.prompt)


def checked_options(options: Any) -> GenerationKeywords:
    """Options of a job.

    Raises:
        ArgumentError: an unknown name, or one that a job cannot have.
    """
    for name in options:
        if name not in GENERATION - {"sampling", "logits_processor"}:
            raise ArgumentError(
                f"unknown option {quoted(name)}: expected one of {', '.join(sorted(KEYS - _NO_OPTIONS))}"
            )
    return cast("GenerationKeywords", options)
