"""One choice of an answer to a completion, as chunks of a stream or as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..generation.completion import Completion, Step, StreamDecoder
from . import answers
from .requests import Common

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

Choice = dict[str, Any]


class CompletionChoice:
    """One choice. Its steps are pushed as they come; nothing here waits.

    Args:
        tokenizer: of the model.
        common: of the request.
        index: number of the choice.
        before: text that precedes the generated one, of an echoed prompt.
        scores: log probabilities of the prompt's tokens, see :meth:`.LanguageModel.score`; None: they are not wanted.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        common: Common,
        index: int = 0,
        before: str = "",
        scores: Sequence[Any] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._common = common
        self._index = index
        self._before = before
        self._scores = scores
        self._place = len(before)
        self._unsent: list[tuple[int, Any]] = []
        self._ids: list[int] = []  # tokens that have not been sent, if their ids are wanted
        self._sent = 0  # log probabilities of generated tokens
        self._begun = False
        self._decoder: StreamDecoder | None = None  # of generated tokens with log probabilities

    reasoning_tokens = 0
    """There is no reasoning, other than in chats."""

    def push(self, *steps: Step) -> list[Choice]:
        """The choices of chunks for one step, or for several that come together."""
        if self._common.return_token_ids:
            self._ids += [step.token for step in steps]
        for step in steps:
            if step.logprob is not None:
                self._unsent.append((step.token, (step.logprob, step.top_logprobs or ())))
        text = steps[0].text if len(steps) == 1 else "".join([step.text for step in steps])
        return [*self._echo(), *([self._choice(text)] if text else [])]

    def finish(self, completion: Completion) -> list[Choice]:
        """The last choice, which has the reason of the end."""
        if self._unsent:  # of tokens without characters
            del self._unsent[max(0, self._count(completion) - self._sent) :]
        return [*self._echo(), self._choice("", answers.finish_reason(completion))]

    def _echo(self) -> list[Choice]:
        """The prompt, at the beginning of the text."""
        if self._begun:
            return []
        self._begun = True
        if not self._before and self._scores is None:
            return []
        choice: Choice = {"index": self._index, "text": self._before, "logprobs": None, "finish_reason": None}
        if self._scores is not None:
            choice["logprobs"] = self._prompt_logprobs(self._scores)
        return [choice]

    def _choice(self, text: str, finish_reason: str | None = None) -> Choice:
        """A choice of a chunk, with the log probabilities that have not been sent."""
        choice: Choice = {"index": self._index, "text": text, "logprobs": None, "finish_reason": finish_reason}
        if self._unsent:
            tokens, values = zip(*self._unsent, strict=True)
            if self._decoder is None:
                self._decoder = self._tokenizer.stream_decoder(skip_special=False)
            choice["logprobs"] = answers.completion_logprobs(
                self._tokenizer, tokens, values, self._place, self._decoder
            )
            self._sent += len(self._unsent)
            self._unsent.clear()
        self._place += len(text)
        if self._common.return_token_ids:
            choice["token_ids"], self._ids = self._ids, []
        return choice

    def whole(self, completion: Completion) -> Choice:
        """The choice of an answer that is not streamed; the text has ended."""
        choice: Choice = {
            "index": self._index,
            "text": self._before + completion.text,
            "logprobs": self._logprobs(completion),
            "finish_reason": answers.finish_reason(completion),
        }
        if self._common.return_token_ids:
            choice["token_ids"] = list(completion.tokens)
        return choice

    def _logprobs(self, completion: Completion) -> dict[str, Any] | None:
        if completion.options.logprobs is None:
            return None
        tokenizer = self._tokenizer
        count = self._count(completion)
        tokens, values = completion.tokens[:count], list(completion.logprobs[:count])
        found = answers.completion_logprobs(tokenizer, tokens, values, len(self._before))
        if self._scores is None:
            return found
        first = self._prompt_logprobs(self._scores)
        return {key: [*first[key], *found[key]] for key in found}

    def _count(self, completion: Completion) -> int:
        """How many generated tokens have log probabilities.

        After an echo, a token that ends the text does: lm-eval removes one entry, that of the token it had to ask for.
        """
        ended = self._scores is not None and isinstance(completion.stopped_by, int)
        return answers.written_tokens(self._tokenizer, completion) + ended

    def _prompt_logprobs(self, scores: Sequence[Any]) -> dict[str, Any]:
        values = [(score.logprob, score.top_logprobs) for score in scores]
        return answers.completion_logprobs(self._tokenizer, [score.token for score in scores], values, 0)
