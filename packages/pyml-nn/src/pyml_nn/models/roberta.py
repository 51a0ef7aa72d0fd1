"""RoBERTa and XLM-RoBERTa: BERT whose positions are counted from the number after the padding token's.

Source: Liu et al. 2019, arXiv 1907.11692; Conneau et al. 2019, arXiv 1911.02116; transformers' ``modeling_roberta.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import MAX_VOCAB, Fields, Key, Known, hf
from ..weights import NameRules
from . import bert


def _first_position(fields: Fields, known: Known) -> int:
    return fields.integer("pad_token_id", 0, MAX_VOCAB, default=1) + 1


def _context(fields: Fields, known: Known) -> int:
    """The rows of the table that are used: those of the padding token and of the numbers before it are not."""
    rows = hf.context(fields, known)
    if rows <= known["first_position"]:
        raise fields.error("max_position_embeddings", f"expected more than {known['first_position']}, got {rows}")
    return int(rows - known["first_position"])


@dataclass(frozen=True, kw_only=True)
class Config(bert.Config):
    """Configuration of a RoBERTa model; see :class:`.bert.Config`."""

    HF = hf.Table(
        ("roberta", "xlm-roberta"),
        {
            "first_position": _first_position,
            **bert.Config.HF.rows,
            "context_length": _context,
            "norm_eps": Key("layer_norm_eps", float, 0, 1, 1e-12),
        },
        fixed=bert.Config.HF.fixed,
        harmless=bert.Config.HF.harmless,
    )


class Model(bert.Model):
    """RoBERTa; see :class:`pyml_nn.encoder.Encoder`."""

    rules = NameRules(hf_prefixes=("roberta.",), ignored=(r"(roberta\.)?pooler\.dense\.\w+", r"lm_head\.[\w.]+"))
