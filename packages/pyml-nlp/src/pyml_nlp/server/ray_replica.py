"""One of several servers of a model: the application of ``pyml serve`` without a socket. It imports no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from pyml_core import __version__
from pyml_core.errors import PymlError

from .. import logs
from .application import application
from .forwarding import LINE, Forwarded, merged
from .guard_keys import Keys
from .http_models import warm_up
from .metrics import exposition
from .options import ServeOptions
from .request_log import log_line
from .service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Scope

    from ..language_model import LanguageModel
    from ..options.load import LoadOptions

FRAME_SECONDS = 0.02
"""Parts of a response that come within this time after others are sent together: each costs a message."""


class Replica:
    """A loaded model that answers requests which another process has admitted.

    Args:
        model: a file, a folder or a hub id, as seen by this machine; None: the default model.
        load: how it is loaded.
        options: how it is served; keys and addresses are not used.
        draft_model: a smaller model that drafts tokens; None: none does.
        verbosity: of the log on stderr, see :func:`pyml_nlp.logs.configure_cli`.

    Raises:
        PymlError, OSError: the model cannot be loaded.
    """

    def __init__(
        self, model: str | None, load: LoadOptions, options: ServeOptions, draft_model: str | None, verbosity: int = 0
    ) -> None:
        from .. import load as load_model  # imports the formats of models, which a router needs not

        logs.configure_cli(verbosity)
        if draft_model is not None:
            options = options.replace(draft_model=load_model(draft_model, threads=load.threads))
        self._lm: LanguageModel = load_model(model, load)
        warm_up(self._lm)
        self._log = options.log
        self._service = Service(options.replace(log="off"), self._lm)  # its lines go back with the responses
        self._app = application(self._service, Keys(), None)
        self.name = ""

    async def __call__(self, request: Forwarded) -> AsyncIterator[list[Message]]:
        """The messages of the response; the first, empty list says that the request is here."""
        yield []
        response = _Response(self._app, request)
        try:
            async for frame in response.frames():
                yield frame
        finally:
            await response.close()
        line = self._line(response.scope)
        if line:
            yield [{"type": LINE, "line": line}]

    async def facts(self) -> dict[str, str]:
        """The model's name, and what decides about the bits of its texts."""
        origin = self._lm.model.cache_origin
        return {
            "model": self._service.model_name,
            "version": __version__,
            "cpu_level": origin.cpu_level,
            "weights": origin.model,
        }

    async def metrics(self) -> tuple[str, str]:
        """The name of this replica, and its metrics in Prometheus' text format."""
        return self.name, exposition(self._app_state.metrics, "")[0].decode()

    async def check_health(self) -> None:
        """Raise an error if the engine has failed: then another replica takes its place."""
        if not self._service.alive:
            raise PymlError("the engine has failed")

    @property
    def _app_state(self) -> Any:
        return self._app.state

    def _line(self, scope: Scope) -> str:
        record = scope.get("pyml.record")
        return "" if record is None or self._log == "off" else log_line(record, self._log)


class _Response:
    """The response of an application to one request, in frames."""

    def __init__(self, app: ASGIApp, request: Forwarded) -> None:
        self.scope: Scope = {**request.scope, "headers": list(request.scope["headers"])}
        self._body: bytes | None = request.body
        self._messages: list[Message] = []
        self._ready = asyncio.Event()
        self._complete = False
        self._task = asyncio.ensure_future(self._run(app))

    async def frames(self) -> AsyncIterator[list[Message]]:
        """Its messages, those that come in quick succession together.

        Raises:
            RuntimeError: the application has failed, and the response is incomplete.
        """
        sent_at = 0.0
        while not (self._task.done() and not self._messages):
            await self._ready.wait()
            pause = sent_at + FRAME_SECONDS - monotonic()
            if pause > 0:
                await asyncio.wait((self._task,), timeout=pause)
            self._ready.clear()
            messages, self._messages = self._messages, []
            if messages:
                yield merged(messages)
                sent_at = monotonic()
            if self._task.done():
                self._ready.set()
        if not self._complete:
            raise RuntimeError("the response is incomplete")

    async def close(self) -> None:
        """End the request if it runs: its client has left."""
        self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await self._task

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self._receive, self._send)
        except Exception:  # the guard has answered it, if it could
            logs.root.exception("Error: a fault of the server")
        finally:
            self._ready.set()

    async def _receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # until this task is cancelled
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        self._messages.append(message)
        self._ready.set()
