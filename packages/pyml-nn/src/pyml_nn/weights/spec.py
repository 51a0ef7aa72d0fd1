"""The weights that a model needs: names in files, shapes, and the block types that they are packed in."""

from __future__ import annotations

from dataclasses import dataclass

from pyml_core.block_types import BLOCK_TYPES

DTYPES = ("auto", "f32", "bf16", "q8_0", "q4_0")
"""Types of a model's matrices that can be requested."""

SCREENED_ROWS = 32768
"""Number of rows from which a head is worth screening."""


@dataclass(frozen=True)
class Spec:
    """One weight of a model.

    Attributes:
        hf: its name in Hugging Face checkpoints, without the prefix of the whole model; empty: checkpoints lack it.
        gguf: its name in GGUF files.
        shape: its shape in the model.
        optional: empty: the model needs it. Else the name of a group of optional weights; a source has all weights of a
            group or none.
        hf_transposed: checkpoints store it as (K, N) (GPT-2's Conv1D).
        gguf_index: index in a tensor (count, N, K) in which GGUF files stack such matrices; None: it is not stacked.
        exact: always float32: the matrix is small, and its results choose between alternatives.
    """

    hf: str
    gguf: str
    shape: tuple[int, ...]
    optional: str = ""
    hf_transposed: bool = False
    gguf_index: int | None = None
    exact: bool = False


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is a packed matrix; norms, biases and tables of positions and token types are float32 arrays."""
    return len(shape) == 2 and name not in ("positions", "token_types")


def is_screened(dtype: str, shape: tuple[int, ...]) -> bool:
    """Whether a head (V, K) is packed for screening: if it is q8_0, and large enough to dominate a decode step."""
    return dtype == "q8_0" and shape[0] >= SCREENED_ROWS


def matrix_type(stored: str, shape: tuple[int, ...], dtype: str, gguf: bool) -> str:
    """Return the block type that a matrix is packed in.

    Args:
        stored: the block type in the file.
        shape: (N, K).
        dtype: one of :data:`DTYPES`. ``"auto"`` keeps quantised types and those of GGUF files, and makes a checkpoint's
            other matrices q8_0.
        gguf: whether the file is a GGUF file.

    Rows that are not a multiple of a block stay in 16 bits: f16 if they are stored in f16, else bf16.
    """
    keeps = gguf or (stored in BLOCK_TYPES and BLOCK_TYPES[stored].quantized)
    packed = (stored if keeps else "q8_0") if dtype == "auto" else dtype
    if shape[-1] % BLOCK_TYPES[packed].block_size:
        return "f16" if stored == "f16" else "bf16"
    return packed
