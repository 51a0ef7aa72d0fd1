"""Tiny random models: the configurations, and weights from a seed. ``tiny_files`` builds them and writes their files.

Weights come from ``np.random.RandomState``, whose stream NumPy has frozen, so that the goldens made from these seeds
elsewhere stay valid. Sizes are odd on purpose: heads and widths that are no powers of two, windows shorter than a
prompt. Each family has a file in ``tiny``, and a line here.
"""

from __future__ import annotations

from tests.helpers.tiny import (
    bert,
    cohere,
    ernie,
    exaone4,
    falcon,
    gemma,
    glm,
    gpt2,
    gpt_neox,
    granite,
    helium,
    llama,
    ministral3,
    mixtral,
    olmo,
    phi,
    phi3,
    qwen,
    smollm3,
    stablelm,
    starcoder2,
    vision,
)  # fmt: skip
from tests.helpers.tiny.llama import QUANTIZED
from tests.helpers.tiny.model import FAMILIES, PROMPT_LENGTH, VOCAB, F32Array, TinyModel

__all__ = ["ENCODERS", "FAMILIES", "MODELS", "PROMPT_LENGTH", "QUANTIZED", "VOCAB", "F32Array", "TinyModel"]

ENCODERS = {model.name: model for model in bert.MODELS}
"""Encoders, by name; decoders are in ``MODELS``."""

MODELS = {
    model.name: model
    for family in (
        gpt2,
        gemma,
        llama,
        phi3,
        falcon,
        mixtral,
        qwen,
        stablelm,
        smollm3,
        ernie,
        starcoder2,
        gpt_neox,
        glm,
        vision,
        cohere,
        exaone4,
        helium,
        granite,
        phi,
        ministral3,
        olmo,
    )
    for model in family.MODELS
}
