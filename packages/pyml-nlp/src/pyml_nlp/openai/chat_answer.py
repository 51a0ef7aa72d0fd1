"""One choice of an answer to a chat, as deltas of a stream or as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..answer import AnswerParser, CallArguments, CallBegin, CallEnd, Part, ReasoningPart, TextPart
from ..generation.completion import Completion, Step
from . import answers
from .requests import Common

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

Choice = dict[str, Any]

REASONING_FIELDS = ("reasoning_content",)
"""Names of the fields of messages and deltas that have the reasoning."""


class ChatChoice:
    """One choice. Its steps are pushed as they come; nothing here waits.

    Args:
        tokenizer: of the model.
        common: of the request.
        index: number of the choice.
        parser: divides the text; None: all of it is content.
        reasoning_fields: names of the fields that have the reasoning.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        common: Common,
        index: int = 0,
        parser: AnswerParser | None = None,
        reasoning_fields: Sequence[str] = REASONING_FIELDS,
    ) -> None:
        self._tokenizer = tokenizer
        self._common = common
        self._index = index
        self._parser = parser
        self._fields = tuple(reasoning_fields)
        self._begun = False
        self._unsent: list[tuple[int, Any]] = []  # log probabilities of tokens whose text has not been sent
        self._sent = 0  # log probabilities
        self._ids: list[int] = []  # tokens that have not been sent, if their ids are wanted

    @property
    def reasoning_tokens(self) -> int:
        """Number of tokens of the reasoning so far."""
        return 0 if self._parser is None else self._parser.reasoning_tokens

    # ---- parts, for other forms of answers

    def parts(self, *steps: Step) -> list[Part]:
        """What steps add to the answer."""
        if self._parser is None:
            text = steps[0].text if len(steps) == 1 else "".join([step.text for step in steps])
            return [TextPart(text)] if text else []
        found: list[Part] = []
        for step in steps:
            found += self._parser.push(step.token, step.text)
        return found

    def end_parts(self) -> list[Part]:
        """What was held back, at the end of the text."""
        return [] if self._parser is None else self._parser.finish()

    def finish_reason(self, completion: Completion) -> str:
        """``"stop"``, ``"length"`` or ``"tool_calls"``."""
        reason = answers.finish_reason(completion)
        return "tool_calls" if reason == "stop" and self._parser is not None and self._parser.calls else reason

    # ---- a stream

    def push(self, *steps: Step) -> list[Choice]:
        """The choices of chunks for one step, or for several that come together; the first one ever has the role."""
        if self._common.return_token_ids:
            self._ids += [step.token for step in steps]
        for step in steps:
            if step.logprob is not None:
                self._unsent.append((step.token, (step.logprob, step.top_logprobs or ())))
        return [*self._role(), *self._choices(self.parts(*steps))]

    def finish(self, completion: Completion) -> list[Choice]:
        """The last choices, at the end of the text: what was held back, and the reason of the end."""
        found = [*self._role(), *self._choices(self.end_parts())]
        if self._unsent:  # tokens of calls have no text of their own
            count = answers.written_tokens(self._tokenizer, completion)
            del self._unsent[max(0, count - self._sent) :]
        return [*found, self._choice({}, self.finish_reason(completion))]

    def _role(self) -> list[Choice]:
        if self._begun:
            return []
        self._begun = True
        delta = {"role": "assistant", "content": ""}
        return [{"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}]

    def _choices(self, parts: Sequence[Part]) -> list[Choice]:
        return [self._choice(delta) for delta in self._deltas(parts)]

    def _deltas(self, parts: Sequence[Part]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        last: type[Part] | None = None
        for part in parts:
            if isinstance(part, CallEnd):
                continue
            delta = self._delta(part)
            if last is type(part) and isinstance(part, TextPart | ReasoningPart):
                for key, text in delta.items():
                    found[-1][key] += text
            elif last is CallArguments and isinstance(part, CallArguments) and _call(found[-1])["index"] == part.index:
                _call(found[-1])["function"]["arguments"] += part.text
            else:
                found.append(delta)
            last = type(part)
        return found

    def _delta(self, part: Part) -> dict[str, Any]:
        match part:
            case TextPart(text):
                return {"content": text}
            case ReasoningPart(text):
                return dict.fromkeys(self._fields, text)
            case CallBegin(index, number, name):
                function = {"name": name, "arguments": ""}
                return {"tool_calls": [{"index": index, "id": number, "type": "function", "function": function}]}
            case CallArguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case CallEnd():
                return {}

    def _choice(self, delta: dict[str, Any], finish_reason: str | None = None) -> Choice:
        choice = {"index": self._index, "delta": delta, "logprobs": self._logprobs(), "finish_reason": finish_reason}
        if self._common.return_token_ids:
            choice["token_ids"], self._ids = self._ids, []
        return choice

    def _logprobs(self) -> dict[str, Any] | None:
        """The log probabilities of the tokens up to here that have not been sent; None if there are none."""
        if not self._unsent:
            return None
        tokens, values = zip(*self._unsent, strict=True)
        self._sent += len(self._unsent)
        self._unsent.clear()
        return answers.chat_logprobs(self._tokenizer, tokens, values)

    # ---- a whole answer

    def whole(self, steps: Iterable[Step], completion: Completion) -> Choice:
        """The choice of an answer that is not streamed.

        Args:
            steps: all steps of the text.
            completion: the text, which has ended.
        """
        choice: Choice = {"index": self._index, "message": self._message(steps, completion), "logprobs": None}
        if self._common.options.logprobs is not None:
            tokens = completion.tokens[: answers.written_tokens(self._tokenizer, completion)]
            choice["logprobs"] = answers.chat_logprobs(self._tokenizer, tokens, completion.logprobs)
        choice["finish_reason"] = self.finish_reason(completion)
        if self._common.return_token_ids:
            choice["token_ids"] = list(completion.tokens)
        return choice

    def _message(self, steps: Iterable[Step], completion: Completion) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": completion.text, "refusal": None}
        if self._parser is None:
            return message
        parts = [*(part for step in steps for part in self._parser.push(step.token, step.text)), *self.end_parts()]
        message["content"] = "".join([part.text for part in parts if isinstance(part, TextPart)])
        reasoning = "".join([part.text for part in parts if isinstance(part, ReasoningPart)])
        if reasoning:
            message |= dict.fromkeys(self._fields, reasoning)
        calls = [_call(self._delta(part)) for part in parts if isinstance(part, CallBegin)]
        if calls:
            for call in calls:
                index = call.pop("index")
                texts = [part.text for part in parts if isinstance(part, CallArguments) and part.index == index]
                call["function"]["arguments"] = "".join(texts)
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
        return message


def _call(delta: dict[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = delta["tool_calls"][0]
    return call
