"""``pyml serve``: a model, its application, and the server that runs it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyml_core.errors import PymlError

from ..errors import ArgumentError
from .options import ServeOptions

if TYPE_CHECKING:
    import socket

    from ..embedding.embedder import Embedder
    from ..language_model import LanguageModel
    from .guard_keys import Keys
    from .guard_origins import Hosts


class Door(NamedTuple):
    """What a server has before its model.

    Attributes:
        keys: API keys of the clients.
        hosts: allowed names of the server; None: all.
        sockets: to listen on.
        shared: whether another process has the sockets too, as systemd has.
    """

    keys: Keys
    hosts: Hosts | None
    sockets: list[socket.socket]
    shared: bool


def door_of(options: ServeOptions) -> Door:
    """Read the keys, and listen.

    Raises:
        ArgumentError, PymlError, OSError: as of :func:`run`.
    """
    try:
        from .guard_keys import Keys  # these have the libraries of the extra
        from .guard_origins import Hosts  # as above
        from .http_server import HttpServer  # noqa: F401  # as above
        from .http_sockets import inherited, listening, names_of, reachable  # as above
        from .otel import check_installed  # as above
    except ImportError as error:
        raise PymlError(f'the server needs {error.name}: pip install "pyml-nlp[serve]"') from None
    if options.otel:
        check_installed()
    # For the whole process. While other threads parse or generate, the event loop waits for so long each time it runs:
    # with Python's 5 ms, /health took 370 ms beside bodies of a million ids, now 150 (99th percentile, two cores).
    sys.setswitchinterval(0.0005)
    keys = Keys(options.api_keys, options.api_key_file)
    given = inherited()
    sockets = listening(options.host, options.port, options.unix, given)
    if reachable(sockets) and not keys and not options.insecure:
        for one in sockets:
            one.close()
        raise ArgumentError("is an address that others reach: give an API key, or --insecure", options.host)
    names = names_of(sockets)
    hosts = Hosts([options.host, *names], options.allowed_hosts) if names else None
    return Door(keys, hosts, sockets, bool(given))


def run(load: Callable[[Path | None], LanguageModel | Embedder], options: ServeOptions) -> int:
    """Listen, load a model, and serve it until the process is told to end.

    Args:
        load: loads the model of a path; None: the one that was asked for.
        options: how it is served.

    Returns:
        The exit code: 0 after a signal, 1 if the engine has failed.

    Raises:
        ArgumentError: others would reach the server, and it has no key.
        PymlError, OSError: the address cannot be used, the keys cannot be read, the model cannot be loaded, or a
            package is missing.
    """
    door = door_of(options)
    # These have the libraries of the extra, whose absence door_of has reported.
    from .http_limits import Limits
    from .http_models import Models  # as above

    def settled(path: Path | None) -> LanguageModel | Embedder:
        """Load a model, and take what lives from now on out of garbage collections: each would stop all texts."""
        lm = load(path)
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return lm

    return Models(settled, options, door.keys, door.hosts, door.sockets, Limits().fitting(), door.shared).life.run()
