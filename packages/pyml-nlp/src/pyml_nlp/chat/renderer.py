"""Rendering of chat templates in a separate process, which is killed if it takes too much time or memory.

The limits hold for any template and any calling thread: a loop inside a single operation on text cannot be interrupted
in the same process, but another process can be killed. See docs/decisions/0012-chat-templates.md.
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
"""Processor time in seconds that one rendering may take, including compilation; real templates take some hundredths."""

WALL_SECONDS = 60.0
"""Elapsed time in seconds after which rendering fails: long, because a busy machine delays valid templates too."""

MEMORY_MB = 512
"""Address space of the process in MB; Python and Jinja take some 40 MB of it."""

MAX_CHARACTERS = 2 << 20
"""Maximum number of characters that a template may write: about four times a context of 131 072 tokens."""

_STEP = 0.05  # seconds between checks of the clock and of cancellation
_MAX_ANSWER = 12 * MAX_CHARACTERS + 4096  # bytes: a character may take twelve in JSON
_NEEDED = ("jinja2", "markupsafe")
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")  # environment of the process, which must not see secrets


class Renderer:
    """A process that renders templates: started on first use, and again after it had to be killed.

    Thread-safe: calls take turns. After a fork, the child starts a process of its own.

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
        """Start the process without waiting for it, so that it is ready when it is needed."""
        with self._lock:
            self._started()

    def render(self, source: str, variables: Mapping[str, Any]) -> str:
        """Render a template.

        Args:
            source: the template.
            variables: its variables, as JSON types.

        Raises:
            ChatTemplateError: the template is invalid, refuses the messages, or takes too much time or memory.
            Cancelled: the :class:`pyml_core.CancelToken` that this thread has entered was cancelled.
        """
        text: str = self._ask({"source": source, "variables": variables})["text"]
        return text

    def names(self, source: str) -> set[str]:
        """Names of the variables that a template reads. Errors are those of :meth:`render`."""
        return set(self._ask({"source": source})["names"])

    def _ask(self, question: Mapping[str, Any]) -> Any:
        """Send a request to the process, and return its answer."""
        request = json.dumps(question).encode() + b"\n"
        with self._lock:
            process = self._started()
            if process.poll() is not None:  # killed from outside between two requests
                self._end()
                process = self._started()
            try:
                line = _exchange(process, request, time.monotonic() + WALL_SECONDS)
            except BaseException:
                self._end()  # otherwise the next request would get this one's answer
                raise
            if not line.endswith(b"\n"):
                raise ChatTemplateError(f"chat template: {self._reason(process)}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChatTemplateError(f"chat template: {one_line(answer['error'])}")
        return answer

    def close(self) -> None:
        """End the process; the next call of :meth:`render` starts it again."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        self._leave_parents()
        if self._process is None:
            self._process = _start(self._cpu_seconds)
            self._stop = weakref.finalize(self, _end, self._process, self._owner)
        return self._process

    def _leave_parents(self) -> None:
        """Forget the parent's process after a fork; the parent may be using it."""
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
        """End the process, and return the reason for a missing answer."""
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
            start_new_session=True,  # Ctrl-C on the terminal is for this process only
            bufsize=0,  # buffers have locks, and a forked child closes its pipes
        )
    except OSError as error:
        raise ChatTemplateError(f"chat template: {sys.executable} cannot be started: {error.strerror}") from None


def _exchange(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    """Write the request and read the answer: one line, or less if the process ends, writes too much or is too slow."""
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
