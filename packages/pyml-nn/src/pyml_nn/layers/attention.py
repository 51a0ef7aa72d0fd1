"""Self-attention: projection to q, k and v, their preparation, attention over the KV cache, output projection.

Letters: T = tokens of a run, H = key/value heads, D = head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .linear import Linear
from .norm import RMSNorm

if TYPE_CHECKING:
    from pyml_core.records import Buffer

    from .scratch import Scratch


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention with grouped heads.

    Source: Vaswani et al. 2017, arXiv 1706.03762; Ainslie et al. 2023, arXiv 2305.13245.

    Attributes:
        qkv: from the hidden size to [q heads | k heads | v heads], ``(n_heads + 2 H) * D`` wide.
        out: from ``n_heads * D`` to the hidden size.
        n_heads: query heads; H and D are the program's KV layout's.
        scale: factor of the scores, usually ``D ** -0.5``.
        window: number of positions that a token sees, itself included; 0: all.
        soft_cap: scores become ``cap * tanh(score / cap)``; 0: they are not capped.
        q_norm: norm of every query head (QK-norm), or of all query heads together, or None.
        k_norm: norm of every key head, or of all key heads together, or None.
        bidirectional: tokens attend to all positions of their text, not only to those up to their own.
    """

    qkv: Linear
    out: Linear
    n_heads: int
    scale: float
    window: int = 0
    soft_cap: float = 0.0
    q_norm: RMSNorm | None = None
    k_norm: RMSNorm | None = None
    bidirectional: bool = False

    def declare(
        self,
        scratch: Scratch,
        name: str,
        x: Buffer,
        out: Buffer,
        accumulate: bool,
        layer: int,
        rope: Buffer | None = None,
    ) -> Buffer:
        """Declare attention of x (T, hidden): it writes to ``out``, or adds to it with ``accumulate``.

        ``rope`` contains the angles of the run's positions; None: no rotation.
        """
        program = scratch.program
        head_dim = self.out.matrices[0].shape[1] // self.n_heads
        norm = self.q_norm or self.k_norm
        qkv = self.qkv.declare(scratch, f"{name}.qkv", x, scratch.buffer("qkv", self.qkv.width))
        program.prepare_qkv(
            f"{name}.prepare", qkv, layer, self.n_heads, rope,
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            1e-6 if norm is None else norm.eps,
        )  # fmt: skip
        attended = scratch.buffer("attended", self.n_heads * head_dim)
        program.attention(
            f"{name}.attend", qkv, layer, self.n_heads, attended,
            self.scale, self.window, self.soft_cap, self.bidirectional,
        )  # fmt: skip
        return self.out.declare(scratch, f"{name}.out", attended, out, accumulate)
