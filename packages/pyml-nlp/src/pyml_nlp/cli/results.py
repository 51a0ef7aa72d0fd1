"""Finished texts as JSON lines, and files of them that stay valid after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyml_core.errors import PymlError, quoted
from pyml_nn.files import new_file

from ..logprob_entries import logprob_entries

if TYPE_CHECKING:
    from ..batch_items import Item
    from ..generation.completion import Completion
    from ..language_model import LanguageModel

FINISHED = ("stop", "length")
"""Reasons after which a text is not made again."""

FAILED = "error"
"""The finish reason of a line that has no text."""


def json_line(lm: LanguageModel, completion: Completion, index: int, name: str | int | None = None) -> str:
    """A text as a line of JSON; ``name`` is the id of its line in the batch file."""
    shown: dict[str, Any] = {"index": index} | ({} if name is None else {"id": name})
    shown |= {
        "prompt_tokens": len(completion.prompt),
        "tokens": len(completion.tokens),
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "prefill_ms": round(completion.prefill_ms, 3),
        "decode_ms": round(completion.decode_ms, 3),
    }
    if completion.options.logprobs is not None:
        shown["logprobs"] = logprob_entries(lm.tokenizer, completion.tokens, completion.logprobs)
    return json.dumps(shown, ensure_ascii=False) + "\n"


def error_line(item: Item, index: int, problem: str) -> str:
    """The problem of a line of a batch file, as a line of JSON."""
    shown: dict[str, Any] = {"index": index} | ({} if item.id is None else {"id": item.id})
    return json.dumps(shown | {"line": item.line, "finish_reason": FAILED, "error": problem}, ensure_ascii=False) + "\n"


class ResultFile:
    """A file of one line a text, in the order in which they end; each is there as soon as it is written.

    Args:
        path: the file.
        resume: go on with a file that an interrupted run has left: whole lines of finished texts stay; a half-written
            line, errors and texts cut short by a timeout go. Without it the file must not exist.
        prompt_tokens: length of each prompt of the batch, to detect a file of another batch; None for a line without a
            prompt.

    Attributes:
        done: indices of the texts that it has.

    Raises:
        PymlError: the file exists and is not to be resumed, belongs to another batch, or cannot be read or written.
    """

    def __init__(self, path: str, resume: bool, prompt_tokens: Sequence[int | None]) -> None:
        self._path = Path(path)
        self.done: set[int] = set()
        try:
            if resume and self._path.exists():
                if not self._path.is_file():
                    raise PymlError(f"{path}: expected a regular file to go on with")
                self._keep_finished(prompt_tokens)
            self._file: BinaryIO = self._path.open("ab" if resume else "xb", buffering=0)
        except FileExistsError:
            raise PymlError(f"{path}: the file exists (--resume goes on with it)") from None
        except OSError as error:
            raise PymlError(f"{path}: cannot be written: {error.strerror}") from None

    def write(self, line: str) -> None:
        """Add a line; PymlError if it cannot be written."""
        data = memoryview(line.encode())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise PymlError(f"{self._path}: cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _keep_finished(self, prompt_tokens: Sequence[int | None]) -> None:
        """Make the finished lines the file's only ones, at once or not at all."""
        with new_file(self._path) as kept, self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):  # it was not written to its end
                    break
                index, reason = self._checked(number, line, prompt_tokens)
                if reason in FINISHED and index not in self.done:
                    self.done.add(index)
                    kept.write(line)

    def _checked(self, number: int, line: bytes, prompt_tokens: Sequence[int | None]) -> tuple[int, str]:
        """Index and finish reason of a line."""
        where = f"{self._path} line {number}"
        try:
            found = json.loads(line)
            index, reason = found["index"], found["finish_reason"]
            expected = prompt_tokens[index] if index >= 0 else None
            tokens = expected if reason == FAILED else found["prompt_tokens"]
        except (ValueError, RecursionError, KeyError, TypeError, IndexError):
            raise PymlError(f"{where}: expected a result of this batch of {len(prompt_tokens)} prompts") from None
        if tokens != expected:
            wanted = "no text" if expected is None else f"{expected} prompt_tokens"
            raise PymlError(
                f"{where}: expected {wanted} for index {index}, found {quoted(tokens)}: it is of another batch"
            )
        return index, reason
