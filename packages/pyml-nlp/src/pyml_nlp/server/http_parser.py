"""A strict reader of HTTP/1.1: what proxies and servers may understand differently is refused. Chunks cost little."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import h11
from h11._readers import maybe_read_from_IDLE_client
from h11._writers import ChunkedWriter

_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n)|\n[ \t]")
_LENGTH = re.compile(rb"\ncontent-length[ \t]*:", re.IGNORECASE)


class StrictConnection(h11.Connection):
    """h11's connection, which also refuses bare line ends, folded headers and repeated content lengths."""

    def _get_io_object(self, role: Any, event: Any, io_dict: Any) -> Callable[..., Any] | None:
        reader = super()._get_io_object(role, event, io_dict)
        return _read_head if reader is maybe_read_from_IDLE_client else reader

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]  # as of its overloads
        """An event as bytes. A chunk changes no state, so that it need not pass the state machine: there are many."""
        if isinstance(event, h11.Data) and self.our_state is h11.SEND_BODY and type(self._writer) is ChunkedWriter:
            data: bytes = event.data
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return super().send(event)


def _read_head(buffer: Any) -> h11.Request | None:
    before = bytes(buffer)
    request = maybe_read_from_IDLE_client(buffer)
    if request is not None:
        head = before[: len(before) - len(buffer)]
        if _AMBIGUOUS.search(head):
            raise h11.LocalProtocolError("bare line end or folded header")
        if len(_LENGTH.findall(head)) > 1:
            raise h11.LocalProtocolError("repeated content-length")
    return request
