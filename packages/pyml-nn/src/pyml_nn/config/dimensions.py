"""The part of a configuration that every decoder has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ..errors import ConfigError
from . import gguf, hf


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes of a decoder; architectures add their own fields.

    Attributes:
        HF: keys of ``config.json``, one row for each field without a default.
        GGUF: keys of GGUF metadata, one row for each field without a default.
        vocab_size: rows of the embedding and of the head.
        context_length: maximum number of positions of a sequence.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward.
        n_layers: number of blocks.
        n_heads: query heads of a layer.
        n_kv_heads: key/value heads of a layer; query heads share them in equal groups.
        head_dim: width of a head; ``n_heads * head_dim`` need not be ``hidden_size``.
        norm_eps: number that norms add to the variance or mean square.
        tie_word_embeddings: whether the embedding serves as the head of weights that have none.
    """

    HF: ClassVar[hf.Table]
    GGUF: ClassVar[gguf.Table]

    vocab_size: int
    context_length: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    norm_eps: float
    tie_word_embeddings: bool

    @classmethod
    def from_hf(cls, values: Mapping[str, Any], where: str = "config.json", allow_unknown: bool = False) -> Self:
        """Read a ``config.json``; messages call it ``where``.

        With ``allow_unknown``, an unknown key that may change the mathematics is ignored with a warning.

        Raises:
            ConfigError: it is malformed, or asks for something that this architecture's file does not compute.
        """
        return cls(**cls.HF.read(values, where, allow_unknown))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], allow_unknown: bool = False) -> Self:
        """Read the metadata of a GGUF file; ``allow_unknown`` as in :meth:`from_hf`.

        Raises:
            ConfigError: it is malformed, or asks for something that this architecture's file does not compute.
        """
        return cls(**cls.GGUF.read(metadata, allow_unknown))

    @property
    def long_from(self) -> int | None:
        """Longer sequences use the second set of RoPE frequencies (LongRoPE); None: there is one set."""
        return None

    @property
    def experts_per_token(self) -> int:
        """Number of experts that each token is sent to; 0: the feed-forward is not a mixture of experts."""
        return 0

    @property
    def expert_width(self) -> int:
        """Width inside an expert of a mixture."""
        return self.intermediate_size

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"attention heads: {self.n_heads} query heads do not divide into {self.n_kv_heads} key/value heads"
            )
