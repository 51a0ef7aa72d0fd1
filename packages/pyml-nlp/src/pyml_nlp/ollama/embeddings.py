"""Requests for embeddings of Ollama's API, and their answers.

``/api/embed`` has vectors with a length of 1, as of Ollama; ``/api/embeddings``, its older form, those of the model.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from ..embedding.embedder import Embedder
from ..openai.embeddings import check_dimensions, input_ids, json_rows, unit
from ..openai.fields import Fields

F32Array = npt.NDArray[np.float32]

_HINTS = ("model", "name", "keep_alive", "options")


def embed_ids(body: Any, embedder: Embedder, ignored: list[str]) -> list[list[int]]:
    """The token ids of a request of ``/api/embed``; none: the model is to be loaded.

    Raises:
        ArgumentError, TextError, ContextOverflowError: as of :func:`.openai.embeddings.embeddings_request`.
    """
    fields = Fields(body)
    given, truncate = fields.any("input"), fields.flag("truncate", True)
    check_dimensions(fields, embedder)
    ignored += fields.end(_HINTS)
    return [] if given in (None, "", []) else input_ids(given, embedder, truncate)


def prompt_ids(body: Any, embedder: Embedder, ignored: list[str]) -> list[list[int]]:
    """The token ids of a request of ``/api/embeddings``: of one text, or none.

    Raises:
        ArgumentError, TextError: as of :func:`.openai.embeddings.embeddings_request`.
    """
    fields = Fields(body)
    given = fields.text("prompt")
    ignored += fields.end(_HINTS)
    return [] if not given else embedder.token_ids([given])


def embed_answer(vectors: F32Array, tokens: int, model: str, nanoseconds: int) -> bytes:
    """The answer of ``/api/embed`` as JSON.

    Args:
        vectors: (n, D).
        tokens: of all texts.
        model: the model's name.
        nanoseconds: that it took.
    """
    rows = ",".join(json_rows(unit(vectors)))
    head = f'"model":{json.dumps(model)},"embeddings":[{rows}],"total_duration":{nanoseconds},"load_duration":0'
    return f'{{{head},"prompt_eval_count":{tokens}}}'.encode()


def prompt_answer(vectors: F32Array) -> bytes:
    """The answer of ``/api/embeddings`` as JSON."""
    rows = json_rows(vectors) or ["[]"]
    return f'{{"embedding":{rows[0]}}}'.encode()
