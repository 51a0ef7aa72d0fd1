"""A tiny random model, and what the models of a family have in common."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

F32Array = npt.NDArray[np.float32]
Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Names of weights in checkpoints, without the prefix, and their shapes."""

VOCAB = 331
ATTENTION_INPUTS = ("c_attn", "q_proj", "k_proj", "qkv_proj", "query_key_value")
PROMPT_LENGTH = 70  # longer than one page of the KV cache and than every window


def unchanged(model: TinyModel, name: str, array: F32Array) -> F32Array:
    """Return a weight that GGUF files store as checkpoints do."""
    return array


@dataclass(frozen=True, kw_only=True)
class Family:
    """The models of one ``model_type``.

    Attributes:
        shapes: the weights of a model.
        gguf_names: the end of a weight's name in checkpoints, without ``.weight`` -> its name in GGUF files.
        metadata: writes a model's sizes to a GGUF file.
        architecture: the architecture's name in GGUF files; "": the ``model_type``.
        convert: a weight, by its name without the layer, as llama.cpp's converter writes it.
        layers: beginnings of the names of layers.
        embedding: the table's name.
        final_norm: the last norm's name.
        offset_norms: norms are stored less 1 in checkpoints.
        tied: whether the head is the embedding, if the configuration does not say.
        pieces: the vocabulary is SentencePiece's, otherwise byte-level.
    """

    shapes: Callable[[TinyModel], Shapes]
    gguf_names: Mapping[str, str]
    metadata: Callable[[Any, TinyModel], None]
    architecture: str = ""
    convert: Callable[[TinyModel, str, F32Array], F32Array] = unchanged
    layers: str = "model.layers."
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    offset_norms: bool = False
    tied: bool = False
    pieces: bool = False


FAMILIES: dict[str, Family] = {}
"""By ``model_type``; each file of a family adds its own."""


@dataclass(frozen=True)
class TinyModel:
    """A configuration as its ``config.json`` has it, and the seed of its weights."""

    name: str
    seed: int
    config: dict[str, Any]
    gguf: bool = False
    prefix: str = ""  # of the weights' names in the safetensors file

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the language model, which is inside the other's in a model that also sees."""
        found: dict[str, Any] = self.config.get("text_config", self.config)
        return found

    @property
    def family(self) -> Family:
        """The properties of its ``model_type``."""
        return FAMILIES[str(self.text["model_type"])]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.text.get("num_hidden_layers", self.text.get("n_layer", 0)))

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table; the default differs between families."""
        return bool(self.text.get("tie_word_embeddings", self.family.tied))

    @property
    def hidden_divisor(self) -> float:
        """Divisor of transformers' hidden states in pyml's; see ``pyml_nn.models.granite``."""
        return float(self.text.get("residual_multiplier", 1))

    @property
    def long_from(self) -> int:
        """Positions from this one on are rotated with LongRoPE's long factors."""
        long = "long_factor" in (self.text.get("rope_scaling") or {})
        return int(self.text["original_max_position_embeddings"]) if long else PROMPT_LENGTH

    @property
    def prompt(self) -> list[int]:
        """Token ids to compute logits for."""
        return [int(i) for i in np.random.RandomState(self.seed + 1).randint(0, VOCAB, PROMPT_LENGTH)]

    def truncated(self, n_layers: int) -> TinyModel:
        """This model with its first layers only."""
        key = "n_layer" if "n_layer" in self.text else "num_hidden_layers"
        config = {**self.text, key: n_layers}
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:n_layers]
        if self.text is not self.config:
            config = {**self.config, "text_config": config}
        return TinyModel(self.name, self.seed, config, self.gguf, self.prefix)

    def weights(self) -> dict[str, F32Array]:
        """Weights by their names in Hugging Face's files."""
        return {self.prefix + name: self._weight(name, shape) for name, shape in self.family.shapes(self)}

    def names(self) -> list[str]:
        """Names of the weights."""
        return [self.prefix + name for name, _ in self.family.shapes(self)]

    def _weight(self, name: str, shape: tuple[int, ...]) -> F32Array:
        # Seeded by its name, so that a truncated model has equal weights.
        noise = np.random.RandomState([self.seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith("bias"):
            noise *= 0.2
        elif len(shape) == 1:
            noise = 0.25 * noise + (0.0 if self.family.offset_norms else 1.0)
        elif any(part in name for part in ("embed_tokens", "embed_in", "word_embed", "wte", "wpe")):
            noise *= 1.0 / np.sqrt(shape[1]) if self.tied else 0.5  # a tied head has logits near 1, as others do
        else:  # larger queries and keys, so that attention is far from uniform
            k = shape[0] if self.family.convert is transposed and "lm_head" not in name else shape[1]
            noise *= (1.6 if any(part in name for part in ATTENTION_INPUTS) else 1.0) / np.sqrt(k)
        return noise.astype(np.float32)


def transposed(model: TinyModel, name: str, array: F32Array) -> F32Array:
    """Transpose a matrix of GPT-2, whose checkpoints store inputs first; tables and the head are not."""
    if array.ndim == 2 and name not in ("wte", "wpe", "lm_head"):
        return np.ascontiguousarray(array.T)
    return array
