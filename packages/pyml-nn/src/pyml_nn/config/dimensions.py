"""The sizes that every decoder has, and their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ..errors import ConfigError

MAX_LAYERS = 1024

MAX_HEADS = 4096

MAX_WIDTH = 1 << 20

MAX_VOCAB = 1 << 24

MAX_CONTEXT = 1 << 24  # positions beyond are no longer exact in float32, which RoPE computes in


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """The sizes that every decoder has; architectures add their own fields.

    Attributes:
        vocab_size: rows of the embedding and of the head.
        context_length: most positions that the model was made for.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the feed-forward.
        n_layers: number of blocks.
        n_heads: query heads a layer.
        n_kv_heads: key/value heads a layer; query heads share them in equal groups.
        head_dim: width of a head; ``n_heads * head_dim`` need not be ``hidden_size``.
        norm_eps: what norms add to the variance or mean square.
        tie_word_embeddings: whether a head that the weights lack is the embedding.
    """

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

    @property
    def long_from(self) -> int | None:
        """Sequences of more tokens take the second set of RoPE frequencies (LongRoPE); None: there is one set."""
        return None

    @property
    def experts_per_token(self) -> int:
        """Experts that every token is sent to; 0: the feed-forward is no mixture."""
        return 0

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"attention heads: {self.n_heads} query heads do not divide into {self.n_kv_heads} key/value heads"
            )


class Sizes(TypedDict):
    """The fields of :class:`Dimensions`, as :mod:`.hf` and :mod:`.gguf` read them."""

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
