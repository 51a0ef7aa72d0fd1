"""The model as the routes of a server see it: its state, and the texts that requests submit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakSet

from pyml_core import __version__
from pyml_core.errors import PymlError

from ..errors import QueueFullError
from ..generation.admission import check_length
from ..generation.draft_model import drafting_of
from ..generation.text_stream import TextStream
from ..openai.answers import Head
from ..stages import recording
from .errors import RequestError
from .observation import Observation
from .options import ServeOptions
from .request_record import RequestRecord, current

if TYPE_CHECKING:
    from pyml_nn.network import Network

    from ..language_model import LanguageModel
    from ..openai.requests import Common
    from ..options.generation import GenerationOptions
    from ..tokenizer import Tokenizer

P = ParamSpec("P")
T = TypeVar("T")

LOADING, READY, DRAINING, DEAD = "loading", "ready", "draining", "dead"
"""States of a service. Requests are answered in the second one alone."""

_REFUSALS = {
    LOADING: (503, "the model is being loaded", "loading"),
    DRAINING: (503, "the server is about to end", "draining"),
    DEAD: (503, "the model has failed; the server's log tells more", "engine_dead"),
}
_THREADS = 4
"""Workers for what takes milliseconds: long JSON, templates, tokenizers, grammars."""


class Service:
    """A model that is served, or is about to be.

    Args:
        options: how it is served.
        lm: the model; None: it is given later, with :meth:`start`.

    Attributes:
        options: as given.
        state: ``"loading"``, ``"ready"``, ``"draining"`` or ``"dead"``.
        reload: loads a model of this path (None: the same again), serves it, and returns its name; None: this server
            cannot.
        observation: counts requests and calls of the model.
    """

    def __init__(self, options: ServeOptions, lm: LanguageModel | None = None) -> None:
        self.options = options
        self.state = LOADING
        self.reload: Callable[[Path | None], Awaitable[str]] | None = None
        self.observation = Observation(options)
        self._lm: LanguageModel | None = None
        self._name = ""
        self._streams: WeakSet[TextStream] = WeakSet()
        self._workers = ThreadPoolExecutor(_THREADS, "pyml-serve")
        if lm is not None:
            self.start(lm)

    def start(self, lm: LanguageModel) -> None:
        """Serve this model from now on."""
        options, server = self.options, lm.server
        drafting_of(lm.engine, True, options.draft_model)  # another vocabulary is an error now, not with each request
        server.max_batch_size, server.max_queue = options.max_batch_size, options.max_queue
        server.max_queue_tokens, server.max_gap = options.max_queue_tokens, options.max_gap
        server.kv_bytes = options.kv_bytes
        if options.chat_template is not None:
            lm.set_chat_template(options.chat_template)
        self._lm = lm
        self._name = name_of(lm.name)
        self.observation.attach(lm)
        self.state = READY

    def drain(self) -> None:
        """Answer no further requests, and end the texts that wait for a place."""
        self.state = DRAINING
        self.observation.cause = "shutdown"
        for stream in list(self._streams):
            if not stream.completion.placed:
                stream.cancel()

    def abort(self, failed: bool = False) -> None:
        """Answer no further requests, and end all texts; ``failed``: because the engine has."""
        self.state = DEAD if failed else DRAINING
        self.observation.cause = "shutdown"
        for stream in list(self._streams):
            stream.cancel()

    @property
    def alive(self) -> bool:
        """Whether the engine works: the model is open, and submitted texts are being generated."""
        return self._lm is not None and not self._lm.engine.closed and self._lm.server.alive

    def close(self) -> None:
        """End the workers, and leave the model as it was. It is the caller's."""
        self.observation.close()
        self._workers.shutdown(wait=False, cancel_futures=True)

    @property
    def model(self) -> LanguageModel | None:
        """The model, whatever the state is; None: there is none yet."""
        return self._lm

    @property
    def lm(self) -> LanguageModel:
        """The model.

        Raises:
            RequestError: it cannot be used: it is being loaded, or has failed.
        """
        if self._lm is None or self.state == DEAD:
            raise self.refusal or RequestError(503, "there is no model", code="loading")
        return self._lm  # also while the server drains: running requests need it

    @property
    def network(self) -> Network[Any]:
        """The model's layers; RequestError as of :attr:`lm`."""
        return self.lm.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer; RequestError as of :attr:`lm`."""
        return self.lm.tokenizer

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of a text; RequestError as of :attr:`lm`."""
        return self.lm.context_length

    @property
    def refusal(self) -> RequestError | None:
        """The error of all requests, unless the model is being served."""
        if self.state == READY:
            return None
        status, message, code = _REFUSALS[self.state]
        return RequestError(status, message, code=code, headers={"retry-after": "5"})

    @property
    def model_name(self) -> str:
        """The model's name in answers."""
        return self.options.alias or self._name

    @property
    def max_output(self) -> int:
        """Most tokens of an answer whose request sets no limit."""
        return min(self.options.max_output, self.lm.context_length)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the model's adapters."""
        return () if self._lm is None else self._lm.adapters

    def name_of(self, adapter: str | None) -> str:
        """The name in answers of the model with this adapter (None: without one): that of the adapter."""
        return self.model_name if adapter is None else adapter

    def defaults(self, adapter: str | None) -> GenerationOptions:
        """The options of texts whose request gives none, with this adapter (None: without one)."""
        return self.lm.generation_options.replace(adapter=adapter)

    def head(self, kind: str, adapter: str | None = None) -> Head:
        """What an answer and its chunks have in common; see :class:`.Head`."""
        origin = self.lm.model.origin_of(adapter)
        head = Head(kind, self.name_of(adapter), f"pyml-{__version__}-{origin.cpu_level}-{origin.model[:12]}")
        record = current()
        if record is not None:
            record.response_id = head.id
        return head

    def check_model(self, name: Any) -> str | None:
        """Check the ``model`` that a request names; none is the served one.

        Returns:
            The adapter that it names; None: the model without one.

        Raises:
            RequestError: it is another one.
        """
        if name is None or name in (self.model_name, "default", ""):
            return None
        adapters = self.adapters
        if isinstance(name, str) and name in adapters:
            return name
        if self.options.any_model:
            return None
        known = ", ".join(repr(one) for one in (self.model_name, *adapters[:8]))
        message = f"the model {name!r:.80} is not served here, {known} {'are' if adapters else 'is'}"
        raise RequestError(404, message, param="model", code="model_not_found")

    async def work(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a worker thread: the event loop serves other requests meanwhile."""
        record = current()
        call = partial(function, *args, **kwargs)
        if record is not None:
            call = partial(_recorded, record, call)
        return await asyncio.get_running_loop().run_in_executor(self._workers, call)

    def submit(self, prompts: Iterable[Sequence[int]], common: Common, client: str | None = None) -> list[TextStream]:
        """Submit the texts of all choices; if one is refused, none runs.

        Args:
            prompts: token ids.
            common: of the request: its options, number of choices, and timeout.
            client: whose request it is; places are shared fairly between clients.

        Raises:
            RequestError: too many texts are waiting, or the server is about to end.
            PymlError: as of :meth:`.LanguageModel.submit`.
        """
        if self.refusal is not None:
            raise self.refusal
        lm, streams = self.lm, list[TextStream]()
        prompts = list(prompts)
        for ids in prompts:  # a million ids would keep the event loop busy before they are refused
            check_length(lm.context_length, len(ids))
        timeout = min([one for one in (common.timeout, self.options.timeout) if one is not None], default=None)
        salt = f"{client or ''}\0{common.cache_salt}"  # no client sees in times what another one has asked
        try:
            for ids in prompts:
                for index in range(common.n):
                    sample = common.options.sample_index + index
                    options = common.options.replace(sample_index=sample) if index else common.options
                    streams.append(
                        lm.submit(
                            ids, options, timeout=timeout, client=client, cache_salt=salt,
                            queue_timeout=self.options.queue_timeout, draft_model=self.options.draft_model,
                        )
                    )  # fmt: skip
        except PymlError as error:
            for stream in streams:
                stream.cancel()
            if isinstance(error, QueueFullError):
                raise _queue_full(error) from None
            raise
        self._streams.update(streams)
        self.observation.submitted(streams, common.n, self.name_of(common.options.adapter))
        return streams


def name_of(path: str) -> str:
    """The name of a model in answers: that of its file or folder, or a hub id."""
    return Path(path).name.removesuffix(".gguf") if Path(path).exists() else path


def _queue_full(error: QueueFullError) -> RequestError:
    seconds = str(max(1, ceil(error.retry_after)))
    return RequestError(503, str(error), code="queue_full", headers={"retry-after": seconds})


def _recorded(record: RequestRecord, call: Callable[[], T]) -> T:
    """The result of a call, whose stages are recorded."""
    with recording(record.stages):
        return call()
