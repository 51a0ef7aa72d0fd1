"""Granite 3 and 4.1 (dense): Llama with factors of the embeddings, branches, scores and logits.

Branches are added to the residual stream x with a factor m: ``x += m * branch(norm(x))``. This model computes
``y = x / m`` instead, for which ``y += branch(norm(y))``: the embeddings are divided by m, and the epsilon of the norms
by ``m**2``, which makes ``norm(y)`` equal to ``norm(x)``.

Source: IBM 2024, Granite 3.0 Language Models; Yang et al. 2022, arXiv 2203.03466 (the factors); transformers'
``modeling_granite.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import decoder
from ..config import Fields, Key, Known, constant, gguf, hf
from ..config.table import Reader
from ..layers import PreNormBlock, RMSNorm
from ..weights import Weights
from . import llama

LOW, HIGH = 1e-6, 1e6  # of a factor


def _factor(name: str, default: float | None = None) -> Reader:
    """Read a factor of a GGUF file; as in llama.cpp, 0 counts as absent. None: ``head_dim ** -0.5``."""

    def reader(fields: Fields, known: Known) -> float:
        absent = known["head_dim"] ** -0.5 if default is None else default
        value = fields.number(name, 0, HIGH, default=0)
        return fields.number(name, LOW, HIGH) if value else absent

    return reader


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Configuration of a Granite model.

    Attributes:
        embedding_factor: factor of the embeddings.
        branch_factor: factor of the output of attention and feed-forward, m above.
        score_factor: factor of the scores.
        logit_divisor: divisor of the logits.
    """

    HF = hf.Table(
        ("granite",),
        {
            **llama.Config.HF.rows,
            "window": constant(0),
            "embedding_factor": Key("embedding_multiplier", float, LOW, HIGH, 1.0),
            "branch_factor": Key("residual_multiplier", float, LOW, HIGH, 1.0),
            "score_factor": Key("attention_multiplier", float, LOW, HIGH, 1.0),
            "logit_divisor": Key("logits_scaling", float, LOW, HIGH, 1.0),
        },
    )
    GGUF = gguf.Table(
        "granite",
        {
            **llama.Config.GGUF.rows,
            "window": constant(0),
            "embedding_factor": _factor("embedding_scale", 1.0),
            "branch_factor": _factor("residual_scale", 1.0),
            "score_factor": _factor("attention.scale"),
            "logit_divisor": Key("logit_scale", float, LOW, HIGH),
        },
        fixed={"rope.scaling.finetuned": True},  # here llama.cpp reads it as whether there is a rotation
    )

    embedding_factor: float
    branch_factor: float
    score_factor: float
    logit_divisor: float


class Model(llama.Model):
    """A Granite model; see :class:`pyml_nn.Model`. Its traced hidden states are those of the source, divided by m."""

    config: Config

    def norm(self, weights: Weights, name: str) -> RMSNorm:
        """Read one norm."""
        return decoder.rms_norm(weights, name, self.config.norm_eps / self.config.branch_factor**2)

    def final_norm(self, weights: Weights) -> RMSNorm:
        """Read the norm before the head, with the divisor of the logits."""
        norm = self.norm(weights, "final_norm")
        return RMSNorm(norm.weight / np.float32(self.config.logit_divisor), norm.eps)

    @property
    def embedding_scale(self) -> float:
        """Factor of the embeddings."""
        return self.config.embedding_factor / self.config.branch_factor

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, scale=config.score_factor, interleaved=weights.gguf),
            self.norm(weights, f"{name}.feed_forward.norm"),
            decoder.read_gated(weights, layer, config.activation),
        )
