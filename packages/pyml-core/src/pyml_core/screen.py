"""Screening a head: find the largest logits with a coarse pass, then compute only the remaining candidates.

A head that is packed split (:class:`pyml_core.PackedMatrix`) is screened from half of its bytes, which gives bounds on
every logit. The full head's kernel then computes the panels with the best lower bounds. The k-th largest of these
logits is the threshold; every row whose upper bound reaches it is computed too. The formulas are those of
:func:`pyml_core.reference.screen_bounds`; the kernels are in ``csrc/level/screen.c``.

The bounds are statistical. A row is missed only if its error exceeds the z-score: of normally distributed errors, one
in 10^9 exceeds six standard deviations. Lower bounds only determine which panels are computed first.
"""

from __future__ import annotations

from . import _native

Z_SCORE = 6.0
"""Standard deviations between a coarse logit and its bounds."""

MAX_STATES: int = _native.SCREEN_STATES_MAX
"""Maximum number of positions that one run screens the head for. With more positions the full head is as fast."""
