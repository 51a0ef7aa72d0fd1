"""A discrete event simulation of a batch job on a cluster: shards, workers, nodes and their faults.

Events are those of shards and nodes, so that a job of any number of rows can be simulated. All random numbers come from
the seed, those of a node from its own generator: runs that differ in policy meet the same faults.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from functools import partial

from cluster_parts import DAY, Cluster, Faults, Node, Outcome, Policy, Shard, Socket, Worker


class Simulation:
    """A job on a cluster.

    Args:
        shards: the plan.
        cluster, faults, policy: the conditions.
        seed: of all random numbers.
        limit: seconds after which an unfinished job is given up.
        observe: called after each event.

    Raises:
        ValueError: tails of another kind than "none" in index mode, where no worker knows the shards of others.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        cluster: Cluster,
        faults: Faults | None = None,
        policy: Policy | None = None,
        *,
        seed: int = 0,
        limit: float = 365 * DAY,
        observe: Callable[[Simulation], None] | None = None,
    ) -> None:
        self.cluster, self.faults, self.policy = cluster, faults or Faults(), policy or Policy()
        if self.policy.index and self.policy.tail != "none":
            raise ValueError(f"index mode has no tail {self.policy.tail!r}, only 'none'")
        self.shards = list(shards)
        self.seed, self.limit, self.observe = seed, limit, observe
        self.now = 0.0
        self.nodes: list[Node | None] = [None] * cluster.nodes
        self.queues: list[list[tuple[float, int, Shard]]] = [
            [] for _ in range(cluster.nodes if self.policy.index else 1)
        ]
        self.expiring = 0  # shards whose claim is of a lost node
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._started = [0] * cluster.nodes
        self._open = len(self.shards)
        self._idle_since: float | None = None
        self._sums = dict.fromkeys(("rows", "quarantined", "attempts", "losses", "interruptions", "nodes"), 0)
        self._lost = self._duplicate = self._core_seconds = 0.0
        self._recovery: list[float] = []
        for index, shard in enumerate(self.shards):
            shard.index = index
            self._push(shard)
        rows = random.Random(f"{seed} poison")
        for shard in rows.sample(self.shards, min(self.faults.poison, len(self.shards))):
            shard.poison = shard.work * rows.random()

    # Events

    def run(self) -> Outcome:
        """Simulate the job until every shard is done."""
        for place in range(self.cluster.nodes):
            self._start(place)
        for time, number in self.faults.kills:
            self._at(time, partial(self._kill, number))
        while self._open and self._events:
            self.now, _, event = heapq.heappop(self._events)
            if self.now > self.limit:
                self.now = self.limit
                break
            event()
            if self.observe:
                self.observe(self)
        for node in self.nodes:
            if node:
                self._pay(node, node.last if self._open == 0 else self.now)
        sums = self._sums
        return Outcome(
            self._open == 0, self.now, sums["rows"], sums["quarantined"], len(self.shards), sums["attempts"],
            sum(shard.work for shard in self.shards), self._lost, self._duplicate,
            self.now - (self.now if self._idle_since is None else self._idle_since), self._core_seconds,
            sums["nodes"], sums["losses"], sums["interruptions"], tuple(self._recovery),
        )  # fmt: skip

    def _at(self, time: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, event))

    # Nodes

    def _start(self, place: int) -> None:
        cluster = self.cluster
        source = random.Random(f"{self.seed} node {place} {self._started[place]}")
        self._started[place] += 1
        speed = cluster.slow_speed if place < round(cluster.slow * cluster.nodes) else 1.0
        node = Node(place, speed, self.now, source, last=self.now + cluster.load)
        sockets = [Socket() for _ in range(cluster.sockets)]
        for index in range(cluster.workers):
            worker = Worker(place * cluster.workers + index, node, sockets[index % cluster.sockets])
            worker.socket.workers.append(worker)
            node.workers.append(worker)
        self.nodes[place] = node
        self._sums["nodes"] += 1
        for rate, event in ((self.faults.losses, self._lose), (self.faults.interruptions, self._interrupt)):
            time = source.expovariate(1.0)  # drawn in any case: rates scale the times of one sequence
            if rate:
                self._at(self.now + time * DAY / rate, partial(event, node))
        self._at(self.now + cluster.load, partial(self._take_all, node))

    def _take_all(self, node: Node) -> None:
        for worker in node.workers:
            self._take(worker)

    def _pay(self, node: Node, end: float) -> None:
        self._core_seconds += (end - node.start) * self.cluster.cores

    def _lose(self, node: Node) -> None:
        """End a node without notice."""
        if node.up:
            self._sums["losses"] += 1
            claim = 0.0 if self.policy.index else self.policy.claim
            self._end(node, self._drop_all(node, written=False), claim)
            self._pay(node, self.now)

    def _interrupt(self, node: Node) -> None:
        """End a node with notice: its workers finish their texts if the notice is long enough, and give shards back."""
        if node.up:
            self._sums["interruptions"] += 1
            ending = (
                2 * self.policy.in_flight * self.cluster.slowdown(max(1, node.workers[0].socket.active)) / node.speed
            )
            shards = self._drop_all(node, written=ending <= self.faults.notice)
            stay = min(ending, self.faults.notice)
            self._end(node, shards, stay)
            self._pay(node, self.now + stay)

    def _end(self, node: Node, shards: Sequence[Shard], delay: float) -> None:
        node.up = False
        for worker in node.workers:
            worker.up = False
        self.nodes[node.place] = None
        self.expiring += len(shards)

        def give_back() -> None:
            self.expiring -= len(shards)
            for shard in shards:
                self._release(shard)

        if shards:
            self._at(self.now + delay, give_back)
        self._at(self.now + self.faults.replacement, partial(self._replace, node.place))

    def _replace(self, place: int) -> None:
        """Start a replacement, if there is work that no worker has; otherwise at the next release."""
        if self.nodes[place] is None and (self.expiring or self.queues[self._queue(place)]):
            self._start(place)

    # Shards

    def _queue(self, place: int) -> int:
        return place % len(self.queues)

    def _push(self, shard: Shard) -> None:
        queue = self.queues[shard.index % len(self.queues)]
        heapq.heappush(queue, (-shard.left if self.policy.longest_first else 0.0, shard.index, shard))

    def _release(self, shard: Shard) -> None:
        """Let workers take a shard again."""
        self._push(shard)
        for node in self.nodes:
            if node and node.up and self.now >= node.start + self.cluster.load:
                if self.policy.index and shard.index % len(self.queues) != node.place:
                    continue
                for worker in node.workers:
                    if worker.up and worker.shard is None:
                        self._take(worker)
                        return
        for place in self._gone(shard)[
            : len(self.queues[self._queue(shard.index)])
        ]:  # their replacements found no work
            self._at(self.now + self.faults.replacement, partial(self._replace, place))

    def _gone(self, shard: Shard) -> list[int]:
        """Return the places without a node that could run a shard."""
        places = [shard.index % len(self.queues)] if self.policy.index else range(len(self.nodes))
        return [place for place in places if self.nodes[place] is None]

    def _take(self, worker: Worker) -> None:
        """Give an idle worker a shard, if there is one."""
        if not worker.up or worker.shard:
            return
        queue = self.queues[self._queue(worker.node.place)]
        if queue:
            shard = heapq.heappop(queue)[2]
            self._begin(worker, shard, shard.left)
            return
        if self._open and self._idle_since is None:
            self._idle_since = self.now
        if self.policy.tail == "copies":
            self._copy(worker)
        elif self.policy.tail == "split":
            self._split(worker)

    def _running(self) -> list[Worker]:
        return [worker for node in self.nodes if node for worker in node.workers if worker.shard]

    def _rest(self, worker: Worker) -> float:
        """Return the seconds until a running attempt ends at its present rate."""
        return worker.left / worker.rate - (self.now - worker.since)

    def _copy(self, worker: Worker) -> None:
        """Run the shard that ends last a second time, if the copy would end earlier."""
        rate = worker.node.speed / self.cluster.slowdown(worker.socket.active + 1)
        running = [other for other in self._running() if other.shard and len(other.shard.running) == 1]
        slowest = max(running, key=self._rest, default=None)
        if slowest and slowest.shard and slowest.shard.work / rate < self._rest(slowest):
            self._begin(worker, slowest.shard, slowest.shard.work)

    def _split(self, worker: Worker) -> None:
        """Take half of the rows that the shard that ends last has left, if they are more than those in flight."""
        slowest = max(self._running(), key=self._rest, default=None)
        if slowest is None or slowest.shard is None:
            return
        self._advance(slowest)
        shard, moved = slowest.shard, slowest.left / 2
        rows = int(shard.rows * moved / shard.work)
        if moved <= 2 * self.policy.in_flight or not 0 < rows < shard.rows:
            return
        new = Shard(rows, moved, len(self.shards))
        if shard.poison is not None and shard.poison < moved:
            new.poison, shard.poison = shard.poison, None
        elif shard.poison is not None:
            shard.poison -= moved
        shard.rows -= rows
        shard.work -= moved
        slowest.begun -= moved
        slowest.left -= moved
        self.shards.append(new)
        self._open += 1
        self._schedule(slowest)
        self._begin(worker, new, new.left)

    # Attempts

    def _begin(self, worker: Worker, shard: Shard, left: float) -> None:
        self._sums["attempts"] += 1
        worker.shard, worker.begun, worker.left, worker.since = shard, left, left, self.now
        shard.running.append(worker)
        if shard.lost_at is not None:
            self._recovery.append(self.now - shard.lost_at)
            shard.lost_at = None
        worker.socket.active += 1
        if worker.socket.active == worker.socket.settled:  # it follows another shard: the others go on as they were
            self._schedule(worker)
        else:
            self._settle(worker.socket)

    def _settle(self, socket: Socket) -> None:
        """Give all workers of a socket the rate that belongs to the number of active ones."""
        if socket.active != socket.settled:
            socket.settled = socket.active
            for worker in socket.workers:
                if worker.shard:
                    self._advance(worker)
                    self._schedule(worker)

    def _advance(self, worker: Worker) -> None:
        worker.left = max(0.0, worker.left - (self.now - worker.since) * worker.rate)
        worker.since = self.now

    def _schedule(self, worker: Worker) -> None:
        """Plan the end of an attempt, or the death of its worker, from ``left`` at this time."""
        shard = worker.shard
        assert shard is not None
        worker.rate = worker.node.speed / self.cluster.slowdown(worker.socket.active)
        worker.version += 1
        worker.stop = 0.0 if shard.poison is None or shard.poison > worker.left else shard.poison
        self._at(self.now + (worker.left - worker.stop) / worker.rate, partial(self._stop, worker, worker.version))

    def _stop(self, worker: Worker, version: int) -> None:
        shard = worker.shard
        if version != worker.version or shard is None:
            return
        if worker.stop > 0:
            shard.deaths += 1
            if shard.deaths >= self.policy.attempts:
                shard.poison, shard.quarantined = None, 1
            self._kill(worker.number)
            return
        worker.left = 0.0
        self._leave(worker)
        worker.node.last = self.now
        shard.done = True
        self._open -= 1
        self._sums["rows"] += shard.rows - shard.quarantined
        self._sums["quarantined"] += shard.quarantined
        for other in list(shard.running):
            self._advance(other)
            self._duplicate += other.begun - other.left
            self._leave(other)
            other.node.last = self.now
            self._take(other)
            self._settle(other.socket)
        self._take(worker)
        self._settle(worker.socket)

    def _leave(self, worker: Worker) -> None:
        assert worker.shard is not None
        worker.shard.running.remove(worker)
        worker.shard = None
        worker.version += 1
        worker.socket.active -= 1

    def _drop(self, worker: Worker, written: bool) -> Shard | None:
        """Lose an attempt; ``written``: with all its work kept. Returns the shard if no other worker has it."""
        shard = worker.shard
        if shard is None:
            return None
        self._advance(worker)
        done = worker.begun - worker.left
        part = self.policy.keep_part
        kept = done if written and part else max(0.0, done - self.policy.in_flight) if part else 0.0
        self._leave(worker)
        if shard.running:
            self._duplicate += done
            return None
        self._lost += done - kept
        shard.left = worker.begun - kept
        shard.lost_at = self.now
        return shard

    def _drop_all(self, node: Node, written: bool) -> list[Shard]:
        dropped = [self._drop(worker, written) for worker in node.workers]
        return [shard for shard in dropped if shard]

    def _kill(self, number: int) -> None:
        """End a worker's process. Its node sees this at once, and starts another."""
        node = self.nodes[number // self.cluster.workers]
        if node is None:
            return
        worker = node.workers[number % self.cluster.workers]
        if not worker.up:
            return
        shard = self._drop(worker, written=False)
        worker.up = False

        def again() -> None:
            if node.up:
                worker.up = True
                self._take(worker)

        self._at(self.now + self.cluster.restart, again)
        self._settle(worker.socket)
        if shard:
            self._release(shard)
