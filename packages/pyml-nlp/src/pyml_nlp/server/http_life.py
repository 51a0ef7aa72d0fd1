"""The life of a server: it listens, loads its model, serves until a signal comes, and ends in order."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pyml_core.errors import PymlError

from .. import logs
from .errors import RequestError
from .http_front import Front, Served, State
from .http_limits import Limits
from .http_notify import notify, notify_reloading, watchdog_seconds
from .http_server import HttpServer
from .http_sockets import closer, url_of

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from .guard_keys import Keys

T = TypeVar("T")

FAILED = 1
"""Exit code after the engine has failed."""

CHECK_SECONDS = 0.5
"""How often it is checked whether the engine is alive."""

_LAST_SECONDS = 1.0  # in which clients are told that the engine has failed


class Life:
    """A server from its start to its end.

    Args:
        load: loads the model; called in a thread of its own.
        sockets: to listen on; see :func:`.listening`.
        keys: API keys, which SIGHUP makes it read again.
        drain: seconds that running requests have to end after the first signal.
        unix: path of the Unix socket, which is removed at the end.
        limits: of connections.
        shared: whether another process has the sockets too. Then connections wait there while no model is served: until
            it is loaded, and from the first signal on, for the next server.

    Attributes:
        front: the application.
        url: where clients find the server.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        sockets: Sequence[socket.socket],
        keys: Keys,
        *,
        drain: float = 30.0,
        unix: Path | None = None,
        limits: Limits | None = None,
        shared: bool = False,
    ) -> None:
        self.front = Front()
        self.url = url_of(sockets)
        self._load = load
        self._keys = keys
        self._drain = drain
        self._limits = limits
        self._shared = shared
        self._sockets = sockets
        self._close_sockets = closer(sockets, unix)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._reloading = False

    def run(self) -> int:
        """Serve until a signal comes; the result is the exit code of the process.

        Raises:
            PymlError, OSError: the model cannot be loaded.
        """
        try:
            return asyncio.run(self._serve())
        finally:
            self._close_sockets()

    def stop(self) -> None:
        """End in order, as after the first signal; from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def reload(self, load: Callable[[], Served]) -> str:
        """Load a model, and serve it in place of the present one, which answers all requests until then.

        Returns:
            The model's name.

        Raises:
            RequestError: another model is being loaded, or the server is about to end.
            PymlError, OSError: it cannot be loaded; the present one stays.
        """
        if self._reloading or self.front.state is State.LOADING:
            raise RequestError(409, "a model is being loaded", code="loading", kind="invalid_request_error")
        self._reloading = True
        notify_reloading()
        try:
            served = await _in_thread(load)
        finally:
            self._reloading = False
            notify("READY=1")
        if self.front.state is not State.SERVING:
            served.close()
            raise RequestError(503, "the server is about to end", code="draining")
        self.front.serve(served)
        return served.name

    async def _serve(self) -> int:
        self._loop = asyncio.get_running_loop()
        server = HttpServer(self.front, self._sockets, self._limits)
        with self._signals(self._loop):
            try:
                if not self._shared:
                    await server.start()
                code = await self._until_stopped(server)
                notify("STOPPING=1")
                if self._shared:
                    server.stop_accepting()
                await self._end(code)
            finally:
                await server.close()
        return code

    async def _until_stopped(self, server: HttpServer) -> int:
        loading = _in_thread(self._load)
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return 0
        served = loading.result()
        self.front.serve(served)
        if self._shared:
            await server.start()
        logs.tell(f"Serving {served.name} at {self.url} (Ctrl-C ends it)")
        notify("READY=1")
        watching = asyncio.ensure_future(self._watch())
        await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
        return FAILED if watching.done() else 0

    async def _watch(self) -> None:
        """Return when the engine has failed; until then systemd's watchdog is told that it works."""
        watchdog = watchdog_seconds()
        while self.front.alive():
            if watchdog is not None:
                notify("WATCHDOG=1")
            await asyncio.sleep(min(CHECK_SECONDS, watchdog or CHECK_SECONDS))

    async def _end(self, code: int) -> None:
        """Tell clients, and let running requests end."""
        front = self.front
        if code == FAILED:
            logs.tell("Error: the engine has failed; the server ends")
            front.die()
            await asyncio.sleep(_LAST_SECONDS)
            return
        front.drain()
        if front.running and self._drain:
            logs.tell(f"Ending: {front.running} running, at most {self._drain:g} s; a second signal ends it at once")
        if not await front.quiet(self._drain):
            front.abort()

    def _signals(self, loop: asyncio.AbstractEventLoop) -> _Signals:
        handlers: dict[int, Callable[[], None]] = {
            number: partial(self._signalled, number) for number in (signal.SIGINT, signal.SIGTERM)
        }
        if self._keys.path is not None:
            handlers[signal.SIGHUP] = self._reload_keys
        return _Signals(loop, handlers)

    def _signalled(self, number: int) -> None:
        if self._stopping.is_set():
            self._close_sockets()
            os._exit(128 + number)
        self._stopping.set()

    def _reload_keys(self) -> None:
        try:
            self._keys.reload()
        except (PymlError, OSError) as error:
            logs.root.warning("The API keys stay as they were: %s", error)
        else:
            logs.tell(f"Read {len(self._keys)} API keys")


class _Signals:
    """Handlers of signals for a block, if the main thread runs it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handlers: dict[int, Callable[[], None]]) -> None:
        self._loop = loop
        self._handlers = handlers if threading.current_thread() is threading.main_thread() else {}
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        for number, handler in self._handlers.items():
            self._before[number] = signal.getsignal(number)
            self._loop.add_signal_handler(number, handler)

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, before)  # type: ignore[arg-type]  # as getsignal has returned it


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Call a function in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():  # cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)  # type: ignore[arg-type]  # None only if T is

    def call() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=call, name="pyml-load", daemon=True).start()
    return future
