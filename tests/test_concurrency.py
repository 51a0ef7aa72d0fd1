"""One loaded model among threads and coroutines: which call is stopped when, and the state after closing."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_core import Cancelled, CancelToken
from pyml_core.errors import PymlError
from pyml_nlp import memory
from pyml_nlp.language_model import LanguageModel

PROMPT = "the cat in the hat and the quick brown fox"
LONG = list(range(1000, 31000))  # takes a minute and more to prefill


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path]) -> Iterator[LanguageModel]:
    """A tiny model."""
    with pyml_nlp.load(tiny_dirs["llama"], threads=2) as loaded:
        yield loaded


def test_coroutines_share_a_model(lm: LanguageModel) -> None:
    prompts = [PROMPT, "the dog", "a", PROMPT + " runs"]
    alone = [lm.generate_text(prompt, max_tokens=20, temperature=0) for prompt in prompts]
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> list[str]:
        ticking = asyncio.create_task(tick())
        texts = await asyncio.gather(*(lm.agenerate(prompt, max_tokens=20, temperature=0).read() for prompt in prompts))
        ticking.cancel()
        return texts

    assert asyncio.run(main()) == alone
    assert ticks > 4  # others went on meanwhile


def test_steps_of_a_coroutine(lm: LanguageModel) -> None:
    async def main() -> None:
        generation = lm.agenerate(PROMPT, max_tokens=10, logprobs=1, temperature=0)
        steps = [step async for step in generation]
        expected = list(lm.generate(PROMPT, max_tokens=10, logprobs=1, temperature=0))
        assert [(step.token, step.logprob) for step in steps] == [(step.token, step.logprob) for step in expected]
        assert generation.text == "".join(step.text for step in steps)
        assert generation.finish_reason in ("length", "stop")

    asyncio.run(main())


def test_errors_of_a_coroutine_come_at_once(lm: LanguageModel) -> None:
    with pytest.raises(PymlError, match="the prompt is empty"):
        lm.agenerate([], temperature=0)


def test_a_task_that_is_cancelled_stops_its_text(gemma_gguf: Path) -> None:
    async def main(lm: LanguageModel) -> None:
        generation = lm.agenerate(LONG, max_tokens=5, temperature=0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(generation.read(), 0.3)
        assert [step async for step in generation] == []
        assert (generation.finish_reason, generation.text) == ("cancelled", "")
        assert await lm.agenerate(
            "The capital of France is", max_tokens=2, temperature=0
        ).read()  # the model is free again

    with pyml_nlp.load(gemma_gguf) as lm:
        asyncio.run(main(lm))


def test_a_deadline_in_the_prompt(gemma_gguf: Path) -> None:
    with pyml_nlp.load(gemma_gguf, prefill_chunk=2048) as lm:
        generation = lm.generate(LONG, max_tokens=5, timeout=0.2, temperature=0)
        assert list(generation) == []
        assert (generation.finish_reason, generation.text) == ("timeout", "")


def test_cancelling_one_text_leaves_another(lm: LanguageModel) -> None:
    expected = lm.generate_text(PROMPT, max_tokens=40, temperature=0)
    stop = threading.Event()

    def cancel_others() -> None:
        while not stop.is_set():
            generation = lm.generate(PROMPT, max_tokens=40, temperature=0)
            next(generation)
            generation.cancel()
            list(generation)

    other = threading.Thread(target=cancel_others)
    other.start()
    try:
        assert [lm.generate_text(PROMPT, max_tokens=40, temperature=0) for _ in range(10)] == [expected] * 10
    finally:
        stop.set()
        other.join()


# ---- calls that wait for their turn


@pytest.fixture
def occupied(lm: LanguageModel) -> Iterator[LanguageModel]:
    """The model, whose turn another thread has."""
    taken, leave = threading.Event(), threading.Event()

    def occupy() -> None:
        with lm.model.program._lock:
            taken.set()
            leave.wait(60)

    worker = threading.Thread(target=occupy)
    worker.start()
    assert taken.wait(60)
    yield lm
    leave.set()
    worker.join()
    assert lm.generate_text(PROMPT, max_tokens=2, temperature=0)  # it is free again


def soon(call: Callable[[], object]) -> None:
    """It ends long before the model is free."""
    start = time.monotonic()
    call()
    assert time.monotonic() - start < 5


def test_a_deadline_before_the_turn(occupied: LanguageModel) -> None:
    def run() -> None:
        generation = occupied.generate(PROMPT, max_tokens=5, timeout=0.1, temperature=0)
        assert list(generation) == []
        assert (generation.finish_reason, generation.text) == ("timeout", "")
        done = occupied.generate_batch([PROMPT, "x", "y"], max_tokens=5, timeout=0.1, temperature=0)
        assert [completion.finish_reason for completion in done] == ["timeout"] * 3

    soon(run)


@pytest.mark.parametrize("stop", [lambda lm, generation: generation.cancel(), lambda lm, _: lm.cancel()])
def test_cancelled_before_the_turn(occupied: LanguageModel, stop: Callable[[LanguageModel, Any], None]) -> None:
    def run() -> None:
        generation = occupied.generate(PROMPT, max_tokens=5, temperature=0)
        lock = occupied.model.program._lock

        def cancel() -> None:
            while not lock.waiting:
                time.sleep(0.001)
            stop(occupied, generation)

        canceller = threading.Thread(target=cancel)
        canceller.start()
        assert list(generation) == []
        canceller.join()
        assert generation.finish_reason == "cancelled"

    soon(run)


def test_a_task_before_the_turn(occupied: LanguageModel) -> None:
    async def main() -> None:
        generation = occupied.agenerate(PROMPT, max_tokens=5, temperature=0)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(generation.read(), 0.1)
        assert generation.finish_reason == "cancelled"

    soon(lambda: asyncio.run(main()))


def test_a_draft_before_its_turn(occupied: LanguageModel, tiny_dirs: dict[str, Path]) -> None:
    """The smaller model is the one that is occupied."""
    with pyml_nlp.load(tiny_dirs["llama"], threads=2) as lm:
        generation = lm.generate(PROMPT, max_tokens=60, timeout=1.0, draft_model=occupied, temperature=0)
        soon(lambda: list(generation))
        assert generation.finish_reason == "timeout"


@pytest.mark.parametrize(
    "call",
    [
        lambda lm: lm.score(PROMPT), lambda lm: lm.logits(PROMPT), lambda lm: lm.generate_text(PROMPT, max_tokens=2),
        lambda lm: lm.prefill(PROMPT),
    ],
    ids=["score", "logits", "generate", "prefill"],
)  # fmt: skip
def test_ctrl_c_before_the_turn(occupied: LanguageModel, call: Callable[[LanguageModel], object]) -> None:
    lock = occupied.model.program._lock

    def interrupt() -> None:
        while not lock.waiting:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sender = threading.Thread(target=interrupt)
    sender.start()

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            call(occupied)

    try:
        soon(run)
    finally:
        sender.join()
        signal.signal(signal.SIGINT, before)


def test_a_token_before_the_turn(occupied: LanguageModel) -> None:
    def run() -> None:
        for call in (lambda: occupied.score(PROMPT), lambda: occupied.logits(PROMPT)):
            with CancelToken(0.1), pytest.raises(Cancelled):
                call()

    soon(run)


def test_closing_ends_what_waits(tiny_dirs: dict[str, Path]) -> None:
    lm = pyml_nlp.load(tiny_dirs["llama"], threads=2)
    lock, errors = lm.model.program._lock, list[str]()

    def work() -> None:
        try:
            lm.generate_text(PROMPT, max_tokens=5, temperature=0)
        except PymlError as error:
            errors.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(3)]
    with lock:
        for worker in workers:
            worker.start()
        while lock.waiting < 3:
            time.sleep(0.001)
        closer = threading.Thread(target=lm.close)
        closer.start()
        for worker in workers:
            worker.join(60)
    closer.join(60)
    assert not closer.is_alive()
    assert [error.endswith("it is closed") for error in errors] == [True] * 3


# ---- closing


def resident() -> int:
    """Bytes of this process's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_closing_gives_the_memory_back(gemma_gguf: Path) -> None:
    gc.collect()
    memory.give_back()  # leftovers of earlier tests would be reused, and not be counted
    before = resident()
    lm = pyml_nlp.load(gemma_gguf)
    generation = lm.generate("The capital of France is", max_tokens=8, temperature=0)
    next(generation)
    lm.prefill("word " * 500)
    loaded = resident() - before
    assert loaded > 230e6
    lm.close()
    gc.collect()
    assert resident() - before < 0.35 * loaded  # the tokenizer and the text still exist
    uses: list[Any] = [
        lambda: list(generation), lambda: lm.generate_text("x"), lambda: lm.logits("x"), lambda: lm.prefill("x"),
        lambda: list(lm.generate_batch(["x"])), lambda: lm.new_cache(), lambda: lm.agenerate("x"),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(PymlError, match="it is closed"):
            use()


def test_closing_while_a_thread_generates(gemma_gguf: Path) -> None:
    lm = pyml_nlp.load(gemma_gguf)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            list(lm.generate(LONG, max_tokens=5, temperature=0))
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.5)  # by now it runs, or will find the model closed when it begins
    lm.close()
    worker.join(60)
    assert not worker.is_alive()
    assert [type(error) for error in errors] == [PymlError]
    assert "it is closed" in str(errors[0])
