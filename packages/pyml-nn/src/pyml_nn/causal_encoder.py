"""Decoders as encoders: token ids in, the hidden state of the last layer out, after the final norm and without a head.

Letters: T = tokens of a text, W = hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType
from typing import Any

from pyml_core.kv_layout import KVLayout

from .decoder import Decoder
from .encoder import Encoder, Piece, cut
from .errors import ConfigError
from .layers import Scratch
from .network import C, Network
from .weights import Spec, Weights

_HEAD = ("head.weight", "head.bias")


class CausalEncoder(Encoder[C]):
    """The base of decoders without a head; see :func:`causal_encoder`.

    A token sees those before it. Texts with more tokens than a run run in chunks, which changes no bit.
    """

    @staticmethod
    def _layout(config: C, reader: Weights, kv_dtype: str) -> KVLayout:
        return Network._layout(config, reader, kv_dtype)  # later chunks read the keys and values of all layers

    @staticmethod
    def _longest(config: C) -> int:
        return 1

    def declare(self, weights: Weights, scratch: Scratch) -> None:
        """Read the weights and declare the program."""
        assert isinstance(self, Decoder)  # causal_encoder makes it one
        if self.config.long_from is not None:
            raise ConfigError("rope_scaling: LongRoPE is not supported in embedding models")
        hidden, _ = self.declare_states(weights, scratch)
        out = scratch.buffer("final_normed_states", hidden.width)
        self.final_norm(weights).declare(scratch.program, "final_norm", hidden, out)

    def _runs(self, lengths: Sequence[int]) -> list[list[Piece]]:
        size = self._max_tokens
        short = [number for number, length in enumerate(lengths) if length <= size]
        runs = [
            [Piece(short[place], 0, lengths[short[place]]) for place in run]
            for run in cut([lengths[number] for number in short], size)
        ]
        for number, length in enumerate(lengths):
            if length > size:
                runs += [[Piece(number, start, min(start + size, length))] for start in range(0, length, size)]
        return runs


@cache
def causal_encoder(architecture: ModuleType) -> type[CausalEncoder[Any]]:
    """The encoder that a module of :data:`.models.ARCHITECTURES` makes.

    Raises:
        ConfigError: its architecture is not one of :class:`.decoder.Decoder`.
    """
    base = architecture.Model
    name = architecture.__name__.rpartition(".")[2]
    if not issubclass(base, Decoder):
        raise ConfigError(f"model_type: {name} is not supported as an embedding model")

    def specs(config: Any) -> Mapping[str, Spec]:
        """Names and shapes of all weights."""
        return {key: spec for key, spec in base.specs(config).items() if key not in _HEAD}

    rules = replace(base.rules, ignored=(*base.rules.ignored, r"lm_head\.(weight|bias)"))
    members = {"specs": staticmethod(specs), "rules": rules, "__module__": architecture.__name__}
    return type("EncoderModel", (CausalEncoder, base), members)
