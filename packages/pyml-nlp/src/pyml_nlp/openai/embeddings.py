"""Requests for embeddings, and their answers.

Source: OpenAI's OpenAPI description (openai/openai-openapi); ``truncate``, ``prompt`` and ``prompt_name`` are those of
text-embeddings-inference and sentence-transformers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import PymlError, quoted
from pyml_nn import ContextOverflowError

from ..embedding.embedder import Embedder
from ..errors import ArgumentError
from ..values import check_ids, is_list, seconds, text, token_ids, whole
from .fields import Fields

F32Array = npt.NDArray[np.float32]

MAX_INPUTS = 2048
"""Most texts of a request, as of OpenAI."""

EMBEDDING_FIELDS = frozenset({
    "input", "model", "encoding_format", "dimensions", "prompt", "prompt_name", "truncate", "timeout",
})  # fmt: skip
EMBEDDING_HINTS = frozenset({"user", "metadata", "priority"})


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A request for vectors.

    Attributes:
        ids: of each text.
        base64: whether vectors are written as bytes in base64.
        timeout: seconds that it may take; None: no limit.
    """

    ids: list[list[int]]
    base64: bool = False
    timeout: float | None = None


def embeddings_request(body: Any, embedder: Embedder, ignored: list[str] | None = None) -> EmbeddingsRequest:
    """Read the body of a request of ``/v1/embeddings``.

    Args:
        body: the JSON object.
        embedder: the model.
        ignored: gets the names of unknown fields; None: an unknown field is an error.

    Raises:
        ArgumentError: a field is missing, unknown, out of range, or cannot be honoured.
        TextError: a text cannot be tokenized.
        ContextOverflowError: a text is too long, and ``truncate`` is false.
    """
    fields = Fields(body)
    fields.any("model")
    given = fields.required("input")
    form = fields.choice("encoding_format", ("float", "base64"), "float")
    check_dimensions(fields, embedder)
    prompt, name = fields.text("prompt"), fields.text("prompt_name")
    truncate = fields.flag("truncate", False)
    timeout = fields.take("timeout", seconds, None)
    fields.finish(EMBEDDING_FIELDS, EMBEDDING_HINTS, ignored)
    return EmbeddingsRequest(input_ids(given, embedder, truncate, prompt, name), form == "base64", timeout)


def check_dimensions(fields: Fields, embedder: Embedder) -> None:
    """Refuse a number of dimensions that is not the model's.

    Raises:
        ArgumentError: it is another one.
    """
    wanted = fields.take("dimensions", lambda name, value: whole(name, value, 1), embedder.dimensions)
    if wanted != embedder.dimensions:
        message = f"must be {embedder.dimensions}, the model's own: vectors are not shortened; got {wanted}"
        raise ArgumentError(message, "dimensions")


def input_ids(
    given: Any, embedder: Embedder, truncate: bool, prompt: str | None = None, prompt_name: str | None = None
) -> list[list[int]]:
    """The token ids of an ``input``: a text, token ids, or a list of either. Token ids are taken as they are.

    Raises:
        ArgumentError: it is none of them, or has too many texts.
        TextError, ContextOverflowError: as of :func:`embeddings_request`.
    """
    if isinstance(given, str):
        given = [given]
    if not is_list(given) or not given:
        raise ArgumentError(f"must be a text, token ids, or a list of them, got {quoted(given)}", "input")
    if all(type(one) is int for one in given):
        given = [given]
    if len(given) > MAX_INPUTS:
        raise ArgumentError(f"must have at most {MAX_INPUTS} texts, got {len(given)}", "input")
    if all(is_list(one) for one in given):
        if prompt is not None or prompt_name is not None:
            raise ArgumentError("is for texts, got token ids", "prompt" if prompt is not None else "prompt_name")
        return [_checked(f"input[{number}]", one, embedder, truncate) for number, one in enumerate(given)]
    texts = [text(f"input[{number}]", one) for number, one in enumerate(given)]
    try:
        return embedder.token_ids(texts, prompt=prompt, prompt_name=prompt_name, truncate=truncate)
    except PymlError as error:
        message = str(error)
        if type(error) is ArgumentError or not message.startswith("texts["):
            raise
        raise type(error)("input" + message.removeprefix("texts")) from None


def _checked(where: str, given: Any, embedder: Embedder, truncate: bool) -> list[int]:
    if len(given) > embedder.max_tokens and not truncate:  # before each of a million ids is checked
        raise ContextOverflowError(f"{where}: expected at most {embedder.max_tokens} tokens, got {len(given)}")
    ids = list(token_ids(where, given[: embedder.max_tokens]))
    if not ids:
        raise ArgumentError("must have a token id, got none", where)
    check_ids(where, ids, embedder.encoder.vocab_size)
    return ids


def embeddings_answer(vectors: F32Array, request: EmbeddingsRequest, model: str) -> bytes:
    """The answer as JSON.

    Args:
        vectors: of the request's texts, (n, D).
        request: what was asked for.
        model: the model's name.
    """
    rows = base64_rows(vectors) if request.base64 else json_rows(vectors)
    items = [f'{{"object":"embedding","index":{number},"embedding":{row}}}' for number, row in enumerate(rows)]
    count = sum(map(len, request.ids))
    usage = f'{{"prompt_tokens":{count},"total_tokens":{count}}}'
    name = json.dumps(model)
    return f'{{"object":"list","data":[{",".join(items)}],"model":{name},"usage":{usage}}}'.encode()


def json_rows(vectors: F32Array) -> list[str]:
    """Each vector as a JSON list; numbers have the nine digits that tell all of float32 apart.

    Raises:
        PymlError: a vector is not finite, which JSON cannot say.
    """
    check_finite(vectors)
    return [f"[{','.join(map('%.9g'.__mod__, row))}]" for row in vectors.tolist()]


def base64_rows(vectors: F32Array) -> list[str]:
    """Each vector as a JSON text: its bytes, float32 with the low byte first, in base64."""
    return [f'"{base64.b64encode(row.tobytes()).decode()}"' for row in vectors.astype("<f4")]


def check_finite(vectors: F32Array) -> None:
    """Raise PymlError unless all numbers are finite."""
    if not np.isfinite(vectors).all():
        number = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise PymlError(f"the vector of text {number} is not finite: the model's weights are damaged")


def unit(vectors: Sequence[Any] | F32Array) -> F32Array:
    """The vectors divided by their lengths, which are at least 1e-12: (n, D)."""
    found = np.asarray(vectors, np.float64)
    lengths = np.sqrt(np.square(found).sum(axis=-1, keepdims=True))
    return np.asarray(found / np.maximum(lengths, 1e-12), np.float32)
