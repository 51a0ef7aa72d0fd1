# Whether stored weights are finite, see csrc/finite.c.

cdef extern from "pyml.h":
    bint pyml_all_finite(int, const uint8_t *, int64_t) nogil


def all_finite(const uint8_t[::1] data, int ggml_id):
    """Whether the floats, or the scales and minima of the blocks, are finite. The data are whole blocks of this type."""
    cdef bint finite = True
    if data.shape[0]:
        with nogil:
            finite = pyml_all_finite(ggml_id, &data[0], data.shape[0])
    return finite
