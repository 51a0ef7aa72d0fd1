"""Random identifiers."""

from __future__ import annotations

import os
import random
import re

from pyml_nlp.identifiers import hex_id


def test_digits() -> None:
    for digits in (1, 9, 24, 32):
        assert all(re.fullmatch(rf"[0-9a-f]{{{digits}}}", hex_id(digits)) for _ in range(200))
    assert len({hex_id() for _ in range(10_000)}) == 10_000


def test_an_application_s_seed_repeats_none() -> None:
    found = []
    for _ in range(2):
        random.seed(1)
        found.append(hex_id())
    assert len(set(found)) == 2


def test_processes_have_their_own() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, hex_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    with os.fdopen(read) as file:
        os.close(write)
        assert file.read() != hex_id()
