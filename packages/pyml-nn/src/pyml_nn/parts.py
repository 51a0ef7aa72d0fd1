"""Names and shapes of the weights that decoders share: an architecture's file says which of these parts it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .config import Dimensions
from .weights import Spec


class Part(NamedTuple):
    """One weight of every layer, with its bias.

    Attributes:
        name: its name in pyml, within the layer (``attention.q``).
        hf: its name in checkpoints (``self_attn.q_proj``).
        gguf: its name in GGUF files (``attn_q``).
        shape: shape of the weight; the bias is as long as its first axis.
        bias: whether it has a bias; None: if the file has one, which then is in all layers.
        optional: whether a file may lack the weight and its bias, in all layers.
        gguf_index: see :class:`pyml_nn.weights.Spec`.
        exact: see :class:`pyml_nn.weights.Spec`.
        hf_transposed: see :class:`pyml_nn.weights.Spec`.
    """

    name: str
    hf: str
    gguf: str
    shape: tuple[int, ...]
    bias: bool | None = False
    optional: bool = False
    gguf_index: int | None = None
    exact: bool = False
    hf_transposed: bool = False


def norm(config: Dimensions, name: str, hf: str, gguf: str, bias: bool = False, optional: bool = False) -> Part:
    """A norm of the residual stream."""
    return Part(f"{name}.norm", hf, gguf, (config.hidden_size,), bias, optional)


def attention(config: Dimensions, qkv_bias: bool | None = False, out_bias: bool | None = False) -> list[Part]:
    """The four matrices of attention."""
    hidden, q, kv = config.hidden_size, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    return [
        Part("attention.q", "self_attn.q_proj", "attn_q", (q, hidden), qkv_bias),
        Part("attention.k", "self_attn.k_proj", "attn_k", (kv, hidden), qkv_bias),
        Part("attention.v", "self_attn.v_proj", "attn_v", (kv, hidden), qkv_bias),
        Part("attention.out", "self_attn.o_proj", "attn_output", (hidden, q), out_bias),
    ]


def qk_norms(config: Dimensions, together: bool = False) -> list[Part]:
    """The norms of each query and key head, or of all query heads and of all key heads ``together``."""
    q, k = (config.n_heads, config.n_kv_heads) if together else (1, 1)
    return [
        Part("attention.q_norm", "self_attn.q_norm", "attn_q_norm", (q * config.head_dim,)),
        Part("attention.k_norm", "self_attn.k_norm", "attn_k_norm", (k * config.head_dim,)),
    ]


def gated(config: Dimensions, bias: bool | None = False) -> list[Part]:
    """The three matrices of a gated feed-forward."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        Part("feed_forward.gate", "mlp.gate_proj", "ffn_gate", (inner, hidden), bias),
        Part("feed_forward.up", "mlp.up_proj", "ffn_up", (inner, hidden), bias),
        Part("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner), bias),
    ]


def gate_up(config: Dimensions) -> list[Part]:
    """The two matrices of a gated feed-forward whose gate and up are one."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return [
        Part("feed_forward.gate_up", "mlp.gate_up_proj", "ffn_up", (2 * inner, hidden)),
        Part("feed_forward.down", "mlp.down_proj", "ffn_down", (hidden, inner)),
    ]


def experts(config: Dimensions, n_experts: int, inner: int, block: str, names: tuple[str, str, str]) -> list[Part]:
    """The router and the experts of a mixture; GGUF files stack the matrices of all experts.

    Args:
        config: the sizes.
        n_experts: number of experts.
        inner: intermediate size of an expert.
        block: prefix of the names in checkpoints.
        names: names of an expert's gate, up and down in checkpoints.
    """
    hidden = config.hidden_size
    found = [Part("feed_forward.router", f"{block}.gate", "ffn_gate_inp", (n_experts, hidden), exact=True)]
    for expert in range(n_experts):
        for name, hf in zip(("gate", "up", "down"), names, strict=True):
            shape = (hidden, inner) if name == "down" else (inner, hidden)
            found.append(
                Part(
                    f"feed_forward.{expert}.{name}", f"{block}.experts.{expert}.{hf}", f"ffn_{name}_exps", shape,
                    gguf_index=expert,
                )
            )  # fmt: skip
    return found


def pre_norm(config: Dimensions, attention: Sequence[Part], feed_forward: Sequence[Part]) -> list[Part]:
    """A layer with a norm before each branch."""
    return [
        norm(config, "attention", "input_layernorm", "attn_norm"),
        *attention,
        norm(config, "feed_forward", "post_attention_layernorm", "ffn_norm"),
        *feed_forward,
    ]


def sandwich(config: Dimensions, attention: Sequence[Part], feed_forward: Sequence[Part]) -> list[Part]:
    """A layer with norms before and after each branch."""
    return [
        norm(config, "attention", "input_layernorm", "attn_norm"),
        *attention,
        Part("attention.post_norm", "post_attention_layernorm", "post_attention_norm", (config.hidden_size,)),
        norm(config, "feed_forward", "pre_feedforward_layernorm", "ffn_norm"),
        *feed_forward,
        Part("feed_forward.post_norm", "post_feedforward_layernorm", "post_ffw_norm", (config.hidden_size,)),
    ]


def rope_factors(dim: int) -> dict[str, Spec]:
    """The factors of the frequencies of a rotation of ``dim`` elements, which some GGUF files have."""
    return {"rope.factors": Spec("", "rope_freqs.weight", (dim // 2,), optional="factors")}


def specs(
    config: Dimensions,
    parts: Sequence[Part] | Callable[[int], Sequence[Part]],
    embedding: str = "embed_tokens",
    final_norm: str = "norm",
    layers: str = "layers",
    norm_bias: bool = False,
    head: str = "lm_head",
) -> dict[str, Spec]:
    """Every weight of a model: internal name -> names in files and shape.

    Args:
        config: the sizes.
        parts: the weights of each layer, or a function of its index that returns them.
        embedding: name of the embedding in checkpoints.
        final_norm: name of the final norm in checkpoints.
        layers: prefix of the layers in checkpoints.
        norm_bias: whether the final norm has a bias.
        head: name of the head in checkpoints.
    """
    table, hidden = (config.vocab_size, config.hidden_size), (config.hidden_size,)
    tied = "head" if config.tie_word_embeddings else ""
    found = {
        "embedding.weight": Spec(f"{embedding}.weight", "token_embd.weight", table),
        "final_norm.weight": Spec(f"{final_norm}.weight", "output_norm.weight", hidden),
        "head.weight": Spec(f"{head}.weight", "output.weight", table, optional=tied),
    }
    if norm_bias:
        found["final_norm.bias"] = Spec(f"{final_norm}.bias", "output_norm.bias", hidden)
    return found | layer_specs(config, parts, layers)


def layer_specs(
    config: Dimensions, parts: Sequence[Part] | Callable[[int], Sequence[Part]], layers: str
) -> dict[str, Spec]:
    """The weights of all layers of a model; arguments as of :func:`specs`."""
    found: dict[str, Spec] = {}
    for layer in range(config.n_layers):
        for part in parts(layer) if callable(parts) else parts:
            ours, hf, gguf = f"layers.{layer}.{part.name}", f"{layers}.{layer}.{part.hf}", f"blk.{layer}.{part.gguf}"
            found[f"{ours}.weight"] = Spec(
                f"{hf}.weight", f"{gguf}.weight", part.shape, part.name if part.optional else "",
                part.hf_transposed, part.gguf_index, part.exact,
            )  # fmt: skip
            if part.bias is not False:
                optional = part.name if part.bias is None or part.optional else ""
                found[f"{ours}.bias"] = Spec(f"{hf}.bias", f"{gguf}.bias", part.shape[:1], optional)
    return found
