"""Loads of the comparison of servers: what is asked, when, and what comes of it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter, process_time

from serving_client import Answer, Question, Response, ask, read

TEXT = Path(__file__).with_name("text.txt").read_text()
CHARACTERS = 4  # of the text, a token, about
PATIENCE = 120.0
GRACE = 1.0
"""Seconds after a load in which answers may still end."""

LONG, STREAM = "long prompt", "stream"
EVERY = 2.0
"""Seconds from one long prompt to the next."""


@dataclass(frozen=True)
class Asking:
    """How prompts become requests.

    Attributes:
        chat: as messages; else as texts to be continued.
        temperature: of the answers.
        model: name of the model.
    """

    chat: bool
    temperature: float
    model: str = "default"

    def question(self, prompt: str, max_tokens: int, seed: int, kind: str = "") -> Question:
        """A request for a stream."""
        body = {
            "model": self.model, "max_tokens": max_tokens, "temperature": self.temperature, "seed": seed,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        if self.chat:
            return Question("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}, kind)
        return Question("/v1/completions", {**body, "prompt": prompt}, kind)


# ---- what is asked


def passage(rng: random.Random, tokens: int) -> str:
    """A part of the text, of about this many tokens; no two begin alike."""
    text, length = f"{rng.randrange(1 << 24)} ", tokens * CHARACTERS
    while len(text) < length:
        start = rng.randrange(len(TEXT) - 1000)
        text += TEXT[start : start + min(1000, length - len(text))]
    return text


def short_chats(asking: Asking, seed: int) -> Iterator[Question]:
    """Prompts of 20 to 900 tokens, answers of 16 to 256, uniform in their logarithms."""
    rng = random.Random(seed)
    for number in count():
        prompt, output = (int(math.exp(rng.uniform(*map(math.log, ends)))) for ends in ((20, 900), (16, 256)))
        yield asking.question(passage(rng, prompt), output, number)


def shared_prefix(asking: Asking, seed: int) -> Iterator[Question]:
    """Questions of 40 tokens after the same 1 000; answers of 64."""
    rng = random.Random(seed)
    prefix = passage(rng, 1000)
    for number in count():
        yield asking.question(prefix + passage(rng, 40), 64, number)


def streams(asking: Asking, seed: int) -> Iterator[Question]:
    """Long answers to short prompts."""
    rng = random.Random(seed)
    for number in count():
        yield asking.question(passage(rng, 40), 256, number, STREAM)


def long_prompts(asking: Asking, seed: int, tokens: int) -> Iterator[Question]:
    """Short answers to long prompts."""
    rng = random.Random(seed)
    for number in count():
        yield asking.question(passage(rng, tokens), 16, number, LONG)


# ---- when, and what comes of it


@dataclass
class Load:
    """A load that has been run.

    Attributes:
        seconds: for which it ran; what came later counts for no rate.
        begun: as :func:`time.perf_counter` counts.
        answers: to all requests.
        client_share: of one processor, that the client took.
    """

    seconds: float
    begun: float
    answers: list[Answer]
    client_share: float

    @property
    def good(self) -> list[Answer]:
        """Answers that came, whole or until they were cut."""
        return [one for one in self.answers if one.error is None]

    @property
    def whole(self) -> list[Answer]:
        """Answers that came whole."""
        return [one for one in self.good if one.times and not one.cut]

    @property
    def tokens_per_event(self) -> float:
        """Tokens of an event with text: more than one where tokens come together."""
        return sum(one.tokens for one in self.whole) / max(1, sum(len(one.times) for one in self.whole))

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second; those of an answer are spread evenly over its events."""
        end, mean = self.begun + self.seconds, self.tokens_per_event
        found = 0.0
        for one in self.good:
            inside = sum([time <= end for time in one.times])
            found += inside * (mean if one.cut or not one.times else one.tokens / len(one.times))
        return found / self.seconds

    @property
    def requests_per_second(self) -> float:
        """Answers a second that ended in time."""
        return sum([one.ended <= self.begun + self.seconds for one in self.whole]) / self.seconds

    def goodput(self, ttft: float, token_seconds: float) -> float:
        """Answers a second that began and went on in time."""
        kept = [one for one in self.whole if one.ttft <= ttft and one.token_seconds <= token_seconds]
        return len(kept) / self.seconds


class _Running:
    """The requests of a load."""

    def __init__(self, port: int, end: float = math.inf) -> None:
        self.responses: list[Response] = []
        self._port = port
        self._end = end

    async def ask(self, question: Question) -> None:
        """Send a request. It is cut soon after the end of the load."""
        asking = asyncio.ensure_future(ask(self._port, question, PATIENCE))
        await asyncio.wait((asking,), timeout=self._end - perf_counter() + GRACE if self._end < math.inf else None)
        asking.cancel()  # without an effect on one that has ended
        self.responses.append(await asking)


async def closed(port: int, questions: Iterator[Question], clients: int, seconds: float) -> Load:
    """Each client asks again when it has its answer."""
    return await _run(port, seconds, lambda running, end: [_asks(running, questions, end) for _ in range(clients)])


async def mixed(
    port: int, streams: Iterator[Question], prompts: Iterator[Question], clients: int, seconds: float
) -> Load:
    """Clients that read streams, and a long prompt from time to time."""
    return await _run(
        port,
        seconds,
        lambda running, end: [
            *(_asks(running, streams, end) for _ in range(clients)),
            _arrives(running, prompts, end, lambda: EVERY),
        ],
    )


async def offered(port: int, questions: Iterator[Question], rate: float, seconds: float, seed: int) -> Load:
    """Requests arrive at random, ``rate`` a second, whatever becomes of them."""
    rng = random.Random(seed)
    return await _run(
        port, seconds, lambda running, end: [_arrives(running, questions, end, lambda: rng.expovariate(rate))]
    )


async def _run(
    port: int, seconds: float, clients: Callable[[_Running, float], list[Coroutine[None, None, None]]]
) -> Load:
    begun, used = perf_counter(), process_time()
    running = _Running(port, begun + seconds)
    await asyncio.gather(*clients(running, begun + seconds))
    share = (process_time() - used) / (perf_counter() - begun)
    return Load(seconds, begun, list(map(read, running.responses)), share)


async def _asks(running: _Running, questions: Iterator[Question], end: float) -> None:
    while perf_counter() < end:
        await running.ask(next(questions))


async def _arrives(running: _Running, questions: Iterator[Question], end: float, pause: Callable[[], float]) -> None:
    async with asyncio.TaskGroup() as group:
        due = perf_counter()
        while (due := due + pause()) < end:
            await asyncio.sleep(max(due - perf_counter(), 0))
            group.create_task(running.ask(next(questions)))


async def at_once(port: int, questions: Sequence[Question], clients: int) -> Load:
    """These requests, from the beginning to the end of the last answer."""
    rest = iter(questions)
    running, begun, used = _Running(port), perf_counter(), process_time()

    async def asks() -> None:
        for question in rest:
            await running.ask(question)

    await asyncio.gather(*(asks() for _ in range(clients)))
    seconds = perf_counter() - begun
    return Load(seconds, begun, list(map(read, running.responses)), (process_time() - used) / seconds)
