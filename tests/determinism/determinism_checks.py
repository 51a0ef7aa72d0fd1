"""One sequence's logits computed in many ways, which must agree in every bit.

Each check takes a function that builds the model with given options (threads, max_tokens), the base logits, and
raises AssertionError naming the way that differs. ``python -m tests.determinism.determinism_checks`` runs
them all on the tiny models at the CPU level in force (``PYML_CPU_LEVEL``): test_levels.py covers the other levels so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import tiny_files, tiny_models

F32Array = npt.NDArray[np.float32]
Build = Callable[..., Any]


@dataclass
class Subject:
    """A model to check: how to build it (options: threads, max_tokens) and the ids of one sequence."""

    name: str
    build: Build
    ids: list[int]
    load_cache: Callable[[Any, Path], Any]
    _base: F32Array | None = None

    @property
    def base(self) -> F32Array:
        """Logits at every position, by one thread in one pass."""
        if self._base is None:
            self._base = forward(self.build(threads=1, max_tokens=512), self.ids)
        return self._base


def forward(model: Any, ids: Sequence[int], cache: Any = None) -> F32Array:
    """Logits at every position of ``ids``, appended to ``cache`` (a new one by default)."""
    cache = model.new_cache() if cache is None else cache
    logits: F32Array = model.forward([(cache, list(ids), list(range(len(ids))))])[0]
    return logits


def assert_same(subject: Subject, way: str, got: F32Array, expected: F32Array) -> None:
    """Compare bits; the message names the first position that differs."""
    assert got.shape == expected.shape, f"{subject.name}, {way}: shape {got.shape}, expected {expected.shape}"
    different = (got.view(np.uint32) != expected.view(np.uint32)).any(axis=1)
    largest = abs(got - expected).max() if different.any() else 0.0
    assert not different.any(), (
        f"{subject.name}, {way}: {different.sum()} of {len(got)} positions differ, the first at "
        f"{int(different.argmax())}, by up to {largest:.2e}"
    )


def check_threads(subject: Subject) -> None:
    """Threads 2, 3, 8, and one model twice."""
    for threads in (1, 2, 3, 8):
        model = subject.build(threads=threads, max_tokens=512)
        assert_same(subject, f"{threads} threads", forward(model, subject.ids), subject.base)
        assert_same(subject, f"{threads} threads again", forward(model, subject.ids), subject.base)


def check_chunks(subject: Subject) -> None:
    """Prefill in chunks of 1, 7 and 64, made by the model (max_tokens) and by the caller."""
    for chunk in (1, 7, 64):
        model = subject.build(threads=2, max_tokens=chunk)
        assert_same(subject, f"max_tokens={chunk}", forward(model, subject.ids), subject.base)
    model = subject.build(threads=2, max_tokens=512)
    for chunk in (1, 7, 64):
        cache = model.new_cache()
        parts = [forward(model, subject.ids[i : i + chunk], cache) for i in range(0, len(subject.ids), chunk)]
        assert_same(subject, f"slices of {chunk}", np.concatenate(parts), subject.base)


def check_positions(subject: Subject) -> None:
    """Requests for few positions, or the last one only, return equal rows."""
    model = subject.build(threads=2, max_tokens=512)
    some = [0, 3, len(subject.ids) // 2, len(subject.ids) - 1]
    got = model.forward([(model.new_cache(), subject.ids, some)])[0]
    assert_same(subject, "four positions", got, subject.base[some])
    last = model.forward([(model.new_cache(), subject.ids, None)])[0]
    assert_same(subject, "last position", last, subject.base[-1:])


def check_batch(subject: Subject) -> None:
    """Alone or in a batch of 5, at its first, middle and last place, among prefills and decodes of other lengths."""
    ids = subject.ids
    for max_tokens in (512, 50):
        model = subject.build(threads=2, max_tokens=max_tokens)
        for place in (0, 2, 4):
            batch = []
            for i, length in enumerate((1, 5, 33, len(ids) - 1)):
                cache, other = model.new_cache(), list(reversed(ids))
                if i % 2:  # this neighbour is in mid-sequence already
                    forward(model, other[: 9 * i], cache)
                    other = other[9 * i :]
                batch.append((cache, other[:length], [0]))
            batch.insert(place, (model.new_cache(), ids, list(range(len(ids)))))
            got = model.forward(batch)[place]
            assert_same(subject, f"place {place} of a batch of 5, max_tokens={max_tokens}", got, subject.base)
    model = subject.build(threads=2, max_tokens=512)
    check_decode_in_a_batch(subject, model)


def check_decode_in_a_batch(subject: Subject, model: Any) -> None:
    """Five sequences decoding together, each as if alone."""
    ids = subject.ids
    starts = [len(ids) - 8, 1, 17, 40, 60]
    caches = [model.new_cache() for _ in starts]
    for cache, start in zip(caches, starts, strict=True):
        forward(model, ids[:start], cache)
    for step in range(8):
        batch = [(cache, [ids[start + step]], [0]) for cache, start in zip(caches, starts, strict=True)]
        for start, got in zip(starts, model.forward(batch), strict=True):
            where = start + step
            assert_same(subject, f"decode of position {where} in a batch", got, subject.base[where : where + 1])


def check_cache(subject: Subject) -> None:
    """KV cache fresh, forked (in a page and at its edge), trimmed, and saved and loaded."""
    ids, base = subject.ids, subject.base
    model = subject.build(threads=2, max_tokens=512)
    whole = model.new_cache()
    forward(model, ids, whole)
    for n in (1, 30, 64, len(ids) - 1):
        branch = whole.fork(n)
        other = whole.fork(n)
        forward(model, list(reversed(ids))[: min(5, len(ids) - n)], other)  # writes into a page that it shared
        assert_same(subject, f"forked at {n}", forward(model, ids[n:], branch), base[n:])
        assert_same(subject, f"original after a fork at {n}", forward(model, ids[-1:], trimmed(whole, -1)), base[-1:])
    for n in (len(ids) - 1, 64, 30, 1):
        whole.trim(n)
        assert whole.length == n
        assert_same(subject, f"trimmed to {n}", forward(model, ids[n:], whole.fork(n)), base[n:])
    whole.trim(0)
    assert_same(subject, "trimmed to nothing", forward(model, ids, whole), base)
    with tempfile.TemporaryDirectory() as folder:
        for n in (37, 64):
            part = whole.fork(n)
            part.save(Path(folder) / "state.safetensors")
            other_model = subject.build(threads=3, max_tokens=7)
            loaded = subject.load_cache(other_model, Path(folder) / "state.safetensors")
            assert loaded.length == n
            assert_same(subject, f"saved and loaded at {n}", forward(other_model, ids[n:], loaded), base[n:])


def trimmed(cache: Any, by: int) -> Any:
    """Return the cache, shortened by ``-by`` positions (``by`` is negative)."""
    cache.trim(cache.length + by)
    return cache


def check_quickly(subject: Subject) -> None:
    """All of it on a model that takes a while to build: few builds, each in several ways at once, at some positions."""
    ids = subject.ids
    some = [0, 1, 15, 62, 63, 64, 65, len(ids) - 2, len(ids) - 1]
    model = subject.build(threads=1, max_tokens=512)
    base = model.forward([(model.new_cache(), ids, some)])[0]

    def rest(start: int) -> tuple[list[int], F32Array]:
        """Positions from ``start`` on, counted from there, and their logits."""
        return [position - start for position in some if position >= start], base[[p >= start for p in some]]

    for threads, max_tokens in ((2, 64), (3, 7), (8, 512)):
        model = subject.build(threads=threads, max_tokens=max_tokens)
        way = f"{threads} threads, max_tokens={max_tokens}"
        cache = model.new_cache()
        assert_same(subject, way, model.forward([(cache, ids, some)])[0], base)
        fork = cache.fork(len(ids) - 12)
        steps = np.concatenate([model.forward([(fork, [token], [0])])[0] for token in ids[-12:]])
        positions, expected = rest(len(ids) - 12)
        assert_same(subject, f"{way}, decoded from a fork", steps[positions], expected)
        batch = [(model.new_cache(), ids[i : i + 9 * i + 1], [0]) for i in range(4)]
        batch.insert(2, (model.new_cache(), ids, some))
        assert_same(subject, f"{way}, in a batch of 5", model.forward(batch)[2], base)
        with tempfile.TemporaryDirectory() as folder:
            cache.trim(61)
            cache.save(Path(folder) / "state.safetensors")
            loaded = subject.load_cache(model, Path(folder) / "state.safetensors")
            positions, expected = rest(61)
            got = model.forward([(loaded, ids[61:], positions)])[0]
            assert_same(subject, f"{way}, trimmed, saved and loaded", got, expected)


CHECKS = (check_threads, check_chunks, check_positions, check_batch, check_cache)

# ---- subjects

TINY = (
    "gpt2_head20", "gemma3_head80", "llama3_scaled", "mistral_window", "phi3_long", "mixtral", "granite", "phi",
    "ministral3", "olmo2_grouped", "olmo3", "olmoe",
)  # fmt: skip
CASES = (
    *((name, "f32") for name in TINY),
    *((name, dtype) for name in ("gemma3_head80", "mistral_window") for dtype in ("bf16", "q8_0", "q4_0")),
    ("mixtral", "q8_0"),
)
BLOCK_TYPES = (
    *("f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("iq4_nl", "iq4_xs", "mxfp4"),
)


def tiny_subject(name: str, dtype: str) -> Subject:
    """A tiny model, its matrices converted to ``dtype`` at load."""
    model = tiny_models.MODELS[name]
    weights = model.weights()

    def build(**options: Any) -> Any:
        return tiny_files.build(model, weights, dtype=dtype, **options)

    return Subject(f"{name} {dtype}", build, model.prompt, load_cache)


def block_type_subject(dtype: str, folder: Path) -> Subject:
    """A tiny Llama whose GGUF file stores every matrix in one block type."""
    from pyml_nlp.formats.gguf import GGUFFile

    path = tiny_files.write_gguf(tiny_models.QUANTIZED, folder / f"{dtype}.gguf", dtype)
    return gguf_subject(f"block type {dtype}", GGUFFile(path), tiny_models.QUANTIZED.prompt)


def gguf_subject(name: str, file: Any, ids: list[int]) -> Subject:
    """A GGUF file as it is stored."""
    from pyml_nn.models import architecture_of

    def build(**options: Any) -> Any:
        module = architecture_of(file.metadata, name)
        return module.Model(module.Config.from_gguf(file.metadata), file, **options)

    return Subject(name, build, ids, load_cache)


def load_cache(model: Any, path: Path) -> Any:
    """A saved cache, for a model."""
    return model.load_cache(path)


def main() -> None:
    """The quick check of every tiny model."""
    from pyml_core import cpu

    with tempfile.TemporaryDirectory() as folder:
        subjects = [tiny_subject(*case) for case in CASES]
        subjects += [block_type_subject(dtype, Path(folder)) for dtype in BLOCK_TYPES]
        for subject in subjects:
            check_quickly(subject)
    print(f"{len(subjects)} models, level {cpu.level()}")


if __name__ == "__main__":
    main()
