"""The router of Ray Serve that sends prompts which begin alike to the same replica."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from .affinity import ranked
from .forwarding import Forwarded


def __getattr__(name: str) -> type:
    if name == "PrefixRouter":  # Ray Serve imports it by this name
        return prefix_router()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def prefix_router() -> type:
    """A class for Ray Serve, which chooses replicas by :func:`.affinity.ranked`.

    Each handle has a router, which counts its own requests. The argument ``spare`` is that of :func:`.affinity.ranked`.
    """
    from ray.serve.request_router import RequestRouter  # only where Ray is used

    class PrefixRouter(RequestRouter):
        def initialize_state(self, spare: int = 1) -> None:
            self._spare = spare
            self._running = Counter[str]()

        async def choose_replicas(self, candidate_replicas: list[Any], pending_request: Any = None) -> list[list[Any]]:
            """The replicas, each in a rank of its own, the best first."""
            key = ""
            if pending_request is not None:
                pending_request.routing_context.should_backoff = True  # or else Ray asks again without a pause
                first = pending_request.args[0] if pending_request.args else None
                key = first.key if isinstance(first, Forwarded) else ""
            replicas = {one.replica_id.unique_id: one for one in candidate_replicas}
            for name in self._running.keys() - replicas.keys():
                del self._running[name]
            loads = {name: self._running[name] for name in replicas}
            return [[replicas[name]] for name in ranked(key, loads, self._spare)]

        def on_send_request(self, replica_id: Any) -> None:
            super().on_send_request(replica_id)
            self._running[replica_id.unique_id] += 1

        def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
            name = replica_id.unique_id
            self._running[name] = max(0, self._running[name] - 1)  # Ray also reports requests that were not sent

    return PrefixRouter
