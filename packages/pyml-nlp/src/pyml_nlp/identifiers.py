"""Random identifiers of requests, answers and calls."""

from __future__ import annotations

import os
from random import Random

_random = Random()  # of its own: an application's random.seed() must not repeat identifiers
os.register_at_fork(after_in_child=_random.seed)


def hex_id(digits: int = 24) -> str:
    """Random hexadecimal digits. They are unique, but they can be guessed: they are no secrets.

    The system is not asked for them: while it answers, another thread may take the interpreter, and an event loop
    would wait for its turn again, half a millisecond and more beside a running model.
    """
    return f"{_random.getrandbits(4 * digits):0{digits}x}"
