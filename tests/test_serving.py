"""Submitted texts with real kernels: grammars, traces, forks, the end of the process."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from thread_cases import in_child

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp.generation.scheduler import Scheduler
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.language_model import LanguageModel

PATIENCE = 120
PROMPT = "the cat in the hat and the quick brown fox"


@pytest.fixture(scope="module")
def lm(tiny_dirs: dict[str, Path]) -> Iterator[LanguageModel]:
    """A tiny model."""
    with pyml_nlp.load(tiny_dirs["llama"], threads=2) as loaded:
        yield loaded


def requests() -> list[dict[str, Any]]:
    """Texts of all kinds."""
    pytest.importorskip("llguidance")
    return [
        {"prompt": PROMPT, "max_tokens": 20, "temperature": 0},
        {"prompt": PROMPT, "max_tokens": 12, "temperature": 0.9, "seed": 3, "logprobs": 2},
        {"prompt": "a", "max_tokens": 20, "regex": "[a-d]{2,4}(yes|no)", "temperature": 0},
        {"prompt": "b", "max_tokens": 25, "regex": "[a-z ]{5,30}", "temperature": 1.1, "seed": 4},
        {"prompt": "count", "max_tokens": 30, "schema": {"enum": ["one", "two"]}, "temperature": 0.5, "seed": 9},
        {"prompt": PROMPT * 4, "max_tokens": 8, "temperature": 0, "stop": ["the", "a"]},
        {"prompt": "x " * 90, "max_tokens": 6, "temperature": 0.7, "top_p": 0.9, "seed": 1},
        {"prompt": PROMPT + " jumps", "max_tokens": 15, "temperature": 0, "repetition_penalty": 1.3},
    ]


def test_texts_that_lose_their_places_are_the_same(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every few runs a text has to give its memory away: grammars, penalties, noise and log probabilities go on."""
    admit, rng, counts = Scheduler.admit, random.Random(5), list[int]()

    def admit_after(scheduler: Scheduler) -> None:
        if scheduler.batch and not scheduler._generator.has_steps and rng.random() < 0.4:
            chosen = rng.choice(scheduler.batch)
            counts.append(len(chosen.tokens))
            scheduler.preempt(chosen)
        admit(scheduler)

    wanted = requests()
    alone = []
    for options in wanted:
        generation = lm.generate(**options)
        list(generation)
        alone.append((generation.text, generation.tokens, generation.completion.logprobs))
    monkeypatch.setattr(Scheduler, "admit", admit_after)
    monkeypatch.setattr(Costs, "ms", 15.0)  # so that a call of the model has few runs
    for clear in (True, False):
        if clear:
            lm.prefix_cache.clear()
        streams = [lm.submit(**options) for options in wanted]
        for number, stream in enumerate(streams):
            stream.result(PATIENCE)
            assert (stream.text, stream.tokens, stream.completion.logprobs) == alone[number]
    assert len([count for count in counts if count]) > 5


def test_all_kinds_of_texts_at_once(lm: LanguageModel) -> None:
    """From threads and coroutines, in any order: each is the same as alone."""
    wanted = requests()
    alone = []
    for options in wanted:
        generation = lm.generate(**options)
        list(generation)
        alone.append((generation.text, generation.tokens, generation.completion.logprobs))
    lm.prefix_cache.clear()
    wrong: list[object] = []

    def check(number: int, stream: Any) -> None:
        found = (stream.text, stream.tokens, stream.completion.logprobs)
        if found != alone[number]:
            wrong.append((number, found, alone[number]))

    def read(seed: int) -> None:
        rng = random.Random(seed)
        streams = []
        for _ in range(8):
            number = rng.randrange(len(wanted))
            streams.append((number, lm.submit(**wanted[number])))
            if rng.random() < 0.3:
                lm.submit(PROMPT, max_tokens=50).cancel()
        for number, stream in streams:
            if rng.random() < 0.5:
                assert "".join(step.text for step in stream) == alone[number][0]
            stream.result(PATIENCE)
            check(number, stream)

    async def main(seed: int) -> None:
        order = random.Random(seed).sample(range(len(wanted)), len(wanted))

        async def one(number: int) -> None:
            stream = lm.agenerate(**wanted[number])
            async for _ in stream:
                pass
            check(number, stream)

        await asyncio.gather(*(one(number) for number in order))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(main(7))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert wrong == []


def test_a_bad_grammar_is_refused_at_once(lm: LanguageModel) -> None:
    requests()
    with pytest.raises(PymlError, match="regex: "):
        lm.submit("a", max_tokens=5, regex="(")


def test_a_traced_text_runs_alone(lm: LanguageModel) -> None:
    """Its trace shows all of it and nothing else, though others are submitted before and after."""
    expected = lm.generate_text(PROMPT, max_tokens=6, temperature=0)
    with lm.trace() as direct:
        lm.generate_text(PROMPT, max_tokens=6, temperature=0)
    before = [lm.submit("the dog", max_tokens=20, temperature=0) for _ in range(3)]
    with lm.trace() as trace:
        stream = lm.submit(PROMPT, max_tokens=6, temperature=0)
        second = lm.submit(PROMPT, max_tokens=6, temperature=0)
    after = [lm.submit("the dog", max_tokens=20, temperature=0) for _ in range(3)]
    assert stream.result(PATIENCE).text == second.result(PATIENCE).text == expected
    assert len({other.result(PATIENCE).text for other in (*before, *after)}) == 1
    names = [event.name for event in direct.events]
    assert [event.name for event in trace.events] == names * 2


# ---- processes


def test_forks_while_texts_run(lm: LanguageModel) -> None:
    expected = lm.generate_text(PROMPT, max_tokens=30, temperature=0)

    def child() -> None:
        with pytest.raises(PymlError, match="generated in the process that submitted it"):
            list(streams[0])
        with pytest.raises(PymlError, match="generated in the process that submitted it"):
            streams[0].result()
        streams[0].cancel()  # a child ends nothing of its parent
        own = [lm.submit(PROMPT, max_tokens=30, temperature=0) for _ in range(3)]
        assert [one.result(PATIENCE).text for one in own] == [expected] * 3
        assert asyncio.run(lm.agenerate(PROMPT, max_tokens=30, temperature=0).read()) == expected
        lm.close()

    endless: Any = {"max_tokens": 10**6, "overflow": "shift", "logit_bias": dict.fromkeys(lm.eos_ids, -float("inf"))}
    for _ in range(6):
        streams = [lm.submit(PROMPT, **endless)]
        streams += [lm.submit(PROMPT, max_tokens=30, temperature=0) for _ in range(3)]
        in_child(child)
        assert [stream.result(PATIENCE).text for stream in streams[1:]] == [expected] * 3
        streams[0].cancel()
        assert streams[0].result(PATIENCE).finish_reason == "cancelled"


def run(script: str, folder: Path) -> str:
    """Standard output of a process, which has to end well, and soon."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HEAD = """
import os, sys, threading, pyml_nlp
lm = pyml_nlp.load(sys.argv[1], threads=2)
endless = {"max_tokens": 10**6, "overflow": "shift", "logit_bias": dict.fromkeys(lm.eos_ids, -float("inf"))}
"""


@pytest.mark.parametrize(
    "script",
    [
        "stream = lm.submit('the cat', **endless); next(stream); print('end')",
        "streams = [lm.submit('the cat', max_tokens=50) for _ in range(30)]; print('end')",
        "lm.submit('the cat', max_tokens=5).result(); print('end')",
        "stream = lm.submit('the cat', **endless); lm.close(); print('end')",
    ],
    ids=["running", "waiting", "idle", "closed"],
)
def test_the_interpreter_ends_whatever_runs(script: str, tiny_dirs: dict[str, Path]) -> None:
    assert run(HEAD + script, tiny_dirs["llama"]) == "end\n"


def test_a_thread_reads_on_after_the_main_one_has_ended(tiny_dirs: dict[str, Path]) -> None:
    script = "threading.Thread(target=lambda: print(len(list(lm.submit('the cat', max_tokens=60))))).start()"
    assert 0 < int(run(HEAD + script, tiny_dirs["llama"])) <= 60


def test_ctrl_c_while_a_text_is_waited_for(tiny_dirs: dict[str, Path]) -> None:
    script = """
import signal
stream = lm.submit('the cat', **endless)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    stream.result()
except KeyboardInterrupt:
    print(stream.finish_reason)
stream.cancel()
print(stream.result().finish_reason)
"""
    assert run(HEAD + script, tiny_dirs["llama"]) == "None\ncancelled\n"


def test_a_handler_that_forks_while_a_text_is_waited_for(tiny_dirs: dict[str, Path]) -> None:
    """In the child the wait ends with an error."""
    script = """
import signal
children = []
signal.signal(signal.SIGUSR1, lambda *_: children.append(os.fork()))
stream = lm.submit('the cat', **endless)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
timer = threading.Timer(1.0, stream.cancel)
timer.start()
try:
    stream.result()
except Exception as error:
    os._exit(7 if 'submitted it' in str(error) else 8)
print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
"""
    assert run(HEAD + script, tiny_dirs["llama"]) == "7\n"
