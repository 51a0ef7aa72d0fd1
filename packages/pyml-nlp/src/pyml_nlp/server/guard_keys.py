"""API keys: who a client is. A key is compared with all keys in constant time."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..text_files import decoded, read_bounded

MAX_FILE_BYTES = 1 << 20
"""Maximum size of a file of keys in bytes."""


class Keys:
    """The API keys of a server. Without any, every client is admitted.

    Args:
        keys: name of a client -> its key.
        path: a file of further keys, which :meth:`reload` reads again; None: no file.

    Attributes:
        path: as given.

    Raises:
        ArgumentError: a line of the file is invalid, or a key has two names.
        OSError: the file cannot be read.
    """

    def __init__(self, keys: Mapping[str, str] | None = None, path: Path | None = None) -> None:
        self._given = list((keys or {}).items())
        self.path = path
        self._digests: list[tuple[bytes, str]] = []
        self.reload()

    def __len__(self) -> int:
        return len(self._digests)

    def reload(self) -> None:
        """Read the file again. If that fails, the keys stay as they are.

        Raises:
            ArgumentError, OSError: as of the class.
        """
        pairs = self._given + (read_keys(self.path) if self.path else [])
        names: dict[bytes, str] = {}
        for name, key in pairs:
            digest = _digest(key.encode())
            if names.setdefault(digest, name) != name:
                both = f"{quoted(names[digest])} and {quoted(name)}"
                raise ArgumentError(f"must differ, but {both} have the same key", "API keys")
        self._digests = list(names.items())

    def client(self, credentials: Iterable[bytes]) -> str | None:
        """The name of the client that has one of these keys; None: no key is known.

        The time that this takes does not depend on how much of a key is right.
        """
        found = None
        for key in credentials:
            digest = _digest(key)
            for known, name in self._digests:
                if hmac.compare_digest(digest, known):
                    found = name
        return found


def credentials(authorization: bytes | None, api_key: bytes | None) -> list[bytes]:
    """The keys in the headers of a request: a bearer token, the password of a browser, ``x-api-key``."""
    found = [] if api_key is None else [api_key.strip()]
    scheme, _, value = (authorization or b"").partition(b" ")
    if scheme.lower() == b"bearer":
        found.append(value.strip())
    elif scheme.lower() == b"basic":
        with suppress(ValueError):  # not base64
            found.append(b64decode(value.strip(), validate=True).partition(b":")[2])
    return found


def read_keys(path: Path) -> list[tuple[str, str]]:
    """Names and keys of a file: a line each, ``NAME KEY`` or only ``KEY``. Lines that begin with ``#`` are comments.

    A key without a name is called after its line, as in ``key-3``. A client may have several keys.

    Raises:
        ArgumentError: a line is invalid, or there is no key.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        try:
            lines = decoded(read_bounded(file, MAX_FILE_BYTES)).splitlines()
        except ValueError as error:
            raise ArgumentError(f"{path}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise ArgumentError(f"{path}:{number}: expected NAME KEY, found {len(words)} words")
        if not words[-1].isascii() or not words[-1].isprintable():
            raise ArgumentError(f"{path}:{number}: expected a key of ASCII characters")
        found.append((words[0] if len(words) == 2 else f"key-{number}", words[-1]))
    if not found:
        raise ArgumentError(f"{path}: expected a key, found none")
    return found


def _digest(key: bytes) -> bytes:
    """Of one length for all keys, so that no comparison reveals a key's length."""
    return sha256(key).digest()
