"""What a model wants of its weights: their names in files, their shapes, the block types that they are packed in."""

from __future__ import annotations

from dataclasses import dataclass

from pyml_core.dtypes import BLOCK_TYPES

DTYPES = ("auto", "f32", "bf16", "q8_0", "q4_0")
"""What a model's matrices can be asked to be stored as."""

SCREENED_ROWS = 32768
"""Rows from which on a head is worth screening."""


@dataclass(frozen=True)
class Spec:
    """One weight that a model wants.

    Attributes:
        hf: its name in Hugging Face checkpoints, without the prefix of the whole model; empty: they have none.
        gguf: its name in GGUF files.
        shape: the shape that the model computes with.
        optional: empty: the model needs it. Else the name of a group of weights that the model can do without; a source
            has all weights of a group or none.
        hf_transposed: checkpoints hold it as (K, N) (GPT-2's Conv1D).
        gguf_index: GGUF files stack such matrices in one tensor (count, N, K), and this is its place there; None: no.
        exact: it is float32 whatever the others are: small, and what it decides is no matter of degree.
    """

    hf: str
    gguf: str
    shape: tuple[int, ...]
    optional: str = ""
    hf_transposed: bool = False
    gguf_index: int | None = None
    exact: bool = False


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is packed and multiplied with; norms, biases and position tables are float32 arrays."""
    return len(shape) == 2 and name != "positions"


def screened(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a head (V, K) of this block type is packed for a screen: q8_0, and large enough to be much of a step."""
    return dtype == "q8_0" and shape[0] >= SCREENED_ROWS


def matrix_type(stored: str, shape: tuple[int, ...], dtype: str, gguf: bool) -> str:
    """The block type that a matrix is packed in.

    Args:
        stored: the block type in the file.
        shape: (N, K).
        dtype: one of :data:`DTYPES`. ``"auto"`` keeps a GGUF file's types and makes a checkpoint's matrices q8_0.
        gguf: whether the file is a GGUF file.

    Rows that are no multiple of a block stay in 16 bits: f16 where they are stored so, else bf16.
    """
    wanted = (stored if gguf else "q8_0") if dtype == "auto" else dtype
    if shape[-1] % BLOCK_TYPES[wanted].block_size:
        return "f16" if stored == "f16" else "bf16"
    return wanted
