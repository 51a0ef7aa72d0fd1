"""A connection's transport that ends in order: the client gets the response, even if it is still sending."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport(asyncio.Transport):
    """Another transport, closed in two steps if the client has not sent all of its request.

    A socket that is closed before everything has been read resets the connection, and the client may lose the
    response. So at first only the sending side is closed.

    Args:
        transport: of the connection.
        unread: whether the client is still sending.
        closing: called once, when it is closed.
    """

    def __init__(
        self, transport: asyncio.Transport, unread: Callable[[], bool], closing: Callable[[bool], None]
    ) -> None:
        super().__init__()
        self._transport = transport
        self._unread = unread
        self._closing = closing
        self._closed = False
        self.write = transport.write  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Information on the connection, such as its socket."""
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closed or self._transport.is_closing()

    def close(self) -> None:
        """Send what is buffered, and end the connection."""
        if self._closed:
            return
        self._closed = True
        lingering = self._unread() and not self._transport.is_closing() and self._transport.can_write_eof()
        self._closing(lingering)
        if lingering:
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._closed = True
        self._transport.abort()
