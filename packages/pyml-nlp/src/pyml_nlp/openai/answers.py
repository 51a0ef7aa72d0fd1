"""Bodies of answers, of generated texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..generation.completion import LENGTH, Completion, StreamDecoder
from ..identifiers import hex_id

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

Logprobs = Sequence[tuple[float | None, tuple[tuple[int, float], ...]]]


@dataclass(frozen=True)
class Head:
    """What an answer and its chunks have in common.

    Attributes:
        kind: ``"chat.completion"`` or ``"text_completion"``.
        model: the model's name.
        fingerprint: identifies the model, the version and the kernels.
        id: of the answer.
        created: seconds since 1970.
    """

    kind: str
    model: str
    fingerprint: str
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        prefix = "chatcmpl" if self.kind == "chat.completion" else "cmpl"
        object.__setattr__(self, "id", self.id or f"{prefix}-{hex_id()}")

    def answer(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A whole answer."""
        return self._body(self.kind, choices, more)

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """A part of a streamed answer."""
        kind = f"{self.kind}.chunk" if self.kind == "chat.completion" else self.kind
        return self._body(kind, choices, more)

    def _body(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
            **more,
        }


def usage(completions: Sequence[Completion], n: int, reasoning_tokens: int = 0) -> dict[str, Any]:
    """The counts of tokens of all choices; a prompt counts once for its ``n`` choices."""
    prompts = sum(len(completion.prompt) for completion in completions[::n])
    cached = sum(min(completion.reused for completion in completions[i : i + n]) for i in range(0, len(completions), n))
    generated = sum(len(completion.tokens) for completion in completions)
    return {
        "prompt_tokens": prompts,
        "completion_tokens": generated,
        "total_tokens": prompts + generated,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning_tokens},
    }


def finish_reason(completion: Completion) -> str:
    """``"stop"`` or ``"length"``."""
    return "length" if completion.finish_reason == LENGTH else "stop"


def own_fields(completions: Sequence[Completion]) -> dict[str, Any]:
    """What OpenAI does not report: times, and the seed of each choice, with which it can be had again.

    ``seeds`` has None for a text that needs none; ``queue_ms`` is the longest wait for a place; ``drafted`` and
    ``accepted`` count drafted tokens, and those of them that were right.
    """
    waits = [(one.admitted_at or one.submitted_at) - one.submitted_at for one in completions]
    seeds = [completion.options.sampling.seed for completion in completions]
    return {
        "timings": timings(completions),
        "pyml": {
            "seeds": seeds,
            "queue_ms": round(1e3 * max(waits, default=0.0), 3),
            "drafted": sum(one.drafted for one in completions),
            "accepted": sum(one.accepted for one in completions),
        },
    }


def timings(completions: Sequence[Completion]) -> dict[str, Any]:
    """Tokens and times of the texts so far, as llama.cpp names them. Tokens are summed, the longest times are taken."""
    prompt_n = sum(len(one.prompt) - one.reused for one in completions)
    predicted_n = sum(len(one.tokens) for one in completions)
    return {
        "cache_n": sum(one.reused for one in completions),
        **_rates("prompt", prompt_n, max([one.prefill_ms for one in completions], default=0.0)),
        **_rates("predicted", predicted_n, max([one.decode_ms for one in completions], default=0.0)),
    }


def _rates(name: str, count: int, ms: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": round(ms, 3),
        f"{name}_per_token_ms": round(ms / count, 3) if count else 0.0,
        f"{name}_per_second": round(1e3 * count / ms, 3) if ms else 0.0,
    }


# ---- log probabilities


def written_tokens(tokenizer: Tokenizer, completion: Completion) -> int:
    """How many of a text's tokens are part of it: without one that ends it, and those behind a stop string."""
    tokens = completion.tokens
    if isinstance(completion.stopped_by, int):
        return len(tokens) - 1
    if completion.stopped_by is None:
        return len(tokens)
    pieces = [tokenizer.token_bytes(token) for token in tokens]
    size, whole = len(completion.text.encode()), b"".join(pieces)
    if whole.startswith(b" ") and not completion.text.startswith(" "):  # of a tokenizer that begins texts with one
        size += 1
    begin = 0
    for count, piece in enumerate(pieces):
        if begin >= size:
            return count
        begin += len(piece)
    return len(tokens)


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Logprobs) -> dict[str, Any]:
    """Log probabilities in the form of chat answers."""
    return {
        "content": [
            {
                **_entry(tokenizer, token, logprob),
                "top_logprobs": [_entry(tokenizer, other, value) for other, value in top],
            }
            for token, (logprob, top) in zip(tokens, logprobs, strict=False)
        ],
        "refusal": None,
    }


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Logprobs, start: int, decoder: StreamDecoder | None = None
) -> dict[str, Any]:
    """Log probabilities in the form of completions.

    Args:
        tokenizer: of the model.
        tokens: of the text.
        logprobs: for each token its own, None for the first of a prompt, and those of the most probable tokens.
        start: characters of the choice's text before these tokens.
        decoder: has decoded the tokens before these; None: there are none.
    """
    offsets, place = [], start
    decoder = decoder or tokenizer.stream_decoder(skip_special=False)
    for token in tokens:
        offsets.append(place)
        place += len(decoder.push(token))
    tops: list[dict[str, float] | None] = []
    for logprob, top in logprobs:
        named: dict[str, float] = {}
        for token, value in top:  # most probable first: of two that are spelled alike, the larger one is kept
            named.setdefault(_spelled(tokenizer, token), value)
        tops.append(None if logprob is None else named)
    return {
        "tokens": [_spelled(tokenizer, token) for token in tokens],
        "token_logprobs": [logprob for logprob, _ in logprobs],
        "top_logprobs": tops,
        "text_offset": offsets,
    }


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; one that is no whole characters as ``bytes:\\xe2\\x99``, as OpenAI writes it."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
