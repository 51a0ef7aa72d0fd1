"""Render chat templates in a process of their own, which may take a second and some memory and is ended beyond that.

Limits hold whatever the template does and whichever thread asks: a loop inside of a single operation on text cannot be
interrupted in our own process, but another process can be ended. See docs/decisions/0012-chat-templates.md.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyml_core import cancel
from pyml_core.errors import one_line
from pyml_core.locks import Lock

from ..errors import ChatTemplateError

CPU_SECONDS = 1.0
"""Processor time that one rendering may take, compilation included; real templates take some hundredths."""

WALL_SECONDS = 60.0
"""Time by the clock after which a rendering is given up: long, since a busy machine delays honest templates too."""

MEMORY_MB = 512
"""Address space of the process; Python and Jinja take some 40 MB of it."""

MAX_CHARACTERS = 2 << 20
"""Characters that a template may write, about four times what a context of 131 072 tokens takes."""

_STEP = 0.05  # seconds between looks at the clock and at who may have cancelled
_MAX_ANSWER = 12 * MAX_CHARACTERS + 4096  # bytes: a character may take twelve in JSON
_NEEDED = ("jinja2", "markupsafe")
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")  # of the environment; secrets are none of a template's business


class Renderer:
    """A process that renders templates, started when it is first needed and again after it had to be ended.

    Safe to use from several threads, one after the other. After a fork, the child starts a process of its own.

    Args:
        cpu_seconds: see :data:`CPU_SECONDS`.
    """

    def __init__(self, cpu_seconds: float = CPU_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[Any, Any] | None = None
        self._owner = os.getpid()

    def start(self) -> None:
        """Start the process, without waiting until it is ready, so that it is when it is needed."""
        with self._lock:
            self._started()

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """The template's text.

        Args:
            source: the template.
            variables: what it is given, of JSON's types.

        Raises:
            ChatTemplateError: it is no template, it says that the messages do not suit it, or it takes too much.
            Cancelled: by the :class:`pyml_core.CancelToken` that this thread has entered.
        """
        request = json.dumps({"source": source, "variables": variables}).encode() + b"\n"
        with self._lock:
            process = self._started()
            if process.poll() is not None:  # it was ended from outside, between two requests
                self._end()
                process = self._started()
            try:
                line = _exchange(process, request, time.monotonic() + WALL_SECONDS)
            except BaseException:
                self._end()  # its answer would be taken for that to the next request
                raise
            if not line.endswith(b"\n"):
                raise ChatTemplateError(f"chat template: {self._reason(process)}")
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            raise ChatTemplateError(f"chat template: {one_line(answer['error'])}")
        return answer["text"]

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        self._leave_parents()
        if self._process is None:
            self._process = _start(self._cpu_seconds)
            self._stop = weakref.finalize(self, _end, self._process, self._owner)
        return self._process

    def _leave_parents(self) -> None:
        """After a fork, the process is the parent's, whatever the parent was doing with it."""
        if self._owner == os.getpid():
            return
        if self._stop is not None:
            self._stop.detach()
        if self._process is not None:
            self._process.returncode = 0  # nothing to wait for
        self._process, self._stop = None, None
        self._owner = os.getpid()

    def _end(self) -> None:
        self._leave_parents()
        if self._stop is not None:
            self._stop()
        self._process, self._stop = None, None

    def _reason(self, process: subprocess.Popen[bytes]) -> str:
        """Why there is no answer; the process is ended."""
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._end()
            return f"it did not end within {WALL_SECONDS:g} s"
        self._end()
        if code == -signal.SIGPROF:
            return f"it takes more than {self._cpu_seconds:g} s of processor time"
        return f"rendering it ended the process that does so ({_ending(code)})"


def _start(cpu_seconds: float) -> subprocess.Popen[bytes]:
    folders = []
    for name in _NEEDED:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ChatTemplateError(f"chat template: the package {name} is missing: pip install {name}")
        folders.append(str(Path(spec.origin).parents[1]))
    worker = Path(__file__).with_name("worker.py")
    limits = (str(cpu_seconds), str(MEMORY_MB), str(MAX_CHARACTERS))
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(worker), *limits, *dict.fromkeys(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            cwd="/",
            start_new_session=True,  # Ctrl-C on the terminal is for us
            bufsize=0,  # buffers have locks, and a forked child closes its pipes
        )
    except OSError as error:
        raise ChatTemplateError(f"chat template: {sys.executable} cannot be started: {error.strerror}") from None


def _exchange(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    """Write the request, read the answer: a line, or less if the process ends, answers too much or takes too long."""
    assert process.stdin is not None  # both are pipes, see _start
    assert process.stdout is not None
    source, sink = process.stdout.fileno(), process.stdin.fileno()
    os.set_blocking(sink, False)
    unsent = memoryview(request)
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        selector.register(sink, selectors.EVENT_WRITE)
        while not answer.endswith(b"\n") and len(answer) <= _MAX_ANSWER and time.monotonic() < deadline:
            ready = [key.fd for key, _ in selector.select(_STEP)]
            cancel.check()
            if sink in ready:
                try:
                    unsent = unsent[os.write(sink, unsent[:65536]) :]
                except BrokenPipeError:
                    unsent = unsent[:0]
                if not unsent:
                    selector.unregister(sink)
            if source in ready:
                part = os.read(source, 65536)
                if not part:
                    break
                answer += part
    return bytes(answer)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if owner != os.getpid():
        return
    process.kill()
    process.communicate()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.strsignal(-code) or f"signal {-code}"
