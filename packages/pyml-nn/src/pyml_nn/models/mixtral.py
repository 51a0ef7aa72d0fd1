"""Mixtral: Mistral with a mixture of experts as the feed-forward. GGUF files call it ``llama``, with experts.

Source: Jiang et al. 2024, arXiv 2401.04088; transformers' ``modeling_mixtral.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyml_core.ops.experts import MAX_EXPERTS

from .. import decoder, parts
from ..config import Key, gguf, hf
from ..errors import ConfigError
from ..layers import Expert, MixtureOfExperts, PreNormBlock
from ..weights import Spec, Weights


@dataclass(frozen=True, kw_only=True)
class Config(decoder.Config):
    """Configuration of a Mixtral model.

    Attributes:
        n_experts: experts of every layer.
        n_chosen: number of experts that each token is sent to.
        window: number of positions that a token sees, itself included; 0: all.
    """

    HF = hf.Table(
        ("mixtral",),
        {
            **hf.SIZES,
            "norm_eps": hf.eps(1e-5),
            "rope": hf.rope(1_000_000.0),
            "n_experts": Key("num_local_experts", int, 1, MAX_EXPERTS, 8),
            "n_chosen": Key("num_experts_per_tok", int, 1, MAX_EXPERTS, 2),
            "activation": hf.ACTIVATION,
            "window": hf.window(),
        },
        harmless=("output_router_logits", "router_jitter_noise"),  # for training
    )
    GGUF = gguf.Table(
        "llama",
        {
            **gguf.SIZES,
            "rope": gguf.rope(),
            "n_experts": Key("expert_count", int, 1, MAX_EXPERTS),
            "n_chosen": gguf.PerLayer("expert_used_count", MAX_EXPERTS),
            "window": gguf.WINDOW,
        },
        experts=True,
    )

    n_experts: int
    n_chosen: int
    window: int = 0

    @property
    def experts_per_token(self) -> int:
        """See :attr:`pyml_nn.config.Dimensions.experts_per_token`."""
        return self.n_chosen

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_chosen > self.n_experts:
            raise ConfigError(f"experts: {self.n_chosen} are chosen of {self.n_experts}")


class Model(decoder.Decoder[Config]):
    """A Mixtral model; see :class:`pyml_nn.Model`."""

    @staticmethod
    def specs(config: Config) -> dict[str, Spec]:
        """Names and shapes of all weights."""
        hidden, inner = config.hidden_size, config.intermediate_size
        matrices = (
            ("gate", "w1", "ffn_gate_exps", (inner, hidden)),
            ("up", "w3", "ffn_up_exps", (inner, hidden)),
            ("down", "w2", "ffn_down_exps", (hidden, inner)),
        )
        router = (config.n_experts, hidden)
        feed_forward = [parts.Part("feed_forward.router", "block_sparse_moe.gate", "ffn_gate_inp", router, exact=True)]
        for e in range(config.n_experts):
            theirs = f"block_sparse_moe.experts.{e}"
            feed_forward += [
                parts.Part(f"feed_forward.{e}.{name}", f"{theirs}.{last}", stack, shape, gguf_index=e)
                for name, last, stack, shape in matrices
            ]
        return parts.specs(config, parts.pre_norm(config, parts.attention(config), feed_forward))

    def block(self, weights: Weights, layer: int) -> PreNormBlock:
        """Read one layer."""
        config, name = self.config, f"layers.{layer}"
        return PreNormBlock(
            self.norm(weights, f"{name}.attention.norm"),
            decoder.read_attention(weights, layer, config, window=config.window, interleaved=weights.gguf),
            self.norm(weights, f"{name}.feed_forward.norm"),
            MixtureOfExperts(
                router=weights.linear(f"{name}.feed_forward.router"),
                experts=tuple(_expert(weights, f"{name}.feed_forward.{e}") for e in range(config.n_experts)),
                n_chosen=config.n_chosen,
                activation=config.activation,
            ),
        )


def _expert(weights: Weights, name: str) -> Expert:
    gate, up, down = (weights.matrix(f"{name}.{part}.weight") for part in ("gate", "up", "down"))
    return Expert(gate, up, down)
