"""Log probabilities of tokens, as results in JSON have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tokenizer import Tokenizer


def logprob_entries(
    tokenizer: Tokenizer, tokens: Iterable[int], logprobs: Iterable[tuple[float | None, Sequence[tuple[int, float]]]]
) -> list[dict[str, Any]]:
    """The entry of each token.

    Args:
        tokenizer: of the model.
        tokens: the ids.
        logprobs: of each its log probability, and the most probable tokens in its place with theirs.
    """
    return [
        {**_token(tokenizer, token, logprob), "top": [_token(tokenizer, *other) for other in top]}
        for token, (logprob, top) in zip(tokens, logprobs, strict=True)
    ]


def _token(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    text = data.decode(errors="replace")
    in_bytes = {} if text.encode() == data else {"bytes": list(data)}  # a part of a character
    return {"token": token, "text": text, **in_bytes, "logprob": None if logprob is None else round(logprob, 6)}
