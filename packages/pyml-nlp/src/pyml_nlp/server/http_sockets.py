"""Sockets that a server listens on: an address, a Unix socket, or those that systemd has opened."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pyml_core.errors import PymlError

from .guard_origins import is_loopback

BACKLOG = 1024
"""Connections that the system accepts before the server has taken them."""

SEND_BUFFER = 64 << 10
"""Bytes of a response that the system keeps for a client; it counts them twice, with its own data."""

_FIRST_FD = 3  # of systemd's


def listening(
    host: str, port: int, unix: Path | None = None, given: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """Open the sockets of a server: a Unix socket or an address, unless sockets are given.

    Args:
        host: a name or address; a name may have several addresses.
        port: 0 is any free one, the same for all addresses.
        unix: path of a Unix socket, which replaces host and port.
        given: sockets that replace all of these, see :func:`inherited`.

    Raises:
        PymlError: the address is in use, not this machine's, or not permitted.
    """
    sockets = list(given) or (_unix(unix) if unix is not None else _addresses(host, port))
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections have it from here
        one.listen(BACKLOG)
        one.setblocking(False)
    return sockets


def inherited() -> list[socket.socket]:
    """The sockets that systemd has passed to this process (``sd_listen_fds``), if any."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):  # no child must take them for its own
        os.environ.pop(name, None)
    sockets = [socket.socket(fileno=number) for number in range(_FIRST_FD, _FIRST_FD + count)]
    for one in sockets:
        one.set_inheritable(False)
    return sockets


def names_of(sockets: Sequence[socket.socket]) -> list[str]:
    """Addresses of sockets, without ports; none for Unix sockets."""
    return [str(one.getsockname()[0]) for one in sockets if one.family != socket.AF_UNIX]


def reachable(sockets: Sequence[socket.socket]) -> bool:
    """Whether other machines may reach one of the sockets."""
    return any(not is_loopback(name) for name in names_of(sockets))


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Where a browser or client finds the server."""
    one = sockets[0]
    if one.family == socket.AF_UNIX:
        return f"unix:{one.getsockname()}"
    host, port = one.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _addresses(host: str, port: int) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise PymlError(f"cannot listen on {host!r}: {getattr(error, 'strerror', None) or error}") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            sockets.append(one)
            if family == socket.AF_INET6:  # "::" would have the port of 0.0.0.0, too
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(found) > 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((address[0], port, *address[2:]))
            port = port or one.getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise PymlError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return sockets


def _unix(path: Path) -> list[socket.socket]:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        one.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        one.close()
        raise PymlError(f"cannot listen on {path}: {error.strerror or error}") from None
    return [one]


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that has ended without doing so."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(17, "a file is in the way")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(98, "another server is listening")


def closer(sockets: Sequence[socket.socket], unix: Path | None) -> Callable[[], None]:
    """A function that closes sockets, and removes the Unix socket's file if it is still theirs."""
    own = None
    if unix is not None and any(one.family == socket.AF_UNIX for one in sockets):
        with suppress(OSError):
            own = unix.lstat().st_ino

    def close() -> None:
        for one in sockets:
            one.close()
        if unix is not None and own is not None:
            with suppress(OSError):
                if unix.lstat().st_ino == own:
                    unix.unlink()

    return close
