"""Program: a model declared once as a flat list of named operations over preallocated buffers.

Letters: T = tokens of a run (all slices together), P = positions of a run that want logits, W = width of a buffer,
K = input width and N = output width of a matrix.

Python declares; nothing here computes. :meth:`Program.run` hands the list to the compiled run loop, which executes it
in one call without the GIL (``csrc/program.c``); :func:`pyml_core.reference.run` executes the same list in plain NumPy
and is what the compiled one is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from time import perf_counter
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from . import _native, cpu
from .cancel import CancelToken, current_flag
from .errors import Cancelled, ShapeError, quoted
from .graph import Buffer, Operation, Slice
from .kv_layout import KVLayout, PageTable
from .locks import Lock
from .observe import Observer, observers_of, observing
from .pickling import OfOneProcess
from .screen import MARGIN, MAX_STATES
from .tensor import PackedMatrix, Tensor, pack
from .timing import Capture, Timings
from .want import ALL_LOGITS, MAX_TOP, AllLogits, Greedy, GreedyToken, Top, TopLogits, Want, top_of

F32Array = npt.NDArray[np.float32]

MAX_EXPERTS: int = _native.EXPERTS_MAX
"""Most experts of a mixture."""

ACTIVATIONS = ("gelu_tanh", "gelu_erf", "silu")

_OVER_TOKENS = (  # their rows are always tokens
    "embed", "add_positions", "rope_angles", "prepare_qkv", "attention", "route",
    "dispatch", "expert_linear", "combine",
)  # fmt: skip


class Program(OfOneProcess, instead="make one in each process"):
    """A flat list of operations, run as one call.

    Args:
        max_tokens: most tokens (T) of one run; buffers are allocated for so many rows.
        kv: geometry of the sequences' KV pages, or None for a program without attention.
        threads: worker threads, 1 to 256; None takes :func:`pyml_core.cpu.default_threads`.

    Each method below appends one operation and returns the buffer that it writes.
    """

    def __init__(self, max_tokens: int, kv: KVLayout | None = None, threads: int | None = None) -> None:
        if max_tokens < 1:
            raise ShapeError(f"max_tokens: expected at least 1, got {max_tokens}")
        self.max_tokens = max_tokens
        self.kv = kv
        self.threads = cpu.default_threads() if threads is None else threads
        if not 1 <= self.threads <= _native.THREADS_MAX:
            raise ShapeError(f"threads: expected 1 to {_native.THREADS_MAX}, got {quoted(self.threads)}")
        self.level = cpu.level()
        self.buffers: list[Buffer] = []
        self.operations: list[Operation] = []
        self.result: Buffer | None = None
        self.screening: tuple[Operation, ...] = ()
        self._native: _native.NativeProgram | None = None
        self._lock = Lock()

    # ---- buffers

    def buffer(self, name: str, width: int, rows: str = "tokens", copies: int = 1) -> Buffer:
        """Declare an activation of ``width`` float32 a row, with ``copies`` rows a token.

        With ``rows="outputs"`` it has a row a wanted position.
        """
        if width < 1:
            raise ShapeError(f"{name}: expected a width of at least 1, got {width}")
        if rows not in ("tokens", "outputs"):
            raise ShapeError(f"{name}: expected rows 'tokens' or 'outputs', got {rows!r}")
        if copies < 1 or (copies > 1 and rows != "tokens"):
            raise ShapeError(f"{name}: expected 1 copy, or several of rows 'tokens', got {copies} of {rows!r}")
        buf = Buffer(name, width, rows, copies, index=len(self.buffers))
        self.buffers.append(buf)
        return buf

    # ---- operations over rows

    def embed(self, name: str, table: PackedMatrix, out: Buffer, scale: float = 1.0) -> Buffer:
        """``out[t] = scale * table[ids[t]]``: embedding look-up; table (vocab, W)."""
        self._check_width(name, table.shape[1], out)
        return self._add("embed", name, (), out, table=table, scale=float(scale))

    def add_positions(self, name: str, table: F32Array, out: Buffer) -> Buffer:
        """``out[t] += table[position[t]]``: learned positions (GPT-2); table (context, W) float32."""
        table = self._vector_or_table(name, table, 2)
        self._check_width(name, table.shape[1], out)
        return self._add("add_positions", name, (), out, table=table)

    def rms_norm(
        self, name: str, x: Buffer, weight: F32Array, eps: float, out: Buffer, add_to: Buffer | None = None
    ) -> Buffer:
        """``x / sqrt(mean(x^2) + eps) * weight`` into ``out``; with ``add_to`` (which must be ``out``): added to it.

        Source: Zhang and Sennrich 2019, arXiv 1910.07467.
        """
        weight = self._vector_or_table(name, weight, 1)
        self._check_width(name, weight.shape[0], x)
        self._check_width(name, x.width, out)
        if add_to is not None and add_to is not out:
            raise ShapeError(f"{name}: add_to must be the output buffer")
        return self._add("rms_norm", name, (x,), out, weight=weight, eps=float(eps), accumulate=add_to is not None)

    def layer_norm(self, name: str, x: Buffer, weight: F32Array, bias: F32Array, eps: float, out: Buffer) -> Buffer:
        """``(x - mean) / sqrt(var + eps) * weight + bias`` into ``out``. Source: Ba et al. 2016, arXiv 1607.06450."""
        weight = self._vector_or_table(name, weight, 1)
        bias = self._vector_or_table(name, bias, 1)
        self._check_width(name, weight.shape[0], x)
        self._check_width(name, bias.shape[0], x)
        self._check_width(name, x.width, out)
        return self._add("layer_norm", name, (x,), out, weight=weight, bias=bias, eps=float(eps))

    def linear(
        self,
        name: str,
        x: Buffer,
        matrices: Sequence[PackedMatrix],
        out: Buffer,
        bias: F32Array | None = None,
        accumulate: bool = False,
    ) -> Buffer:
        """``out = x @ concat(matrices).T + bias``, or ``out += ...`` with ``accumulate``.

        Every matrix is (N_i, K); their outputs lie side by side in ``out`` (W = sum of N_i), so that Q, K and V, or
        gate and up, are one operation even where their block types differ. Quantised matrices read x's int8 copy.
        """
        total = 0
        for matrix in matrices:
            self._check_width(name, matrix.shape[1], x)
            total += matrix.shape[0]
            if matrix.quantized:
                x.quantized = True
        self._check_width(name, total, out)
        if bias is not None:
            bias = self._vector_or_table(name, bias, 1)
            self._check_width(name, bias.shape[0], out)
        return self._add("linear", name, (x,), out, matrices=tuple(matrices), bias=bias, accumulate=accumulate)

    def activate(self, name: str, x: Buffer, activation: str, out: Buffer) -> Buffer:
        """``out = activation(x)``: ``gelu_tanh``, ``gelu_erf`` or ``silu``. In place where out is x."""
        self._check_activation(name, activation)
        self._check_width(name, x.width, out)
        return self._add("activate", name, (x,), out, activation=activation)

    def gated(self, name: str, gate_up: Buffer, activation: str, out: Buffer) -> Buffer:
        """``out = activation(gate) * up`` where ``gate_up`` is [gate | up], twice as wide as ``out``.

        Source: Shazeer 2020, arXiv 2002.05202.
        """
        self._check_activation(name, activation)
        self._check_width(name, 2 * out.width, gate_up)
        return self._add("gated", name, (gate_up,), out, activation=activation)

    def soft_cap(self, name: str, x: Buffer, cap: float) -> Buffer:
        """``x = cap * tanh(x / cap)`` in place (Gemma 2's final logits)."""
        if not cap > 0:
            raise ShapeError(f"{name}: expected a cap above 0, got {cap}")
        return self._add("soft_cap", name, (x,), x, cap=float(cap))

    def screen(self, margin: float = MARGIN) -> None:
        """Screen the last operation: runs for :class:`Top` and :class:`Greedy` read fewer of its bytes.

        That operation is a linear layer of one split matrix, without bias, on rows of wanted positions; nothing comes
        after it. In such runs two operations take its place, ``<its name>.screen`` and ``.rescore`` (``screening``).

        Args:
            margin: standard deviations between a coarse output and its bounds, see :mod:`pyml_core.screen`.

        Raises:
            ShapeError: it is anything else, or the program has run already.
        """
        if self._native is not None:
            raise ShapeError("screen: the program has run already; declare every operation before its first run")
        last = self.operations[-1] if self.operations else None
        if (
            last is None or last.kind != "linear" or last.output.rows != "outputs" or last.params["accumulate"]
            or last.params["bias"] is not None or [matrix.split for matrix in last.params["matrices"]] != [True]
        ):  # fmt: skip
            raise ShapeError("screen: expected the last operation to be a linear layer of one split matrix")
        matrices = last.params["matrices"]
        facts = _native.screen_facts(matrices[0], self.level, self.threads)
        params = {"matrices": matrices, "facts": facts, "margin": float(margin)}
        self.screening = tuple(
            Operation(kind, f"{last.name}.{kind}", last.inputs, last.output, params) for kind in ("screen", "rescore")
        )

    def select(self, name: str, x: Buffer, out: Buffer) -> Buffer:
        """``out[p] = x[row of wanted position p]``: from a row a token to a row a wanted position."""
        self._check_width(name, x.width, out)
        if x.rows != "tokens" or out.rows != "outputs":
            raise ShapeError(f"{name}: select goes from rows 'tokens' to rows 'outputs'")
        return self._add("select", name, (x,), out)

    # ---- mixtures of experts. Letters: E = experts, K = those that each token is sent to

    def route(self, name: str, logits: Buffer, n_chosen: int, out: Buffer, normalize: bool = True) -> Buffer:
        """Choose the K experts of every token: those of the largest ``logits`` (T, E), the first of equals.

        ``out`` is (T, 2 K): [experts | weights], the largest first. Weights are those of the softmax over all experts,
        or over the chosen ones with ``normalize``. Source: Shazeer et al. 2017, arXiv 1701.06538; Jiang et al. 2024,
        arXiv 2401.04088.
        """
        if not 1 <= n_chosen <= logits.width <= _native.EXPERTS_MAX:
            raise ShapeError(
                f"{name}: expected 1 to {_native.EXPERTS_MAX} experts, of which as many are chosen at most, "
                f"got {logits.width} and {n_chosen}"
            )
        self._check_width(name, 2 * n_chosen, out)
        return self._add("route", name, (logits,), out, n_chosen=n_chosen, normalize=normalize)

    def dispatch(self, name: str, x: Buffer, routes: Buffer, out: Buffer) -> Buffer:
        """The row of every token once for each of its experts: ``out`` has K rows a token, expert by expert."""
        self._check_width(name, x.width, out)
        self._check_routes(name, routes, out, x)
        return self._add("dispatch", name, (x, routes), out)

    def expert_linear(
        self, name: str, x: Buffer, routes: Buffer, experts: Sequence[Sequence[PackedMatrix]], out: Buffer
    ) -> Buffer:
        """Every dispatched row times its expert's matrices: ``x @ concat(experts[e]).T``.

        All experts have matrices (N_i, K) of the same shapes, side by side in ``out``. Those of an expert that no token
        of a run has chosen are not read.
        """
        shapes = {tuple(matrix.shape for matrix in matrices) for matrices in experts}
        if len(shapes) != 1 or not all(experts):
            raise ShapeError(f"{name}: expected matrices of the same shapes for every expert, got {len(shapes)} kinds")
        self._check_routes(name, routes, x, n_experts=len(experts))
        matrices = tuple(matrix for matrices in experts for matrix in matrices)
        for matrix in matrices:
            self._check_width(name, matrix.shape[1], x)
            if matrix.quantized:
                x.quantized = True
        self._check_width(name, sum(matrix.shape[0] for matrix in experts[0]), out)
        return self._add("expert_linear", name, (x, routes), out, matrices=matrices, n_experts=len(experts))

    def combine(self, name: str, x: Buffer, routes: Buffer, out: Buffer, accumulate: bool = False) -> Buffer:
        """``out[t] = sum over t's experts of weight * x[row]``, in the routes' order; added to with ``accumulate``."""
        self._check_width(name, x.width, out)
        self._check_routes(name, routes, x, out)
        return self._add("combine", name, (x, routes), out, accumulate=accumulate)

    # ---- attention

    def rope_angles(self, name: str, inv_freq: F32Array, scale: float = 1.0) -> Buffer:
        """A new buffer, 2 F wide: [cos | sin] of ``position * inv_freq``, times ``scale``.

        ``inv_freq`` is (F) or (sets, F): of several sets, each slice of a run says which it wants.
        """
        inv_freq = self._vector_or_table(name, np.atleast_2d(inv_freq), 2)
        out = self.buffer(name, 2 * inv_freq.shape[1])
        return self._add("rope_angles", name, (), out, inv_freq=inv_freq, scale=float(scale))

    def prepare_qkv(
        self,
        name: str,
        qkv: Buffer,
        layer: int,
        n_heads: int,
        rope: Buffer | None = None,
        q_norm: F32Array | None = None,
        k_norm: F32Array | None = None,
        eps: float = 1e-6,
    ) -> Buffer:
        """Make q ready and append k and v to the KV pages: per head norm (QK-norm), rotation (half-split RoPE), append.

        ``qkv`` is [q heads | k heads | v heads], ``(n_heads + 2 H) * D`` wide; q is changed in place. RoPE rotates the
        first ``rope.width`` elements of a head: ``x1 cos - x2 sin | x2 cos + x1 sin`` (Su et al. 2021, arXiv
        2104.09864, in the half-split order of GPT-NeoX). k and v are rounded to the cache's type.
        """
        kv = self._attention_geometry(name, layer, n_heads, qkv)
        if rope is not None and rope.width > kv.head_dim:
            raise ShapeError(f"{name}: RoPE rotates {rope.width} elements, head_dim is {kv.head_dim}")
        norms = []
        for weight in (q_norm, k_norm):
            if weight is not None:
                weight = self._vector_or_table(name, weight, 1)
                if weight.shape[0] != kv.head_dim:
                    raise ShapeError(f"{name}: expected a QK-norm of {kv.head_dim} weights, got {weight.shape[0]}")
            norms.append(weight)
        inputs = (qkv,) if rope is None else (qkv, rope)
        return self._add(
            "prepare_qkv", name, inputs, qkv,
            layer=layer, n_heads=n_heads, q_norm=norms[0], k_norm=norms[1], eps=float(eps),
        )  # fmt: skip

    def attention(
        self,
        name: str,
        qkv: Buffer,
        layer: int,
        n_heads: int,
        out: Buffer,
        scale: float,
        window: int = 0,
        soft_cap: float = 0.0,
    ) -> Buffer:
        """Causal attention of every token's q (in ``qkv``) over its sequence's pages; ``out`` is (T, n_heads * D).

        Query head h reads key/value head ``h // (n_heads / H)``. ``window`` w > 0: a token at position i sees positions
        ``i - w + 1 .. i``. ``soft_cap`` c > 0: scores become ``c * tanh(score / c)`` before the mask. Softmax is taken
        online over key blocks of 64 at absolute positions, merged in ascending order (Milakov and Gimelshein 2018,
        arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
        """
        kv = self._attention_geometry(name, layer, n_heads, qkv)
        self._check_width(name, n_heads * kv.head_dim, out)
        if window < 0:
            raise ShapeError(f"{name}: expected a window of at least 0, got {window}")
        return self._add(
            "attention", name, (qkv,), out,
            layer=layer, n_heads=n_heads, scale=float(scale), window=int(window), soft_cap=float(soft_cap),
        )  # fmt: skip

    # ---- running

    @overload
    def run(self, batch: Sequence[Slice], want: AllLogits = ...) -> F32Array: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Top) -> list[TopLogits]: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Greedy) -> list[GreedyToken]: ...
    @overload
    def run(self, batch: Sequence[Slice], want: Want) -> F32Array | list[TopLogits] | list[GreedyToken]: ...
    def run(self, batch: Sequence[Slice], want: Want = ALL_LOGITS) -> F32Array | list[TopLogits] | list[GreedyToken]:
        """Execute every operation once for these slices: append their keys and values, and compute the last output.

        Args:
            batch: the slices of a run.
            want: which outputs of the wanted positions to return. :class:`Greedy` needs a single slice of one token
                that wants logits, with pages for ``count`` positions.

        Returns:
            :class:`AllLogits`: the last operation's output, (P, W) float32 (or (T, W) where it has a row a token), the
            wanted positions of all slices in order. :class:`Top`: a :class:`TopLogits` for each position.
            :class:`Greedy`: a :class:`GreedyToken` for each run, in order; the last token has not been run. With
            captures it is a single run.

        Runs of one program from several threads take turns. Ctrl-C raises KeyboardInterrupt, also before its turn.

        Raises:
            ShapeError: slices that do not fit the program, or a ``want`` out of range. Cancelled: by :meth:`cancel`, or
                by the :class:`pyml_core.CancelToken` that this thread has entered, also before its turn; what greedy
                runs had found by then is lost.
        """
        observers = observers_of(self)
        captures = [capture for observer in observers for capture in observer.captures(batch)]
        with self._lock:
            native = self._compiled()
            result, runs = self._execute(native, batch, want, bool(observers), captures)
        for ran, timings in runs:
            for observer in observers:
                observer.ran(ran, timings)
        return result

    def _execute(
        self,
        native: _native.NativeProgram,
        batch: Sequence[Slice],
        want: Want,
        timed: bool,
        captures: Sequence[Capture],
    ) -> tuple[F32Array | list[TopLogits] | list[GreedyToken], list[tuple[Sequence[Slice], Timings]]]:
        """The result, and every run with its times if it is timed."""
        if isinstance(want, Greedy):
            (part,) = self._single(batch)
            if captures:
                start = perf_counter()
                (top,), runs = self._execute_top(native, batch, 1, timed, captures)
                return [GreedyToken(*top.best(), (perf_counter() - start) * 1e3)], runs
            found, stamps = native.run_greedy(
                part, want.count, want.ends, want.history, want.repeat, current_flag(), timed
            )
            tokens = [GreedyToken(token, logit, ns * 1e-6) for token, logit, ns, _ in found]
            return tokens, self._greedy_timings(part, found, stamps) if timed else []
        if isinstance(want, Top):
            return self._execute_top(native, batch, want.k, timed, captures)
        rows = native.run(batch, timed, captures, current_flag())
        return rows, [(batch, Timings(self.operations, self.kv, batch, native.timings()))] if timed else []

    def _execute_top(
        self, native: _native.NativeProgram, batch: Sequence[Slice], k: int, timed: bool, captures: Sequence[Capture]
    ) -> tuple[list[TopLogits], list[tuple[Sequence[Slice], Timings]]]:
        if not self._screens(batch, k, captures):
            rows = native.run(batch, timed, captures, current_flag())
            runs = [(batch, Timings(self.operations, self.kv, batch, native.timings()))] if timed else []
            return [top_of(row, k) for row in rows], runs
        found = [TopLogits(*one) for one in native.run(batch, timed, captures, current_flag(), top=k)]
        if not timed:
            return found, []
        rescored = sum(one.rescored for one in found)
        operations = [*self.operations[:-1], *self.screening]
        return found, [(batch, Timings(operations, self.kv, batch, native.timings(), rescored))]

    def _screens(self, batch: Sequence[Slice], k: int, captures: Sequence[Capture]) -> bool:
        """Whether the head is screened for the ``k`` largest outputs: what captures it needs all of it."""
        if k < 1:
            raise ShapeError(f"run: expected at least 1 output of each position, got {k}")
        wanted = sum(len(part.outputs) for part in batch)
        if not self.screening or k > MAX_TOP or wanted > MAX_STATES:
            return False
        return all(capture.operation.output is not self.result for capture in captures)

    @staticmethod
    def _single(batch: Sequence[Slice]) -> Sequence[Slice]:
        if len(batch) != 1:
            raise ShapeError(f"run: expected one slice for greedy runs, got {len(batch)}")
        return batch

    def _greedy_timings(
        self, part: Slice, found: Sequence[tuple[int, float, int, int]], stamps: Sequence[Any]
    ) -> list[tuple[Sequence[Slice], Timings]]:
        runs: list[tuple[Sequence[Slice], Timings]] = []
        operations = [*self.operations[:-1], *self.screening] if self.screening else self.operations
        ids = part.ids
        for index, ((token, _, _, rescored), stamp) in enumerate(zip(found, stamps, strict=True)):
            ran = [Slice(part.pages, part.start + index, ids, part.outputs, part.rope_set)]
            runs.append((ran, Timings(operations, self.kv, ran, stamp, rescored)))
            ids = [token]
        return runs

    def observe(self, observer: Observer) -> AbstractContextManager[None]:
        """Attach an observer to the runs made in this context (thread or task): ``with program.observe(it): ...``."""
        return observing(self, observer)

    def run_after(self, name: str, rows: npt.ArrayLike) -> F32Array:
        """What the operations after the one of this name make of other rows: (R, its width) to the last output (R, W).

        The numbers are those of a run in which that operation's output was these rows.

        Raises:
            ShapeError: no such operation, rows of another width, or operations after it that need more than its rows.
        """
        index = next((i for i, op in enumerate(self.operations) if op.name == name), None)
        if index is None:
            raise ShapeError(f"{name}: expected the name of an operation of this program")
        x, source = np.ascontiguousarray(rows, np.float32), self.operations[index].output
        if x.ndim != 2 or not len(x) or x.shape[1] != source.width:
            raise ShapeError(f"{name}: expected rows of shape (R, {source.width}), got {x.shape}")
        program = Program(len(x), threads=self.threads)
        program.level = self.level
        copies: dict[Buffer, Buffer] = {}
        for buf in (source, *(op.output for op in self.operations[index + 1 :])):
            if buf not in copies:
                copies[buf] = program.buffer(buf.name, buf.width)
                copies[buf].quantized = buf.quantized
        program.embed(name, pack(Tensor.from_array(x)), copies[source])
        for op in self.operations[index + 1 :]:
            if op.kind in (*_OVER_TOKENS, "select") or any(buf not in copies for buf in op.inputs):
                raise ShapeError(f"{name}: {op.name} needs more than the rows of {name}")
            inputs = tuple(copies[buf] for buf in op.inputs)
            program.operations.append(replace(op, inputs=inputs, output=copies[op.output]))
            program.result = copies[op.output]
        return program.run([Slice(PageTable(), 0, np.arange(len(x), dtype=np.int32))])

    def cancel(self) -> None:
        """Stop the run in progress and those that wait for their turn, from any thread: they raise Cancelled.

        The one in progress does so within one item of work.
        """
        if self._native is not None:
            self._native.cancel()
        self._lock.dismiss()

    def stop(self) -> None:
        """:meth:`cancel`, and wait until no run is in progress."""
        while True:
            self.cancel()  # more than once: a run that is about to begin does not see it
            with suppress(Cancelled), CancelToken(0.05), self._lock:
                return

    def _compiled(self) -> _native.NativeProgram:
        if self._native is None:
            if self.result is None:
                raise ShapeError("the program has no operations")
            self._check_order()
            self._native = _native.NativeProgram(self, self.level, self.threads)
        return self._native

    # ---- checks

    def _add(self, kind: str, name: str, inputs: tuple[Buffer, ...], out: Buffer, **params: Any) -> Buffer:
        if self._native is not None:
            raise ShapeError(f"{name}: the program has run already; declare every operation before its first run")
        if self.screening:
            raise ShapeError(f"{name}: nothing can come after {self.operations[-1].name}, which is screened")
        for buf in (*inputs, out):
            if not 0 <= buf.index < len(self.buffers) or self.buffers[buf.index] is not buf:
                raise ShapeError(f"{name}: {buf.name} is not a buffer of this program")
            rows = "tokens" if kind in _OVER_TOKENS else out.rows
            if buf.rows != rows and kind != "select":
                raise ShapeError(f"{name}: expected {buf.name} to have rows of {rows}, it has rows of {buf.rows}")
        if kind not in ("dispatch", "combine"):  # these have looked at their routes
            copies = out.copies if kind == "expert_linear" or kind not in _OVER_TOKENS else 1
            for buf in (*inputs[:1], out):
                if buf.copies != copies:
                    raise ShapeError(f"{name}: expected {buf.name} to have {copies} rows a token, it has {buf.copies}")
        self.operations.append(Operation(kind, name, inputs, out, params))
        self.result = out
        return out

    def _check_order(self) -> None:
        written: set[Buffer] = set()
        for op in self.operations:
            adds = op.kind == "add_positions" or op.params.get("accumulate")
            for buf in (*op.inputs, op.output) if adds else op.inputs:
                if buf not in written:
                    raise ShapeError(f"{op.name}: reads {buf.name}, which nothing was written to")
            written.add(op.output)

    @staticmethod
    def _check_width(name: str, expected: int, buf: Buffer) -> None:
        if buf.width != expected:
            raise ShapeError(f"{name}: expected {buf.name} to be {expected} wide, it is {buf.width}")

    def _check_routes(
        self, name: str, routes: Buffer, dispatched: Buffer, tokens: Buffer | None = None, n_experts: int | None = None
    ) -> None:
        """That ``routes`` holds routes (to ``n_experts``), and the buffers a row for each and one for each token."""
        found = [op for op in self.operations if op.kind == "route" and op.output is routes]
        if not found:
            raise ShapeError(f"{name}: expected routes in {routes.name}, which none were written to")
        n_chosen, width = found[-1].params["n_chosen"], found[-1].inputs[0].width
        if n_experts is not None and n_experts != width:
            raise ShapeError(f"{name}: expected {width} experts, as {routes.name} leads to, got {n_experts}")
        for buf, copies in ((dispatched, n_chosen), (tokens, 1)):
            if buf is not None and buf.copies != copies:
                raise ShapeError(f"{name}: expected {buf.name} to have {copies} rows a token, it has {buf.copies}")

    @staticmethod
    def _check_activation(name: str, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ShapeError(f"{name}: expected an activation of {', '.join(ACTIVATIONS)}, got {activation!r}")

    @staticmethod
    def _vector_or_table(name: str, array: F32Array, ndim: int) -> F32Array:
        if array.ndim != ndim:
            raise ShapeError(f"{name}: expected a weight of {ndim} dimensions, got shape {array.shape}")
        return np.require(array, np.float32, ["C", "A"])

    def _attention_geometry(self, name: str, layer: int, n_heads: int, qkv: Buffer) -> KVLayout:
        if self.kv is None:
            raise ShapeError(f"{name}: attention needs a program with a KV layout")
        if not 0 <= layer < self.kv.n_layers:
            raise ShapeError(f"{name}: layer {layer} is not in the KV layout's {self.kv.n_layers}")
        if n_heads % self.kv.n_kv_heads:
            raise ShapeError(f"{name}: {n_heads} heads do not divide into {self.kv.n_kv_heads} key/value heads")
        self._check_width(name, (n_heads + 2 * self.kv.n_kv_heads) * self.kv.head_dim, qkv)
        return self.kv
