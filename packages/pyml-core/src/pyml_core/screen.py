"""The largest logits of a vocabulary's head without computing all: a coarse pass, then the remaining candidates.

A head that is packed split (:class:`pyml_core.PackedMatrix`) is screened from half of its bytes; bounds on every logit
follow. Where lower bounds are best, logits are computed by the full head's kernel; the k-th largest of these is the
threshold, and every row whose upper bound reaches it is computed. The formulas are those of
:func:`pyml_core.reference.screen_bounds`, the kernels are in ``csrc/level/screen.c``.

The bounds are statistical. A row is lost only if its error is beyond the z-score: normally distributed errors exceed
six standard deviations once in a thousand million. Lower bounds only say where to look first.
"""

from __future__ import annotations

from . import _native

Z_SCORE = 6.0
"""Standard deviations between a coarse logit and its bounds."""

MAX_STATES: int = _native.SCREEN_STATES_MAX
"""Most positions that one run screens the head for. With more positions the full head is as fast."""
