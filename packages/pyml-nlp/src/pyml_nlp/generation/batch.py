"""Several texts as an iterator: what :meth:`LanguageModel.generate_batch` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pyml_core.errors import PymlError
from pyml_core.pickling import OfOneProcess

from ..arguments import prompt_list
from .completion import Completion
from .generator import Generator
from .request import Request
from .scheduler import Scheduler


def checked_requests(generator: Generator, prompts: Any, make: Callable[[Any], Request]) -> list[Request]:
    """The requests of a batch: given ones, and those that ``make`` returns for prompts.

    Raises:
        PymlError: ``prompts`` is not a list of prompts, or one of them is invalid: the message has its index.
    """
    requests = []
    for index, prompt in enumerate(prompt_list(prompts)):
        try:
            if not isinstance(prompt, Request):
                with generator.preparing():
                    prompt = make(prompt)
            generator.check(prompt)
        except PymlError as error:
            raise type(error)(f"prompt {index}: {error}") from None
        requests.append(prompt)
    return requests


class Batch(OfOneProcess, instead="send the texts of its completions instead"):
    """The texts of a batch: an iterator of :class:`Completion`, each when it has ended.

    The error of a text is raised in its place; ``next`` on the same iterator goes on with the other texts.

    Args:
        generator: of the model.
        requests: the texts to generate.
        max_batch_size: most texts at a time.
        chunk: most tokens of prompts in a run while no text is running.
        ordered: give the texts in the order of the requests; False: as they end.
    """

    def __init__(
        self, generator: Generator, requests: Iterable[Request], max_batch_size: int, chunk: int, ordered: bool = True
    ) -> None:
        self._generator = generator
        requests = list(requests)
        self._count, self._given = len(requests), 0
        self._ended = iter(Scheduler(generator, requests, max_batch_size, chunk))
        self._completions = self._in_order() if ordered else self._ended

    def __iter__(self) -> Iterator[Completion]:
        return self

    def __repr__(self) -> str:
        return f"<Batch: {self._given} of {self._count} texts given>"

    def __next__(self) -> Completion:
        completion = next(self._completions)
        self._given += 1
        if completion.error is not None:
            raise completion.error
        return completion

    def cancel(self) -> None:
        """End every text, keeping the tokens so far; from any thread or signal handler."""
        self._generator.cancel()

    def _in_order(self) -> Iterator[Completion]:
        early: dict[int, Completion] = {}
        following = 0
        for completion in self._ended:
            early[completion.sequence] = completion
            while following in early:
                yield early.pop(following)
                following += 1
