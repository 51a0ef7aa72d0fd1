"""The choice of a server's setting: a short load for each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import serving_loads as loads
from serving_servers import SERVERS, Place, Server, ServerError, free_port

CLIENTS = 8
SEED = 10**7
"""Of the questions; those of loads have smaller ones."""


def choose(
    kind: str, at: Place, log: Path, asking: Callable[[Server], loads.Asking], span: loads.Span
) -> tuple[str, dict[str, float]]:
    """The setting with the most tokens/s, and those of all; without a load if there is one setting only."""
    settings = list(SERVERS[kind].settings)
    if len(settings) == 1 or not span.seconds:
        return settings[0], {}
    tried: dict[str, float] = {}
    for setting in settings:
        try:
            server = Server(kind, replace(at, port=free_port()), log, setting)
        except ServerError as error:
            if setting == settings[-1] and not tried:
                raise
            print(f"{kind}, {setting}: {error}", file=sys.stderr)
            continue
        try:
            questions = loads.short_chats(asking(server), SEED)
            tried[setting] = asyncio.run(loads.closed(server.port, questions, CLIENTS, span)).tokens_per_second
        finally:
            server.close()
    return max(tried, key=lambda setting: tried[setting]), tried
