# Loops over the hundreds of thousands of strings of a vocabulary, several times faster than in Python. See strings.py.

from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF


cdef extern from "Python.h":
    str PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *)
    str PyUnicode_Substring(str, Py_ssize_t, Py_ssize_t)
    Py_ssize_t PyUnicode_GetLength(str) except -1
    Py_ssize_t PyUnicode_FindChar(str, Py_UCS4, Py_ssize_t, Py_ssize_t, int) except -2


cdef uint64_t _length_at(const uint8_t *bytes) noexcept:
    cdef uint64_t length = 0
    cdef int i
    for i in range(8):
        length |= <uint64_t>bytes[i] << 8 * i
    return length


def walk_strings(bytes data, int64_t position, int64_t count):
    cdef const uint8_t *start = data
    cdef int64_t size = len(data), walked = 0
    cdef uint64_t length, longest = 0
    while walked < count and 0 <= position <= size - 8:
        length = _length_at(start + position)
        if length > longest:
            longest = length
        walked += 1
        if length > <uint64_t>(size - position - 8):  # beyond the data; the sum may exceed 64 bits
            return walked, position + 8 + <object>length, longest
        position += 8 + <int64_t>length
    return walked, position, longest


def decode_strings(const uint8_t[::1] data not None, int64_t count):
    cdef list strings = PyList_New(count)
    cdef int64_t size = data.shape[0], position = 0
    cdef uint64_t length
    cdef str text
    cdef Py_ssize_t i
    for i in range(count):
        if position > size - 8:
            raise ShapeError(f"strings: expected {count} in {size} bytes")
        length = _length_at(&data[position])
        if length > <uint64_t>(size - position - 8):
            raise ShapeError(f"strings: expected {count} in {size} bytes")
        text = PyUnicode_DecodeUTF8(<const char *>&data[position] + 8, <Py_ssize_t>length, NULL)
        Py_INCREF(text)
        PyList_SET_ITEM(strings, i, text)
        position += 8 + <int64_t>length
    return strings


cdef tuple _pair_of(line):
    """Return the two non-empty strings of a list or of "left right"; None if the line is anything else."""
    cdef str text
    cdef Py_ssize_t length, at
    if type(line) is list:
        if len(line) != 2 or type(line[0]) is not str or type(line[1]) is not str or not line[0] or not line[1]:
            return None
        return tuple(line)
    if type(line) is not str:
        return None
    text = line
    length = PyUnicode_GetLength(text)
    at = PyUnicode_FindChar(text, 32, 0, length, 1)
    if at <= 0 or at == length - 1 or PyUnicode_FindChar(text, 32, at + 1, length, 1) >= 0:
        return None
    return PyUnicode_Substring(text, 0, at), PyUnicode_Substring(text, at + 1, length)


def split_pairs(list lines not None):
    cdef list pairs = []
    cdef tuple pair
    for line in lines:
        pair = _pair_of(line)
        if pair is None:
            break
        pairs.append(pair)
    return pairs
