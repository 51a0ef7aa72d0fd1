"""Whose turn it is: priorities, clients by what they were served, order within a client."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from fake_model import cycle, make, request

from pyml_nlp.generation.completion import Completion
from pyml_nlp.generation.fair_queue import TOKEN_COST, FairQueue
from pyml_nlp.generation.generator import Generator

_generator = Generator(make(cycle, context=2000))


def waiting(client: str | None, length: int = 10, priority: int = 0) -> Completion:
    completion = _generator.prepare(request([5] * length, 100))
    completion.client, completion.priority = client, priority
    return completion


def serve(queue: FairQueue, tokens: int) -> Completion:
    """The next text gets a place, has this many tokens, and ends."""
    completion = queue.heads()[0]
    queue.take(completion)
    completion.tokens += [1] * tokens
    completion.end("length")
    return completion


def test_one_client_in_order_of_arrival() -> None:
    queue = FairQueue()
    texts = [waiting(None, length) for length in (30, 2, 7)]
    for completion in texts:
        queue.add(completion)
    assert len(queue) == 3
    assert [serve(queue, 5) for _ in texts] == texts
    assert (len(queue), queue.heads()) == (0, [])


def test_priorities_first() -> None:
    queue = FairQueue()
    low, high, higher, other = waiting("a"), waiting("a", priority=1), waiting("b", priority=2), waiting("b")
    for completion in (low, high, higher, other):
        queue.add(completion)
    assert [serve(queue, 1) for _ in range(4)] == [higher, high, low, other]


def test_a_text_that_had_a_place_comes_first() -> None:
    queue = FairQueue()
    texts = [waiting("a", priority=9), waiting("b")]
    for completion in texts:
        queue.add(completion)
    queue.add_first(texts[1])
    assert queue.heads() == [texts[1]]
    queue.remove(texts[1])
    assert queue.heads() == [texts[0]]


def test_removed_texts_get_no_turn() -> None:
    queue = FairQueue()
    texts = [waiting("a") for _ in range(5)]
    for completion in texts:
        queue.add(completion)
    for number in (0, 1, 3):
        queue.remove(texts[number])
        queue.remove(texts[number])
    assert len(queue) == 2
    assert [serve(queue, 1), serve(queue, 1)] == [texts[2], texts[4]]


def test_clients_get_the_same_number_of_tokens() -> None:
    """Whatever the lengths of their texts are, as long as all of them have texts waiting."""
    rng = random.Random(1)
    queue = FairQueue()
    lengths = {"short": (5, 10), "long": (400, 200), "mixed": (0, 0)}
    tokens: Counter[str | None] = Counter()
    largest = 0
    for name in lengths:
        for _ in range(20):
            queue.add(waiting(name, lengths[name][0] or rng.choice([5, 300])))
    for _ in range(400):
        client = queue.heads()[0].client
        assert client is not None
        produced = lengths[client][1] or rng.randrange(1, 150)
        done = serve(queue, produced)
        cost = len(done.prompt) + TOKEN_COST * produced
        largest = max(largest, cost)
        tokens[client] += cost
        queue.add(waiting(client, lengths[client][0] or rng.choice([5, 300])))
        if sum(tokens.values()) > 10 * largest:
            assert max(tokens.values()) - min(tokens[name] for name in lengths) <= 2 * largest


def test_the_tokens_of_running_texts_count() -> None:
    queue = FairQueue()
    running = [waiting("a", 4), waiting("b", 30)]
    for completion in running:
        queue.add(completion)
    for completion in running:
        queue.take(completion)
    queue.add(waiting("a"))
    queue.add(waiting("b"))
    assert [one.client for one in queue.heads()] == ["a", "b"]
    running[0].tokens += [1] * 20
    assert [one.client for one in queue.heads()] == ["b", "a"]


def test_a_client_cannot_save_up_turns() -> None:
    """One that was away is lifted to the others, so it does not get all of the next turns."""
    queue = FairQueue()
    for _ in range(40):
        queue.add(waiting("busy"))
    for _ in range(20):
        serve(queue, 10)
    for _ in range(20):
        queue.add(waiting("back"))
    served = [serve(queue, 10).client for _ in range(20)]
    assert abs(served.count("busy") - served.count("back")) <= 1


def test_clients_that_are_gone_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(2000):
        queue.add(waiting(f"client {number}"))
        if number % 3:
            serve(queue, 2)
    while queue:
        serve(queue, 2)
    queue.add(waiting("x"))
    serve(queue, 1)
    queue.add(waiting("y"))
    queue.heads()
    assert len(queue._clients) <= 2


def test_any_order_of_calls() -> None:
    """Against a plain model: every text gets its turn once, clients keep their order, priorities come first."""
    for seed in range(60):
        rng = random.Random(seed)
        queue, expected, served = FairQueue(), [], []
        numbers: dict[Completion, int] = {}
        count = itertools.count()
        for _ in range(120):
            action = rng.random()
            if action < 0.5:
                one = waiting(rng.choice(["a", "b", "c", None]), rng.randrange(1, 40), rng.choice([0, 0, 0, 1]))
                numbers[one] = next(count)
                queue.add(one)
                expected.append(one)
            elif action < 0.6 and expected:
                gone = expected.pop(rng.randrange(len(expected)))
                queue.remove(gone)
            elif expected:
                one = serve(queue, rng.randrange(30))
                assert one.priority == max(other.priority for other in expected)
                same = [other for other in expected if (other.client, other.priority) == (one.client, one.priority)]
                assert one is min(same, key=numbers.__getitem__)
                expected.remove(one)
                served.append(one)
            assert len(queue) == len(expected)
        assert len(set(served)) == len(served)
