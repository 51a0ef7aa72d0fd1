"""A request on its way to another process that answers it, and its response on the way back. Both are plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Message, Scope

LINE = "pyml.line"
"""Type of the last message of a response: the line of the log, as ``message["line"]``."""

_KEPT_BACK = frozenset({b"authorization", b"x-api-key", b"cookie", b"origin", b"transfer-encoding", b"content-length"})
"""Headers that the answering process does not get: it trusts the one that has checked them."""


@dataclass(frozen=True)
class Forwarded:
    """A request.

    Attributes:
        scope: of ASGI, without what cannot be sent.
        body: all of it.
        key: requests with the same key go to the same process, see :func:`.prompt_key`; empty: to any.
    """

    scope: dict[str, Any]
    body: bytes
    key: str = ""


class Page(NamedTuple):
    """The metrics of one process.

    Attributes:
        name: of the process.
        text: in Prometheus' format.
    """

    name: str
    text: str


def forwarded(scope: Scope, body: bytes, key: str = "") -> Forwarded:
    """The request of a scope that a guard has admitted."""
    state = scope["state"]
    headers = [(name, value) for name, value in scope["headers"] if name not in _KEPT_BACK]
    headers = [(name, value) for name, value in headers if name != b"x-request-id"]
    headers.append((b"x-request-id", state["request_id"].encode()))
    if body:
        headers.append((b"content-length", str(len(body)).encode()))
    kept = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": scope.get("http_version", "1.1"),
        "method": scope["method"],
        "scheme": scope.get("scheme", "http"),
        "path": scope["path"],
        "raw_path": scope.get("raw_path"),
        "query_string": scope["query_string"],
        "root_path": scope.get("root_path", ""),
        "headers": headers,
        "client": (state["client"], 0),  # the guard of the other process calls the client so
        "server": scope.get("server"),
    }
    return Forwarded(kept, body, key)


def merged(messages: Iterable[Message]) -> list[Message]:
    """Messages of a response, with neighbouring parts of its body joined."""
    found: list[Message] = []
    for message in messages:
        before = found[-1] if found else {"type": ""}
        if message["type"] == before["type"] == "http.response.body":
            joined = before.get("body", b"") + message.get("body", b"")
            found[-1] = {**message, "body": joined}
        else:
            found.append(message)
    return found


def merged_metrics(pages: Iterable[Page]) -> str:
    """The metrics of several processes as one page: each sample has the label ``replica``."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for page in pages:
        family = ""
        for line in page.text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(_labelled(line, page.name))
    return "".join(f"{line}\n" for name, head in heads.items() for line in (*head, *samples.get(name, ())))


def _labelled(sample: str, replica: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{replica="{replica}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{replica="{replica}"}} {value}'
