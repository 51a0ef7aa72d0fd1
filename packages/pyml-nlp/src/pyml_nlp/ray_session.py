"""A connection to Ray, for jobs and servers: quiet, without usage statistics, and with a token for its user alone.

Nothing of pyml imports Ray before :func:`session` or :func:`require` is called.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError, quoted

from .errors import ArgumentError

NAMESPACE = "pyml"
LOCAL, AUTO = "local", "auto"
"""Addresses: a cluster of this machine that lives as long as the process, and the cluster that Ray finds."""

_PROBE_SECONDS = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # they are sent unless a user opts out
    "RAY_BACKEND_LOG_LEVEL": "error",  # of the parts in C++, which write on stderr whatever logging says
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour of later releases, without the warning of this one
}
_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


def require(part: str = "ray", user: str = "it") -> None:
    """Check that a part of Ray is installed, and set its environment.

    Args:
        part: a module: ``"ray"``, ``"ray.serve"`` or ``"ray.data"``.
        user: what needs it, for the message.

    Raises:
        PymlError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = find_spec(part.partition(".")[0]) is not None
        if found and part != "ray":
            import_module(part)
    except ImportError:
        found = False
    if not found:
        raise PymlError(f'{user} needs Ray ({part}): pip install "pyml-nlp[ray]"')


@contextmanager
def session(address: str, user: str = "it", cpus: int | None = None) -> Iterator[Any]:
    """The module ``ray``, connected for a block. A connection that this process has already is used, and kept.

    Args:
        address: ``"local"``, ``"auto"`` or HOST:PORT.
        user: what needs Ray, for messages.
        cpus: logical CPUs of a local cluster; None: those that this process may use.

    Raises:
        ArgumentError: an invalid address.
        PymlError: Ray is not installed, or there is no cluster at the address.
    """
    ray = connect(address, user, cpus)
    try:
        yield ray
    finally:
        disconnect()


_users = 0
_own = False  # whether the connection was made here


def connect(address: str, user: str = "it", cpus: int | None = None) -> Any:
    """Connect, and return the module ``ray``; arguments and errors as of :func:`session`.

    The processes of a local cluster end with the thread that calls this.
    """
    global _users, _own
    check_address(address)
    require(user=user)
    import ray  # after its environment is set

    if ray.is_initialized():
        _users += 1
        return ray
    if address == LOCAL:
        _own_token()
    elif address != AUTO:
        _probe(address)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": NAMESPACE}
    if address == LOCAL:
        quiet |= {"include_dashboard": False, "num_cpus": cpus or len(os.sched_getaffinity(0))}
    logging.getLogger("ray").setLevel(logging.ERROR)  # what it says before it has read its own level
    try:
        with _silence(), _own_handler():
            ray.init(address, **quiet)
    except Exception as error:  # ConnectionError, RuntimeError, and what its parts raise
        where = "that is running here" if address == AUTO else f"at {quoted(address)}"
        if address == LOCAL:
            raise PymlError(f"Ray cannot start: {_first_line(error)}") from None
        raise PymlError(f"cannot use the Ray cluster {where}: {_first_line(error)}") from None
    _users, _own = 1, True
    return ray


def disconnect() -> None:
    """Undo :func:`connect`. The last call ends a connection that was made there, and a cluster of this process."""
    global _users, _own
    _users = max(0, _users - 1)
    if _users or not _own:
        return
    _own = False
    import ray  # which connect has imported

    with suppress(Exception):  # the cluster may be gone
        ray.shutdown()


def check_address(address: str) -> None:
    """Check the form of an address.

    Raises:
        ArgumentError: it is neither ``local`` nor ``auto`` nor HOST:PORT.
    """
    if address in (LOCAL, AUTO):
        return
    host, colon, port = address.rpartition(":")
    if not host or not colon or "/" in address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ArgumentError(f"must be local, auto or HOST:PORT, got {quoted(address)}", "ray")


def node_cpus(ray: Any) -> list[int]:
    """The logical CPUs of each node that has any, ascending."""
    found = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return sorted(count for count in found if count)


def free_cpus(ray: Any) -> tuple[float, float]:
    """The logical CPUs of the cluster that no task and no actor has, and all of them."""
    return ray.available_resources().get("CPU", 0.0), ray.cluster_resources().get("CPU", 0.0)


def _probe(address: str) -> None:
    """Check that something listens: Ray itself waits for a minute and ends the process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS).close()
    except OSError as error:
        raise PymlError(f"no Ray cluster at {quoted(address)}: {error.strerror or error}") from None


def _own_token() -> None:
    """Write the token of this user's clusters, if there is none: Ray would make a file that all users can read."""
    if any(os.environ.get(name) for name in _TOKENS):
        return
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # it exists, or the home cannot be written: Ray says so itself
        path.parent.mkdir(mode=0o700, exist_ok=True)
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w") as file:
            file.write(secrets.token_hex(32))


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what is written on stderr: Ray's parts in C++ write there before they know their level."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM: Ray sets one of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
