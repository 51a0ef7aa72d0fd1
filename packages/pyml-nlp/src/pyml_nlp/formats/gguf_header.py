"""Sequential reading of a GGUF file's header: numbers, strings, arrays.

Keys and names are UTF-8. Most models do not need the metadata values that are invalid UTF-8 (an author's name) or not
finite: they are kept with a warning, and code that uses such a value refuses it.

Only :meth:`_Window.take` returns bytes, and it reads them from the file first if necessary. No other code has access
to the buffer, so a field is never read from a buffer that ends inside it.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted
from pyml_core.strings import decode_strings, walk_strings

from .reading import ModelFile

MAX_HEADER = 256 << 20  # bytes before the data
MAX_STRING = 16 << 20  # bytes of a string value or element
MAX_ARRAY = 64 << 20  # elements of an array
WINDOW = 64 << 10  # bytes of the header to read at first; doubled when they are used up

_BOOL, _STRING, _ARRAY = 7, 8, 9
# The struct and NumPy code of each numeric metadata type.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

_LAYOUTS = {code: struct.Struct("<" + code) for code in _NUMBERS.values()}


class _Window:
    """The bytes at the start of a file, read on demand in growing pieces."""

    def __init__(self, file: ModelFile) -> None:
        self.position = 0
        self._file = file
        self._data = b""

    def take(self, nbytes: int, label: str) -> memoryview:
        """Consume the next ``nbytes`` bytes and return them."""
        start, end = self.position, self.position + nbytes
        self._read_up_to(end, label)
        self.position = end
        return memoryview(self._data)[start:end]

    def measure_strings(self, count: int, label: str) -> tuple[int, int]:
        """Return the size of the next ``count`` strings with their lengths, and the longest length. Consumes none."""
        position = self.position
        walked = longest = 0
        while True:
            more, position, length = walk_strings(self._data, position, count - walked)
            walked, longest = walked + more, max(longest, length)
            if walked == count:
                return position - self.position, longest
            self._read_up_to(position + 8, label)  # beyond the window, or beyond the end of the file

    def _read_up_to(self, end: int, label: str) -> None:
        have = len(self._data)
        if end <= have:
            return
        if end > self._file.size:
            raise self._file.error(
                f"truncated: expected {label} up to byte {end}, the file has {self._file.size} bytes"
            )
        if end > MAX_HEADER:
            raise self._file.error(f"expected a header of at most {MAX_HEADER} bytes, {label} ends at byte {end}")
        have_next = min(max(end, 2 * have, WINDOW), self._file.size, MAX_HEADER)
        self._data += self._file.read_bytes(have, have_next - have)


class Header:
    """A cursor over a file's header: each method consumes one item at :attr:`position` and returns it.

    Every method raises :class:`~pyml_nlp.errors.ModelFileError`; ``label`` names the item in its message.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._window = _Window(file)
        self._problems: list[str] = []  # problems of metadata values that were kept

    @property
    def position(self) -> int:
        """Offset of the next item from the start of the file."""
        return self._window.position

    def skip(self, nbytes: int, label: str) -> None:
        """Consume ``nbytes`` bytes, which must exist."""
        self._window.take(nbytes, label)

    def number(self, code: str, label: str) -> Any:
        """Read a number with this struct code."""
        layout = _LAYOUTS[code]
        return layout.unpack(self._window.take(layout.size, label))[0]

    def string(self, limit: int, label: str) -> str:
        """Read a string of 0 to ``limit`` bytes."""
        raw = self._raw_string(limit, label)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._file.error(f"{label}: expected UTF-8, got {quoted(raw)}") from None

    def _raw_string(self, limit: int, label: str) -> bytes:
        length = self.number("Q", f"the length of {label}")
        if length > limit:
            raise self._file.error(f"{label}: expected at most {limit} bytes, got a length of {length}")
        return bytes(self._window.take(length, label))

    def value(self, kind: int, label: str) -> Any:
        """Read a metadata value of this type; a string that is not UTF-8 is returned as bytes."""
        if kind == _STRING:
            return self._text(self._raw_string(MAX_STRING, label), label)
        if kind == _ARRAY:
            return self._array(label)
        if kind not in _NUMBERS:
            raise self._file.error(f"{label}: expected a metadata type of 0 to 12, got {kind}")
        number = self.number(_NUMBERS[kind], label)
        if kind == _BOOL:
            if number > 1:
                raise self._file.error(f"{label}: expected a bool of 0 or 1, got {number}")
            return bool(number)
        if isinstance(number, float) and not math.isfinite(number):
            self._problems.append(f"{label}: expected a finite number, got {number}")
        return number

    def warn(self) -> None:
        """Log one warning for all invalid values that were kept."""
        if self._problems:
            more = f" (and {len(self._problems) - 1} more such values)" if len(self._problems) > 1 else ""
            self._file.warn(self._problems[0] + more)

    def _text(self, raw: bytes, label: str) -> str | bytes:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._problems.append(f"{label}: expected UTF-8, got {quoted(raw)}")
            return raw

    def _array(self, label: str) -> npt.NDArray[Any] | list[Any]:
        kind = self.number("I", f"the element type of {label}")
        count = self.number("Q", f"the length of {label}")
        if kind != _STRING and kind not in _NUMBERS:
            raise self._file.error(f"{label}: expected an array of numbers, bools or strings, got element type {kind}")
        if count > MAX_ARRAY:
            raise self._file.error(f"{label}: expected at most {MAX_ARRAY} elements, got {count}")
        if kind == _STRING:
            return self._strings(count, label)
        dtype = np.dtype("<" + _NUMBERS[kind])
        array = np.frombuffer(self._window.take(count * dtype.itemsize, label), dtype).copy()
        if kind == _BOOL:
            if array.size and array.max() > 1:
                raise self._file.error(f"{label}: expected bools of 0 or 1, got {array.max()}")
            return array.astype(np.bool_)
        if dtype.kind == "f" and not np.isfinite(array).all():
            self._problems.append(f"{label}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
        return array

    def _strings(self, count: int, label: str) -> list[Any]:
        most = (self._file.size - self.position) // 8
        if count > most:
            raise self._file.error(f"{label}: expected at most {most} strings in the bytes that are left, got {count}")
        nbytes, longest = self._window.measure_strings(count, label)
        if longest > MAX_STRING:
            raise self._file.error(
                f"{label}: expected strings of at most {MAX_STRING} bytes, got a length of {longest}"
            )
        raw = self._window.take(nbytes, label)
        try:
            return decode_strings(raw, count)
        except UnicodeDecodeError as error:
            self._problems.append(f"{label}: expected UTF-8, got {quoted(error.object)}")
            return _decoded_one_by_one(raw, count)


def _decoded_one_by_one(raw: memoryview, count: int) -> list[str | bytes]:
    """Decode strings one by one; those that are not UTF-8 stay bytes."""
    found: list[str | bytes] = []
    position = 0
    for _ in range(count):
        start = position + 8
        position = start + int.from_bytes(raw[position:start], "little")
        text = bytes(raw[start:position])
        try:
            found.append(text.decode())
        except UnicodeDecodeError:
            found.append(text)
    return found
