"""Real sizes with random weights: the shapes, files with fewer of their layers, and figures scaled to all of them.

``qwen3-30b-a3b-q4_k@12`` is a file of 12 of the 48 layers, for machines that all of them do not fit. A token's time is
linear in the layers: with the times of two such files, that of the whole model follows. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Shape:
    """The dimensions of a decoder with grouped attention and gated feed-forwards, or a mixture of them.

    Attributes:
        mixed: whether some matrices are Q6_K, as in llama.cpp's Q4_K_M; else all are Q4_K.
        experts: feed-forwards of a layer, of which ``chosen`` are run for a token; 0: one, which is always run.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    rope_base: float
    mixed: bool
    experts: int = 0
    chosen: int = 0


SHAPES = {
    "llama3.1-8b-q4_k_m": Shape(32, 4096, 32, 8, 128, 14336, 128_256, 5e5, True),
    "qwen3-30b-a3b-q4_k": Shape(48, 2048, 32, 4, 128, 768, 151_936, 1e6, False, 128, 8),
}
"""Llama 3.1 8B in the mix of Q4_K_M; the mixture of Qwen3-30B-A3B in Q4_K, wired as Mixtral: queries have no norms."""


class Sized(NamedTuple):
    """A shape, and how many of its layers a file has."""

    shape: str
    layers: int

    @property
    def whole(self) -> bool:
        """Whether it has all layers."""
        return self.layers == SHAPES[self.shape].layers


def parse(name: str) -> Sized | None:
    """The shape and layers of ``SHAPE`` or ``SHAPE@LAYERS``; None: another model.

    Raises:
        ValueError: a number of layers that the shape cannot have.
    """
    shape, _, layers = name.partition("@")
    if shape not in SHAPES:
        return None
    whole = SHAPES[shape].layers
    count = int(layers) if layers.isdecimal() else (0 if "@" in name else whole)
    if not 1 <= count <= whole:
        raise ValueError(f"model {name!r}: expected 1 to {whole} layers after the @")
    return Sized(shape, count)


def parameters(sized: Sized) -> int:
    """The number of weights in matrices; at about 0.6 bytes each they are the file."""
    shape = SHAPES[sized.shape]
    heads = (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
    feed_forwards = 3 * max(shape.experts, 1) * shape.feed_forward
    return shape.hidden * (2 * shape.vocabulary + sized.layers * (heads + feed_forwards))


def scaled(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens/s of whole models, from the medians of two files with fewer layers each: the smallest and the largest."""
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for row in results:
        sized = parse(row["model"])
        if sized is not None and not sized.whole:
            speeds = {name: one["median"] for name, one in row["engines"].items() if one["median"]}
            found.setdefault((sized.shape, row["test"]), {})[sized.layers] = speeds
    rows = []
    for (shape, test), by_layers in found.items():
        few, many = min(by_layers), max(by_layers)
        if few == many:
            continue
        whole = SHAPES[shape].layers
        speeds = {}
        for name in (name for name in by_layers[few] if name in by_layers[many]):
            least, most = 1 / by_layers[few][name], 1 / by_layers[many][name]
            if most > least:  # else noise is larger than what was measured
                speeds[name] = 1 / (most + (most - least) * (whole - many) / (many - few))
        rows.append({"model": shape, "test": test, "layers": [few, many], "of": whole, "tokens_per_s": speeds})
    return rows
