"""A process that forks while another of its threads is busy: the child can do everything."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from thread_cases import held, in_child

import pyml_core.memory
import pyml_nlp
from pyml_core.errors import Cancelled
from pyml_nlp import loading
from pyml_nlp.background import BackgroundCall, run_cancellable
from pyml_nlp.chat.renderer import Renderer
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.structured.grammar import Grammar
from pyml_nlp.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import tiny_files, tiny_models

PATIENCE = 60  # seconds
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageModel]:
    """A tiny model that can chat."""
    folder = tiny_files.write_hf(tiny_models.MODELS["llama"], tmp_path_factory.mktemp("forks") / "llama")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    with pyml_nlp.load(folder, threads=2) as loaded:
        yield loaded


@contextmanager
def again_and_again(*calls: Callable[[], object]) -> Iterator[None]:
    """Each in a thread of its own, until the end of the block."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(call: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert errors == []


def everything(lm: LanguageModel) -> list[object]:
    """A little of each feature of a model."""
    with lm.trace() as trace:
        text = lm.generate_text("the cat sat", max_tokens=4, temperature=0)
    return [
        text,
        len(trace.events) > 10,
        lm.generate_text("x", max_tokens=3, regex="[a-z]+", temperature=0),
        lm.chat_ids("hello"),
        lm.prefill("the cat sat on the mat").length,
        pyml_core.memory.weights_empty(100).size,
    ]


def test_every_lock_of_another_thread_is_free_in_the_child(lm: LanguageModel) -> None:
    expected = everything(lm)
    trace = lm.trace()
    locks = {
        "program": lm.model.program._lock,
        "tokenizer": lm.tokenizer._lock,  # type: ignore[attr-defined]
        "vocabulary": lm.engine._vocabulary_lock,
        "grammars": lm.vocabulary._lock,
        "renderer": lm.chat_template._renderer._lock,
        "prefix cache": lm.prefix_cache._lock,
        "weights": pyml_core.memory._lock,
        "trace": trace._lock,
    }

    def child() -> None:
        assert everything(lm) == expected
        assert trace.events == []
        lm.close()

    for lock in locks.values():
        with held(lock):
            in_child(child)


def test_the_sources_have_no_other_locks() -> None:
    """Those of ``threading``, and of ``functools.cached_property`` in Python 3.11, would stay taken in a child."""
    names = r"(R?Lock|Condition|\w*Semaphore|Barrier)"
    others = re.compile(
        rf"threading\.{names}|from threading import.*{names}|(import|from) queue|functools import.*cached_property"
    )
    for path in (Path(__file__).parents[1] / "packages").glob("*/src/**/*.py"):
        assert others.findall(path.read_text()) == [], path


def test_forks_while_threads_use_one_grammar(lm: LanguageModel) -> None:
    """Matchers of one grammar share a state of llguidance."""
    grammar = Grammar("regex", "([a-z]{1,40} ){2,40}")
    expected = lm.vocabulary.matcher(grammar).allowed().tolist()

    def mask() -> None:
        matcher = lm.vocabulary.matcher(grammar)
        for _ in range(20):
            matcher.allowed()

    own = lm.vocabulary.matcher(grammar)

    def child() -> None:
        assert own.allowed().tolist() == expected
        assert lm.vocabulary.matcher(grammar).allowed().tolist() == expected

    with again_and_again(mask, mask):
        for _ in range(15):
            in_child(child)


def test_forks_while_threads_do_everything(lm: LanguageModel) -> None:
    expected = everything(lm)
    numbers = iter(range(1, 1 << 30))

    def child() -> None:
        assert everything(lm) == expected

    with again_and_again(
        lambda: lm.tokenizer.encode("the cat sat on the mat " * 100),
        lambda: lm.vocabulary.matcher(Grammar("regex", f"[a-z]{{{next(numbers)}}}")),
        lambda: lm.chat_ids("hello"),
        lambda: lm.prefill(f"the cat {next(numbers)}"),
    ):
        for _ in range(8):
            in_child(child)


def test_forks_while_a_thread_loads(lm: LanguageModel, tiny_dirs: dict[str, Path]) -> None:
    """The child loads models, too."""
    expected = lm.generate_text("the cat", max_tokens=4, temperature=0)

    def child() -> None:
        with pyml_nlp.load(tiny_dirs["llama"], threads=2) as other:
            assert other.generate_text("the cat", max_tokens=4, temperature=0) == expected

    with again_and_again(lambda: pyml_nlp.load(tiny_dirs["llama"], threads=2).close()):
        for _ in range(8):
            in_child(child)


def test_a_fork_within_a_load(tiny_dirs: dict[str, Path]) -> None:
    """The tokenizer is made in a thread, which the child does not have: it makes its own."""
    forked = threading.Event()
    parent = multiprocessing.current_process().pid

    def late() -> Tokenizer:
        if multiprocessing.current_process().pid == parent:
            assert forked.wait(PATIENCE)
        return load_tokenizer(tiny_dirs["llama"])

    call = BackgroundCall(late)
    in_child(lambda: call.result().encode("the cat"))
    forked.set()
    assert call.result().encode("the cat")


def test_a_fork_in_a_handler_while_a_call_is_waited_for() -> None:
    """The thread that makes the call is not in the child."""
    go_on, children = threading.Event(), list[int]()

    def handle(*_: object) -> None:
        children.append(os.fork())
        go_on.set()

    before = signal.signal(signal.SIGUSR1, handle)
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        assert run_cancellable(lambda: go_on.wait(PATIENCE))
    except Cancelled:
        os._exit(7)
    finally:
        signal.signal(signal.SIGUSR1, before)
    timer.join()
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7


def test_parent_and_child_have_a_renderer_each() -> None:
    renderer = Renderer()
    assert renderer.render("{{ x }}", {"x": 1}) == "1"
    process = renderer._process
    assert process is not None

    def child() -> None:
        assert renderer.render("{{ x }}", {"x": 2}) == "2"
        assert renderer._process is not None
        assert renderer._process.pid != process.pid
        renderer.close()

    with again_and_again(lambda: renderer.render("{{ x }}", {"x": 1})):
        in_child(child)
    in_child(renderer.close)
    assert process.poll() is None
    assert renderer.render("{{ x }}", {"x": 3}) == "3"
    assert renderer._process is process
    renderer.close()


def test_a_fork_while_a_renderer_is_started() -> None:
    """When there is a process already, and nothing yet that would end it."""
    renderer = Renderer()
    renderer.start()
    stop, renderer._stop = renderer._stop, None

    def child() -> None:
        process = renderer._process
        assert renderer.render("{{ x }}", {"x": 2}) == "2"
        assert renderer._process is not process
        renderer.close()

    in_child(child)
    renderer._stop = stop
    assert renderer.render("{{ x }}", {"x": 3}) == "3"
    renderer.close()


def test_an_interrupted_load_does_not_wait_for_the_tokenizer(
    tiny_dirs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_tokenizer", lambda _: go_on.wait(PATIENCE))
    monkeypatch.setattr(loading, "_load_weights", interrupt)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pyml_nlp.load(tiny_dirs["llama"])
    assert time.monotonic() - start < PATIENCE / 2
    go_on.set()
