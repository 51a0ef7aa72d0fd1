"""The models of a server: each is loaded, answers a first prompt, and has an application of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .application import application
from .embedding_service import service_of
from .http_front import Served
from .http_life import Life

if TYPE_CHECKING:
    import socket

    from ..embedding.embedder import Embedder
    from ..language_model import LanguageModel
    from .guard_keys import Keys
    from .guard_origins import Hosts
    from .http_limits import Limits
    from .options import ServeOptions

WARM_UP = "The first run of a model is slower than the others: its weights are read, and threads start. " * 3
"""The prompt that is answered before the first request."""


def warm_up(lm: LanguageModel | Embedder) -> None:
    """Let a model answer a first prompt."""
    from ..embedding.embedder import Embedder  # with NumPy

    if isinstance(lm, Embedder):
        lm.embed([WARM_UP])
        return
    ids = lm.tokenizer.encode_prompt(WARM_UP)[: min(64, lm.context_length // 2)]
    lm.submit(ids, max_tokens=4, temperature=0).result()
    lm.prefix_cache.clear()


class Models:
    """Loads models, and makes their applications.

    Args:
        load: loads the model of a path; None: the one that was asked for.
        options: how it is served.
        keys: API keys of the clients.
        hosts: allowed names of the server; None: all.
        sockets: to listen on.
        limits: of connections; None: the usual ones.
        shared: whether another process has the sockets too, as systemd has.

    Attributes:
        life: the server.
    """

    def __init__(
        self,
        load: Callable[[Path | None], LanguageModel | Embedder],
        options: ServeOptions,
        keys: Keys,
        hosts: Hosts | None,
        sockets: Sequence[socket.socket],
        limits: Limits | None = None,
        shared: bool = False,
    ) -> None:
        load_first = partial(self.served, None)
        self.life = Life(
            load_first, sockets, keys, drain=options.drain, unix=options.unix, limits=limits, shared=shared
        )
        self._load = load
        self._options = options
        self._keys = keys
        self._hosts = hosts
        self._path: Path | None = None

    def served(self, path: Path | None) -> Served:
        """Load the model of a path (None: the one that was asked for), and let it answer a prompt."""
        lm = self._load(path)
        try:
            warm_up(lm)
        except BaseException:
            lm.close()
            raise
        service = service_of(self._options, lm)
        service.reload = self._reload

        def close() -> None:
            service.close()
            lm.close()

        return Served(
            service.model_name,
            application(service, self._keys, self._hosts),
            drain=service.drain,
            abort=service.abort,
            alive=lambda: service.alive,
            close=close,
        )

    async def _reload(self, path: Path | None) -> str:
        wanted = self._path if path is None else path
        name = await self.life.reload(lambda: self.served(wanted))
        self._path = wanted
        return name
