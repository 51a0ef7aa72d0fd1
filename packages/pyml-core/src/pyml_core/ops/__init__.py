"""The operations of programs. One record for each has its declaration, NumPy formula, cost and lowering.

The C side lists the same operations in ``csrc/operations.def``, which a test compares with this table.
"""

from __future__ import annotations

from ..operation_kind import OperationKind
from .activation import ACTIVATE, GATED, SOFT_CAP
from .attention import ATTENTION
from .embedding import ADD_POSITIONS, EMBED
from .experts import COMBINE, DISPATCH, EXPERT_LINEAR, ROUTE
from .head import SELECT
from .linear import LINEAR
from .low_rank import LOW_RANK
from .norm import LAYER_NORM, RMS_NORM
from .prepare_qkv import PREPARE_QKV
from .rope import ROPE_ANGLES
from .screen import RESCORE, SCREEN

OPERATIONS: dict[str, OperationKind] = {
    kind.name: kind
    for kind in (
        EMBED, ADD_POSITIONS, RMS_NORM, LAYER_NORM, LINEAR, LOW_RANK, ACTIVATE, GATED, SOFT_CAP, SELECT,
        ROPE_ANGLES, PREPARE_QKV, ATTENTION, ROUTE, DISPATCH, EXPERT_LINEAR, COMBINE, SCREEN, RESCORE,
    )
}  # fmt: skip
"""Operation kinds by name, in the order of ``csrc/operations.def``."""
