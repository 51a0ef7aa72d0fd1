from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .lower import Lowered
from .records import NativeSpans, Slice
from .sampled import SampledToken
from .sampling.rules import SamplingRules
from .tensor import PackedMatrix
from .timing import Capture
from .want import Choice

SOURCE_HASH: str
EXPERTS_MAX: int
THREADS_MAX: int
SPLIT_Q8_0: int
SCREEN_STATES_MAX: int
SCREEN_TOP_MAX: int
CONTINUED_MAX: int
FORK_WAIT_SECONDS: float

def operation_names() -> list[str]: ...
def has_kernel(level: str, name: str) -> bool: ...
def levels() -> list[tuple[str, bool, bool]]: ...
def aligned_empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]: ...
def pack_into(
    packed: npt.NDArray[np.uint8],
    stored: npt.NDArray[np.uint8],
    type_id: int,
    first_panel: int,
    n: int,
    k: int,
    threads: int,
) -> None: ...
def read_parts(
    parts: Sequence[tuple[PackedMatrix, int, int, int, int, str, npt.NDArray[np.int64] | None]], threads: int
) -> tuple[list[int], tuple[int, int, int, int, int, float] | None]: ...
def hash_rows(data: npt.NDArray[np.uint8], n_rows: int) -> int: ...
def all_finite(data: npt.NDArray[np.uint8], ggml_id: int) -> bool: ...
def read_ranges(
    fds: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    target: npt.NDArray[np.uint8],
) -> tuple[int, int, int, int, int, float] | None: ...
def unpack_rows(packed: PackedMatrix, rows: npt.NDArray[np.intp], level: str) -> npt.NDArray[np.float32]: ...
def row_stats(packed: PackedMatrix, level: str, threads: int) -> npt.NDArray[np.float16]: ...
def walk_strings(data: bytes, position: int, count: int) -> tuple[int, int, int]: ...
def decode_strings(data: bytes | memoryview, count: int) -> list[str]: ...
def split_pairs(lines: list[Any]) -> list[tuple[str, str]]: ...
def measure_limit(level: str, threads: int, what: str, data: npt.NDArray[Any], amount: int) -> tuple[int, int]: ...
def top_logprobs(
    logits: npt.NDArray[np.float32], token: int, count: int, level: str | None = None
) -> tuple[float, tuple[tuple[int, float], ...]]: ...
def elementary(name: str, x: npt.NDArray[np.float64], level: str | None = None) -> npt.NDArray[np.float64]: ...
def read_thread_timings(
    ticks: bytes, copied: bytes, threads: int, span_ns: tuple[int, int], span: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], float]: ...
def read_milliseconds(
    ticks: bytes,
    copied: bytes,
    threads: int,
    span_ns: tuple[int, int],
    span: tuple[int, int],
    operations: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]: ...
def text_of_sums(
    pieces: list[bytes],
    milliseconds: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> str: ...

Stamps = tuple[NativeSpans, bytes, bytes, int, tuple[int, int], tuple[int, int]]

class StopFlag:
    def __init__(self, deadline_ns: int = 0) -> None: ...
    def cancel(self) -> None: ...
    @property
    def cancelled(self) -> bool: ...

class Lock:
    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    @property
    def waiting(self) -> int: ...
    def dismiss(self) -> None: ...

class NoFork:
    def __init__(self, what: str) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

class Sampler:
    def __init__(
        self,
        rules: SamplingRules,
        sequence: int,
        vocabulary: int,
        prompt: Iterable[int] = (),
        generated: Iterable[int] = (),
        logprobs: int | None = None,
    ) -> None: ...
    @property
    def rules(self) -> SamplingRules: ...
    @property
    def vocabulary(self) -> int: ...
    def choose(
        self,
        logits: npt.NDArray[np.float32],
        position: int,
        ids: npt.NDArray[np.integer[Any]] | None = None,
        level: str | None = None,
    ) -> SampledToken: ...
    def add(self, token: int) -> None: ...
    def set_mask(self, mask: npt.NDArray[np.uint32] | None) -> None: ...

class NativeProgram:
    def __init__(self, lowered: Lowered, level: str, threads: int) -> None: ...
    @overload
    def run(
        self,
        slices: Sequence[Slice],
        timed: bool = False,
        captures: Sequence[Capture] = (),
        stop: StopFlag | None = None,
    ) -> npt.NDArray[np.float32]: ...
    @overload
    def run(
        self,
        slices: Sequence[Slice],
        timed: bool = False,
        captures: Sequence[Capture] = (),
        stop: StopFlag | None = None,
        *,
        top: int,
    ) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], int]]: ...
    def run_sampled(
        self,
        slices: Sequence[Slice],
        choices: Sequence[Choice],
        count: int,
        ends: Collection[int],
        pause: StopFlag | None = None,
        stop: StopFlag | None = None,
        timed: bool = False,
        captures: Sequence[Capture] = (),
        screen: bool = False,
    ) -> tuple[list[tuple[list[SampledToken], int]], list[tuple[int, int, int] | None], list[Stamps]]: ...
    def cancel(self) -> None: ...
    def timings(self) -> Stamps: ...
