"""Typed access to the header of a packed model."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from pyml_core.errors import quoted

from ..errors import ModelFileError

_HASH = re.compile(r"[0-9a-f]{16}")
_MAX_TEXT = 4096


class Fields:
    """An object of the header. Every method raises ModelFileError for a value of another type.

    Args:
        values: the object.
        path: the file, for messages.
        where: its place in the header, for messages.
    """

    def __init__(self, values: dict[str, Any], path: str, where: str = "header") -> None:
        self.values, self._path, self._where = values, path, where

    def _fail(self, key: str, expected: str) -> NoReturn:
        found = quoted(json.dumps(self.values.get(key))[:200])
        raise ModelFileError(f"{self._path}: {self._where}: {key}: expected {expected}, got {found}")

    def section(self, key: str) -> Fields:
        """Return an object."""
        found = self.values.get(key)
        if not isinstance(found, dict):
            self._fail(key, "an object")
        return Fields(found, self._path, f"{self._where}: {key}")

    def rows(self, key: str) -> list[Any]:
        """Return a list."""
        found = self.values.get(key)
        if not isinstance(found, list):
            self._fail(key, "a list")
        return found

    def text(self, key: str) -> str:
        """Return a text of bounded length."""
        found = self.values.get(key)
        if not isinstance(found, str) or len(found) > _MAX_TEXT:
            self._fail(key, f"a text of at most {_MAX_TEXT} characters")
        return found

    def word(self, key: str, words: Sequence[str]) -> str:
        """Return one of ``words``."""
        found = self.values.get(key)
        if not isinstance(found, str) or found not in words:
            self._fail(key, f"one of {', '.join(words)}")
        return found

    def whole(self, key: str, most: int) -> int:
        """Return a whole number from 0 to ``most``."""
        found = self.values.get(key)
        if type(found) is not int or not 0 <= found <= most:
            self._fail(key, f"a whole number from 0 to {most}")
        return found

    def hexadecimal(self, key: str, digits: int) -> str:
        """Return a text of ``digits`` hexadecimal digits."""
        found = self.values.get(key)
        if not isinstance(found, str) or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", found):
            self._fail(key, f"{digits} hexadecimal digits")
        return found

    def hash_of(self, digits: str) -> int:
        """Return the number of a hash's 16 hexadecimal digits."""
        if not _HASH.fullmatch(digits):
            raise ModelFileError(f"{self._path}: {self._where}: expected a hash of 16 digits, got {quoted(digits)}")
        return int(digits, 16)
