"""The texts that wait for a place, and whose turn it is.

Texts of a higher priority come first. Among those of one priority it is the turn of the client that has been served
least: each client has a counter of the tokens computed for it, where a token of a text counts as :data:`TOKEN_COST`
tokens of a prompt. A client that returns is lifted to the least counter of those that wait, so that it cannot save up
turns. The texts of one client keep their order.

Source: the virtual token counter of Sheng et al. 2024, arXiv 2401.00588.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .completion import Completion

TOKEN_COST = 2
"""How many tokens of a prompt a token of a text counts for."""


@dataclass(slots=True)
class _Client:
    """A client's counter, and its waiting texts: a heap of (-priority, number, text)."""

    served: float = 0.0
    heap: list[tuple[int, int, Completion]] = field(default_factory=list)


class FairQueue:
    """Texts that wait for a place. Texts without a client count as one client's."""

    def __init__(self) -> None:
        self._clients: dict[str | None, _Client] = {}
        self._waiting: set[Completion] = set()  # entries of the heaps that are not in it have been removed
        self._resumed: list[Completion] = []  # texts that had a place; the one that gets the next place is the last
        self._served: dict[Completion, int] = {}  # texts with a place, and how many of their tokens have been counted
        self._numbers = itertools.count()
        self._floor = 0.0  # counter of the client that got a place last

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resumed)

    def add(self, completion: Completion) -> None:
        """Let a text wait, after those of its client that have its priority."""
        client = self._clients.setdefault(completion.client, _Client())
        self._drop_removed(client)
        if not client.heap:
            waiting = [other.served for other in self._clients.values() if other.heap]
            client.served = max(client.served, min(waiting, default=self._floor))
        heappush(client.heap, (-completion.priority, next(self._numbers), completion))
        self._waiting.add(completion)

    def add_first(self, completion: Completion) -> None:
        """Let a text that has had a place wait before all that have not; of these, as it would keep its place."""
        self._resumed.append(completion)
        self._resumed.sort(key=lambda one: (one.priority, len(one.tokens), -one.sequence))

    def remove(self, completion: Completion) -> None:
        """Take out a text; nothing happens if it does not wait."""
        self._waiting.discard(completion)
        if completion in self._resumed:
            self._resumed.remove(completion)

    def heads(self) -> list[Completion]:
        """The texts that may get the next place, best first: one of each client, or the one that had a place before."""
        if self._resumed:
            return [self._resumed[-1]]
        if len(self._clients) > 1:
            self._count()
        clients = []
        for client in self._clients.values():
            self._drop_removed(client)
            if client.heap:
                clients.append(client)
        clients.sort(key=lambda client: (client.heap[0][0], client.served, client.heap[0][1]))
        return [client.heap[0][2] for client in clients]

    def take(self, completion: Completion) -> None:
        """Take out one of the :meth:`heads`, which has got a place."""
        if self._resumed:
            self._resumed.pop()
            return
        self._waiting.discard(completion)
        client = self._clients[completion.client]
        heappop(client.heap)
        self._served[completion] = 0
        self._count()
        client.served += len(completion.pending)
        self._floor = client.served

    def _count(self) -> None:
        """Add the tokens of running texts to the counters; forget texts that have ended, and clients without a debt."""
        for completion, counted in list(self._served.items()):
            produced = len(completion.tokens)
            self._clients[completion.client].served += TOKEN_COST * (produced - counted)
            self._served[completion] = produced
            if completion.finish_reason is not None:
                del self._served[completion]
        busy = {completion.client for completion in self._served}
        if not busy and not self._waiting:
            self._clients.clear()
            self._floor = 0.0
            return
        for name, client in list(self._clients.items()):
            if name not in busy and not client.heap and client.served <= self._floor:
                del self._clients[name]

    def _drop_removed(self, client: _Client) -> None:
        while client.heap and client.heap[0][2] not in self._waiting:
            heappop(client.heap)
