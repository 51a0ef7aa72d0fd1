"""How a model is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ArgumentError
from ..generation.scheduler import MAX_BATCH_SIZE
from ..values import seconds, text, whole


@dataclass(frozen=True)
class ServeOptions:
    """How a model is served.

    Attributes:
        alias: the model's name in answers and lists; None: its own.
        host: address to listen on.
        port: to listen on; 0: any free one.
        api_keys: name of each client -> its key; empty: no key is needed.
        max_batch_size: most texts that are generated at a time.
        max_queue: most texts that wait for a place; further requests are refused with status 503.
        max_output: most tokens of an answer whose request sets no limit.
        timeout: seconds that a request may take, from its arrival; None: as many as it sets itself.
        drain: seconds that running texts have to end when the server is to end.
        cors_origins: origins whose pages may use the server, beside its own page.
        max_body_bytes: most bytes of a request's body.

    Raises:
        ArgumentError: a value of the wrong type or out of its range.
    """

    alias: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: Mapping[str, str] = field(default_factory=dict)
    max_batch_size: int = MAX_BATCH_SIZE
    max_queue: int = 128
    max_output: int = 4096
    timeout: float | None = None
    drain: float = 30.0
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        own = {
            "alias": None if self.alias is None else text("alias", self.alias),
            "host": text("host", self.host),
            "port": whole("port", self.port, 0, 65535),
            "api_keys": {text("api_keys", name): _key(key) for name, key in dict(self.api_keys).items()},
            "max_batch_size": whole("max_batch_size", self.max_batch_size, 1),
            "max_queue": whole("max_queue", self.max_queue, 0),
            "max_output": whole("max_output", self.max_output, 1),
            "timeout": seconds("timeout", self.timeout),
            "drain": seconds("drain", self.drain),
            "cors_origins": tuple(text("cors_origins", origin) for origin in self.cors_origins),
            "max_body_bytes": whole("max_body_bytes", self.max_body_bytes, 1),
        }
        for name, value in own.items():
            object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> ServeOptions:
        """These options with changes."""
        return replace(self, **changes)


def _key(value: Any) -> str:
    key = text("api_keys", value)
    if not key or not key.isascii() or any(c.isspace() for c in key):
        raise ArgumentError("must be of ASCII characters without spaces", "api_keys")
    return key
