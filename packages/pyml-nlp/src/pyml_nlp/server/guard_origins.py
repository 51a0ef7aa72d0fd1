"""Which hosts and web pages may call a server.

A page of another site can send requests to a server on the user's machine: with its own name as ``Host``, if that name
was made to resolve to this machine, or else with its ``Origin``. Both are refused unless they are known.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterable
from functools import lru_cache

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that every server has."""


class Hosts:
    """Names that a ``Host`` header may have; its port may be any.

    Args:
        bound: addresses that the server listens on. At a wildcard address (``0.0.0.0`` or ``::``), every IP address
            and every name without a dot is allowed: no other site's page has such a name.
        names: further names; ``*``: all.
    """

    def __init__(self, bound: Iterable[str] = (), names: Collection[str] = ()) -> None:
        addresses = [address.lower() for address in bound]
        own = [socket.gethostname()] if any(not is_loopback(address) for address in addresses) else []
        self._all = "*" in names
        self._near = any(address in ("", "0.0.0.0", "::") for address in addresses)
        self._names = {name.lower().rstrip(".") for name in (*LOOPBACK, *addresses, *names, *own)}
        self.allows = lru_cache(256)(self._allows)

    def _allows(self, host: bytes) -> bool:
        """Whether a request may have this ``Host``."""
        if self._all:
            return True
        name = name_of(host)
        if name is None:
            return False
        return name in self._names or is_loopback(name) or (self._near and ("." not in name or _is_address(name)))


class Origins:
    """Origins whose pages may call the server, in addition to its own.

    Args:
        listed: as browsers send them, such as ``https://example.org``; ``*``: all.
    """

    def __init__(self, listed: Collection[str] = ()) -> None:
        self._all = "*" in listed
        self._listed = {origin.lower().rstrip("/").encode() for origin in listed}

    def own(self, origin: bytes, host: bytes) -> bool:
        """Whether this is the server's own page. A proxy may have added the ``s``."""
        origin, host = origin.lower(), host.lower()
        return origin in (b"http://" + host, b"https://" + host)

    def listed(self, origin: bytes) -> bool:
        """Whether pages of this origin may call the server and read its answers."""
        return self._all or origin.lower() in self._listed


def name_of(host: bytes) -> str | None:
    """The name or address in a ``Host`` header, lower-case, without port and brackets; None: it has none."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or not _is_address(name) or (port and not port[1:].isdecimal()):
            return None
        return name
    name, colon, port = text.partition(":")
    if (colon and not port.isdecimal()) or not name:
        return None
    return name.rstrip(".")


def is_loopback(name: str) -> bool:
    """Whether only this machine can reach this name or address."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
