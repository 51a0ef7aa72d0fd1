"""The fields of a GGUF file's header, read one after the other: numbers, strings, arrays.

Keys and names are UTF-8. Texts that are no UTF-8 and numbers that are not finite are metadata that most models have no
use for (an author's name): they are kept, with a warning, and what reads such a value refuses it.

Bytes come from :meth:`_Window.take` alone, which reads them from the file first if they are not in memory yet. No other
code has the buffer, so that a field cannot be read from a buffer that ends in the middle of it.
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
WINDOW = 64 << 10  # bytes of the header read at first; doubled whenever they are used up

_BOOL, _STRING, _ARRAY = 7, 8, 9
# By metadata type, the code of a number for struct and NumPy.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}

_LAYOUTS = {code: struct.Struct("<" + code) for code in _NUMBERS.values()}


class _Window:
    """The bytes at the start of a file, read in growing pieces as they are taken."""

    def __init__(self, file: ModelFile) -> None:
        self.position = 0
        self._file = file
        self._data = b""

    def take(self, nbytes: int, what: str) -> memoryview:
        """The next ``nbytes`` bytes, which are stepped over."""
        start, end = self.position, self.position + nbytes
        self._read_up_to(end, what)
        self.position = end
        return memoryview(self._data)[start:end]

    def measure_strings(self, count: int, what: str) -> tuple[int, int]:
        """Bytes of the next ``count`` strings with their lengths, and the longest string's; nothing is stepped over."""
        position = self.position
        walked = longest = 0
        while True:
            more, position, length = walk_strings(self._data, position, count - walked)
            walked, longest = walked + more, max(longest, length)
            if walked == count:
                return position - self.position, longest
            self._read_up_to(position + 8, what)  # behind the window, or behind the end of the file

    def _read_up_to(self, end: int, what: str) -> None:
        have = len(self._data)
        if end <= have:
            return
        if end > self._file.size:
            raise self._file.error(f"truncated: expected {what} up to byte {end}, the file has {self._file.size} bytes")
        if end > MAX_HEADER:
            raise self._file.error(f"expected a header of at most {MAX_HEADER} bytes, {what} ends at byte {end}")
        have_next = min(max(end, 2 * have, WINDOW), self._file.size, MAX_HEADER)
        self._data += self._file.read_bytes(have, have_next - have)


class Header:
    """The cursor over a file's header: each method reads one thing at :attr:`position` and steps over it.

    Every method raises :class:`~pyml_nlp.errors.ModelFileError` naming ``what`` it was to read.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._window = _Window(file)
        self._odd: list[str] = []  # what is wrong with metadata that was kept

    @property
    def position(self) -> int:
        """Bytes from the start of the file to what is read next."""
        return self._window.position

    def skip(self, nbytes: int, what: str) -> None:
        """Step over ``nbytes`` bytes, which must be there."""
        self._window.take(nbytes, what)

    def number(self, code: str, what: str) -> Any:
        """A number of this struct code."""
        layout = _LAYOUTS[code]
        return layout.unpack(self._window.take(layout.size, what))[0]

    def string(self, limit: int, what: str) -> str:
        """A string of 0 to ``limit`` bytes."""
        raw = self._raw_string(limit, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._file.error(f"{what}: expected UTF-8, got {quoted(raw)}") from None

    def _raw_string(self, limit: int, what: str) -> bytes:
        length = self.number("Q", f"the length of {what}")
        if length > limit:
            raise self._file.error(f"{what}: expected at most {limit} bytes, got a length of {length}")
        return bytes(self._window.take(length, what))

    def value(self, kind: int, what: str) -> Any:
        """A metadata value of this type; a string that is no UTF-8 as bytes."""
        if kind == _STRING:
            return self._text(self._raw_string(MAX_STRING, what), what)
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _NUMBERS:
            raise self._file.error(f"{what}: expected a metadata type of 0 to 12, got {kind}")
        number = self.number(_NUMBERS[kind], what)
        if kind == _BOOL:
            if number > 1:
                raise self._file.error(f"{what}: expected a bool of 0 or 1, got {number}")
            return bool(number)
        if isinstance(number, float) and not math.isfinite(number):
            self._odd.append(f"{what}: expected a finite number, got {number}")
        return number

    def warn(self) -> None:
        """Log one warning for all values that were kept though something is wrong with them."""
        if self._odd:
            more = f" (and {len(self._odd) - 1} more such values)" if len(self._odd) > 1 else ""
            self._file.warn(self._odd[0] + more)

    def _text(self, raw: bytes, what: str) -> str | bytes:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._odd.append(f"{what}: expected UTF-8, got {quoted(raw)}")
            return raw

    def _array(self, what: str) -> npt.NDArray[Any] | list[Any]:
        kind = self.number("I", f"the element type of {what}")
        count = self.number("Q", f"the length of {what}")
        if kind != _STRING and kind not in _NUMBERS:
            raise self._file.error(f"{what}: expected an array of numbers, bools or strings, got element type {kind}")
        if count > MAX_ARRAY:
            raise self._file.error(f"{what}: expected at most {MAX_ARRAY} elements, got {count}")
        if kind == _STRING:
            return self._strings(count, what)
        dtype = np.dtype("<" + _NUMBERS[kind])
        array = np.frombuffer(self._window.take(count * dtype.itemsize, what), dtype).copy()
        if kind == _BOOL:
            if array.size and array.max() > 1:
                raise self._file.error(f"{what}: expected bools of 0 or 1, got {array.max()}")
            return array.astype(np.bool_)
        if dtype.kind == "f" and not np.isfinite(array).all():
            self._odd.append(f"{what}: expected finite numbers, got {array[~np.isfinite(array)][0]}")
        return array

    def _strings(self, count: int, what: str) -> list[Any]:
        most = (self._file.size - self.position) // 8
        if count > most:
            raise self._file.error(f"{what}: expected at most {most} strings in the bytes that are left, got {count}")
        nbytes, longest = self._window.measure_strings(count, what)
        if longest > MAX_STRING:
            raise self._file.error(f"{what}: expected strings of at most {MAX_STRING} bytes, got a length of {longest}")
        raw = self._window.take(nbytes, what)
        try:
            return decode_strings(raw, count)
        except UnicodeDecodeError as error:
            self._odd.append(f"{what}: expected UTF-8, got {quoted(error.object)}")
            return _decoded_one_by_one(raw, count)


def _decoded_one_by_one(raw: memoryview, count: int) -> list[str | bytes]:
    """Strings of which some are no UTF-8, and stay bytes."""
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
