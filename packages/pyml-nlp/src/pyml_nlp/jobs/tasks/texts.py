"""Texts: continuations and answers, with or without a grammar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pyml_core.errors import PymlError

from ...generation.completion import CANCELLED, Completion
from ...generation.generator import Generator
from ...generation.request import Request
from ...generation.scheduler import Scheduler
from ...logprob_entries import logprob_entries
from ...structured.grammar import Grammar
from ..rows import Row
from .prompts import Prompts
from .work import Add, Rows, Work

if TYPE_CHECKING:
    from ...language_model import LanguageModel
    from ...options.generation import GenerationOptions


class Texts(Work):
    """Generates the texts of rows side by side.

    Args:
        lm: the model.
        prompts: makes prompts of rows.
        options: the job's.
        seed: the job's.
    """

    def __init__(self, lm: LanguageModel, prompts: Prompts, options: Mapping[str, Any], seed: int) -> None:
        self._lm = lm
        self._prompts = prompts
        self._defaults = lm.generation_options.replace(**with_grammar(options))
        self._seed = seed
        self._generator = Generator(lm)
        self._cancelled = False

    def results(self, rows: Rows, together: int, refuse: Add) -> Iterator[tuple[int, dict[str, Any]]]:
        """See :meth:`.Work.results`."""
        self._generator = generator = Generator(self._lm)
        if self._cancelled:
            return
        under_way: dict[int, tuple[int, Row]] = {}  # by the number of the text

        def requests() -> Iterator[Request]:
            count = 0
            for index, row in rows:
                try:
                    request = self._request(row)
                except PymlError as error:
                    refuse(index, {"id": row.id, "error": str(error)})
                    continue
                under_way[count] = index, row
                count += 1
                yield request

        for completion in Scheduler(generator, requests(), together, self._lm.prefill_chunk):
            index, row = under_way.pop(completion.sequence)
            if completion.finish_reason != CANCELLED:
                yield index, self._result(row, completion)

    def cancel(self) -> None:
        """See :meth:`.Work.cancel`."""
        self._cancelled = True
        self._generator.cancel()

    def _request(self, row: Row) -> Request:
        item = self._prompts.item(row)
        options = item.generation_options(self._defaults)
        if not options.sampling.greedy and options.sampling.seed is None:
            options = options.replace(seed=row_seed(self._seed, row.id))
        return Request(self._prompts.ids(self._lm, item), options)

    def _result(self, row: Row, completion: Completion) -> dict[str, Any]:
        if completion.error is not None:
            return {"id": row.id, "error": str(completion.error)}
        result: dict[str, Any] = {
            "id": row.id,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "prompt_tokens": len(completion.prompt),
            "tokens": len(completion.tokens),
        }
        if completion.options.logprobs is not None:
            result["logprobs"] = logprob_entries(self._lm.tokenizer, completion.tokens, completion.logprobs)
        return result


def row_seed(seed: int, name: str | int) -> int:
    """The seed of a row without one: a hash of the job's seed and the row's id, so that a retry makes the same text."""
    return int.from_bytes(sha256(f"{seed} {name}".encode("utf-8", "replace")).digest()[:8], "big")


def with_grammar(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a manifest, whose grammar is a mapping, as arguments."""
    found = dict(options)
    grammar = found.get("grammar")
    if isinstance(grammar, Mapping):
        found["grammar"] = Grammar(grammar["kind"], grammar["source"])
    return found


def as_json(options: GenerationOptions, names: Mapping[str, Any]) -> dict[str, Any]:
    """The options of these names, as a manifest has them."""
    found: dict[str, Any] = {}
    for name in names:
        if name in ("schema", "regex", "grammar"):
            if options.grammar is not None:
                found["grammar"] = {"kind": options.grammar.kind, "source": options.grammar.source}
        else:
            value = getattr(options, name, None) if hasattr(options, name) else getattr(options.sampling, name)
            if isinstance(value, Mapping):
                value = {str(key): value[key] for key in sorted(value)}
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
