"""An embedding model: the object that :func:`pyml_nlp.load_embedder` returns.

Letters: D = dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted
from pyml_core.pickling import OfOneProcess
from pyml_nn import ContextOverflowError

from ..errors import ArgumentError, ModelFileError
from ..tokenizer.base import TextError
from ..values import check_ids, flag, is_list, token_ids
from .pooling import POOLING, normalized
from .settings import EmbeddingSettings

if TYPE_CHECKING:
    from pyml_nn.encoder import Encoder

    from ..tokenizer import Tokenizer

F32Array = npt.NDArray[np.float32]

GROUP = 64
"""Number of texts whose hidden states are in memory at a time."""


class Embedder(OfOneProcess, instead="load it in each process"):
    """Texts in, vectors out. A context manager, which closes it.

    Args:
        encoder: ids to hidden states.
        tokenizer: texts to ids.
        settings: pooling, normalisation, prompts.
        name: the model's name in messages.

    Attributes:
        encoder, tokenizer, settings, name: as given.
        max_tokens: maximum number of tokens of a text, special ones included; of longer texts the beginning is used.
        dimensions: D, the length of a vector.

    Several threads may use it: runs of the model take turns.
    """

    def __init__(self, encoder: Encoder[Any], tokenizer: Tokenizer, settings: EmbeddingSettings, name: str) -> None:
        self.encoder, self.tokenizer, self.settings, self.name = encoder, tokenizer, settings, name
        positions: int = encoder.context_length
        self.max_tokens = positions if settings.max_tokens is None else min(settings.max_tokens, positions)
        self.dimensions: int = encoder.config.hidden_size
        for number, dense in enumerate(settings.dense):
            if dense.weight.shape[1] != self.dimensions:
                raise ModelFileError(
                    f"{name}: Dense {number}: expected {self.dimensions} in_features, got {dense.weight.shape[1]}"
                )
            self.dimensions = dense.weight.shape[0]

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, dimensions={self.dimensions}, max_tokens={self.max_tokens})"

    def embed(self, texts: Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None) -> F32Array:
        """Return the vector of each text: float32 (n, D).

        Texts of similar lengths run together; the vector of a text does not depend on the others, bit for bit.

        Args:
            texts: the texts; of one with more than :attr:`max_tokens` tokens the beginning is used.
            prompt: a text to put before each of them; None: that of ``prompt_name``.
            prompt_name: the name of one of the model's prompts; None: the model's default, if it has one.

        Raises:
            ArgumentError: ``texts`` is no list of texts, or the model has no such prompt.
            TextError: a text is too long to be tokenized, or no valid Unicode.
            Cancelled: :meth:`cancel` was called.
        """
        return self.embed_ids(self.token_ids(texts, prompt=prompt, prompt_name=prompt_name))

    def token_ids(
        self, texts: Sequence[str], *, prompt: str | None = None, prompt_name: str | None = None, truncate: bool = True
    ) -> list[list[int]]:
        """Return the token ids of each text, the prompt's and special ones included.

        Args:
            texts, prompt, prompt_name: as of :meth:`embed`.
            truncate: whether texts with more than :attr:`max_tokens` tokens are cut.

        Raises:
            ArgumentError, TextError: as of :meth:`embed`.
            ContextOverflowError: a text is too long, and ``truncate`` is false.
        """
        if isinstance(texts, str) or not is_list(texts) or not all(isinstance(text, str) for text in texts):
            raise ArgumentError(f"must be a list of texts, got {quoted(texts)}", "texts")
        before, truncate = self._prompt(prompt, prompt_name), flag("truncate", truncate)
        return [self._ids(f"texts[{number}]", before + text, truncate) for number, text in enumerate(texts)]

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> F32Array:
        """Return the vector of each text by its token ids, special ones included: float32 (n, D).

        Raises:
            ArgumentError: ``ids`` are no lists of token ids, or a text has none, or one outside the vocabulary.
            ContextOverflowError: a text has more ids than the model has positions.
            Cancelled: :meth:`cancel` was called.
        """
        if not is_list(ids) or not all(is_list(one) and len(one) for one in ids):
            raise ArgumentError(f"must be a list of lists of token ids, got {quoted(ids)}", "ids")
        for number, one in enumerate(ids):
            check_ids(f"ids[{number}]", token_ids(f"ids[{number}]", one), self.encoder.vocab_size)
        found = np.empty((len(ids), self.dimensions), np.float32)
        pool = POOLING[self.settings.pooling]
        order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
        for start in range(0, len(order), GROUP):
            group = order[start : start + GROUP]
            for number, hidden in zip(group, self.encoder.encode([ids[number] for number in group]), strict=True):
                vector = pool(hidden)
                for dense in self.settings.dense:
                    vector = dense(vector)
                found[number] = normalized(vector) if self.settings.normalize else vector
        return found

    @property
    def closed(self) -> bool:
        """Whether the weights have been freed."""
        return self.encoder.closed

    def cancel(self) -> None:
        """Make all running calls of :meth:`embed` raise :class:`pyml_core.errors.Cancelled`; from any thread."""
        self.encoder.cancel()

    def close(self) -> None:
        """Free the weights. Running calls in other threads raise Cancelled."""
        self.encoder.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise ArgumentError(f"must be a text, got {quoted(prompt)}", "prompt")
            if name is not None:
                raise ArgumentError("cannot be given together with prompt", "prompt_name")
            return prompt
        name = self.settings.default_prompt if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.settings.prompts:
            names = ", ".join(self.settings.prompts) or "none: this model has no prompts"
            raise ArgumentError(f"must be one of {names}, got {quoted(name)}", "prompt_name")
        return self.settings.prompts[name]

    def _ids(self, where: str, text: str, truncate: bool) -> list[int]:
        """The ids of a text, cut at :attr:`max_tokens`, between those that the tokenizer puts around a text."""
        metadata = self.tokenizer.metadata
        try:
            found = self.tokenizer.encode(text.lower() if self.settings.lower_case else text, add_special=False)
        except TextError as error:
            raise TextError(f"{where}: {error}") from None
        around = len(metadata.prefix) + len(metadata.suffix)
        room = max(0, self.max_tokens - around)
        if len(found) > room and not truncate:
            raise ContextOverflowError(f"{where}: expected at most {self.max_tokens} tokens, got {len(found) + around}")
        return [*metadata.prefix, *found[:room], *metadata.suffix]
