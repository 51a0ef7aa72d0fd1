"""The eager operations: results of the reference for arrays of all valid shapes, and clear errors for others."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core_cases import SIZES, assert_near, normal, random_weight, same_bits

import pyml_core
from pyml_core import KVLayout, ShapeError, pack, reference
from pyml_core import functional as fn

# ---- against the reference


def test_matmul(level: str, rng: np.random.Generator) -> None:
    for name, rows, inputs, outputs in (
        ("q8_0", 5, 96, 17),
        ("q4_K", 33, 512, 3),
        ("bf16", 7, 67, 129),
        ("f32", 1, 1, 1),
    ):
        x, weight, bias = normal(rng, rows, inputs), random_weight(name, outputs, inputs, rng), normal(rng, outputs)
        assert_near(fn.matmul(x, pack(weight)), reference.linear(x, weight))
        with_bias = fn.matmul(x, pack(weight), bias, threads=3)
        assert_near(with_bias, reference.linear(x, weight, bias))
        assert same_bits(fn.matmul(x, pack(weight), bias=bias, threads=1), with_bias)


def test_norms_and_activations(level: str, rng: np.random.Generator) -> None:
    for rows, width in zip(SIZES[:9], reversed(SIZES), strict=False):
        x, weight, bias = normal(rng, rows, width), normal(rng, width), normal(rng, width)
        assert_near(fn.rms_norm(x, weight), reference.rms_norm(x, weight, 1e-6))
        assert_near(fn.layer_norm(x, weight, bias), reference.layer_norm(x, weight, bias, 1e-5))
        for activation in reference.ACTIVATIONS:
            assert_near(fn.activate(x, activation), reference.activate(x, activation))
            both = np.concatenate([x, x[:, ::-1]], axis=1)
            assert_near(fn.gated(both, activation), reference.gated(both, activation))


def test_rope(level: str, rng: np.random.Generator) -> None:
    for heads, dim, frequencies, start in ((1, 64, 32, 0), (5, 20, 7, 100), (3, 96, 16, 5000)):
        x = normal(rng, 67, heads, dim)
        inv_freq = (1e4 ** (-np.arange(frequencies) / frequencies)).astype(np.float32)
        angles = reference.rope_angles(np.arange(start, start + 67), inv_freq, 1.1)
        assert_near(fn.rope(x, inv_freq, start, 1.1), reference.rope(x, angles))


def test_attention(level: str, rng: np.random.Generator) -> None:
    for heads, kv_heads, dim, tokens in ((4, 2, 40, 67), (7, 1, 256, 5), (3, 3, 16, 129), (1, 1, 1, 1)):
        q, k, v = (
            normal(rng, tokens, heads, dim),
            normal(rng, tokens, kv_heads, dim),
            normal(rng, tokens, kv_heads, dim),
        )
        expected = reference.attention(q, k.swapaxes(0, 1), v.swapaxes(0, 1), 0, dim**-0.5)
        assert_near(fn.attention(q, k, v), expected)
        expected = reference.attention(q, k.swapaxes(0, 1), v.swapaxes(0, 1), 0, dim**-0.5, bidirectional=True)
        assert_near(fn.attention(q, k, v, bidirectional=True), expected)
        halves = [
            reference.round_to_cache(part, KVLayout(1, 1, 1)).astype(np.float32).swapaxes(0, 1) for part in (k, v)
        ]
        keys, values = halves
        expected = reference.attention(q, keys, values, 0, 0.3, 9, 2.0)
        assert_near(fn.attention(q, k, v, 0.3, 9, 2.0, "f16", threads=3), expected)


def test_choosing(rng: np.random.Generator) -> None:
    logits = normal(rng, 501)
    logits[[3, 77, 400]] = 5.0
    assert fn.argmax(logits) == 3 == reference.argmax(logits[None])[0]
    for k in (1, 2, 3, 40, 501):
        assert np.array_equal(fn.top_k(logits, k), reference.top_k(logits, k)[0])
    rounded = np.round(logits)
    assert np.array_equal(fn.top_k(rounded, 200), reference.top_k(rounded, 200)[0])  # many equal numbers
    for k in (0, 502):
        with pytest.raises(ShapeError, match=f"top_k: expected k from 1 to 501, got {k}"):
            fn.top_k(logits, k)
    assert_near(fn.softmax(logits * 10), reference.softmax(logits * 10))


def test_arrays_of_any_kind(level: str) -> None:
    """Lists, other dtypes and strides are accepted; results are float32, and inputs are not changed."""
    x = np.arange(24, dtype=np.int64).reshape(4, 6)
    weight = np.ones((3, 6), np.float32)
    expected = np.repeat(x.sum(axis=1, keepdims=True), 3, axis=1).astype(np.float32)
    kept = x.copy()
    for form in (x, x.tolist(), x.astype(np.float64), np.asfortranarray(x, np.float32), np.repeat(x, 2, axis=0)[::2]):
        assert np.array_equal(fn.matmul(form, pack(weight)), expected)
    assert np.array_equal(x, kept)
    strided = np.repeat(weight, 2, axis=1)[0, ::2]
    assert np.array_equal(fn.rms_norm(x, strided, 0.0), fn.rms_norm(x, np.ones(6, np.float32), 0.0))
    unaligned = np.frombuffer(b"\0" + weight.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 6)
    assert np.array_equal(fn.matmul(x, pack(unaligned)), expected)
    assert np.array_equal(fn.rms_norm(x, unaligned[0], 0.0), fn.rms_norm(x, strided, 0.0))


ONE = np.ones(4, np.float32)
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a vector": (lambda: fn.matmul(ONE, pack(np.ones((2, 4), "f4"))), r"matmul: expected an array .* shape \(4,\)"),
    "no rows": (lambda: fn.matmul(np.ones((0, 4)), pack(np.ones((2, 4), "f4"))), r"got shape \(0, 4\)"),
    "another width": (lambda: fn.matmul(np.ones((2, 5)), pack(np.ones((2, 4), "f4"))), "x to be 4 wide, it is 5"),
    "norm": (lambda: fn.rms_norm(np.ones((2, 5)), ONE), "x to be 4 wide, it is 5"),
    "norm of three dimensions": (lambda: fn.layer_norm(np.ones((2, 2, 4)), ONE, ONE), "layer_norm: expected an array"),
    "activation": (lambda: fn.activate(np.ones((1, 1)), "tanh"), "of gelu_tanh, gelu_erf, silu, got 'tanh'"),
    "odd gate": (lambda: fn.gated(np.ones((1, 5)), "silu"), "gate | up] of an even width, got 5"),
    "rope": (lambda: fn.rope(np.ones((2, 4)), ONE), r"rope: expected an array \(T, H, D\)"),
    "rope beyond the head": (lambda: fn.rope(np.ones((2, 1, 4)), ONE), "RoPE rotates 8 elements, head_dim is 4"),
    "rope before the start": (lambda: fn.rope(np.ones((2, 1, 8)), ONE, -1), "positions -1..0 are outside"),
    "attention's shapes": (
        lambda: fn.attention(np.ones((3, 2, 4)), np.ones((3, 1, 4)), np.ones((3, 1, 5))),
        r"attention: expected q \(T, H, D\)",
    ),
    "attention's tokens": (
        lambda: fn.attention(np.ones((3, 2, 4)), np.ones((4, 1, 4)), np.ones((4, 1, 4))),
        r"attention: expected q \(T, H, D\)",
    ),
    "attention's heads": (
        lambda: fn.attention(np.ones((3, 3, 4)), np.ones((3, 2, 4)), np.ones((3, 2, 4))),
        "3 heads do not divide into 2 key/value heads",
    ),
    "attention's cache": (
        lambda: fn.attention(np.ones((3, 2, 4)), np.ones((3, 2, 4)), np.ones((3, 2, 4)), dtype="q8_0"),
        "KV cache dtype: expected one of",
    ),
    "threads": (lambda: fn.matmul(np.ones((1, 4)), pack(np.ones((2, 4), "f4")), threads=0), "threads: expected 1 to"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_invalid_arguments(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(ShapeError, match=message):
        call()


# ---- signatures

DIFFERENT = {
    # The reference takes precomputed angles, and keys and values from a cache.
    "rope": {"angles", "inv_freq", "start", "scale"},
    "attention": {"k", "v", "keys", "values", "value_scales", "start", "dtype"},
    # One row of logits instead of several.
    "argmax": {"x", "logits"},
    "top_k": {"x", "logits"},
}


def test_signatures_are_those_of_the_reference() -> None:
    """Parameters have equal names and order; additional ones have a default."""
    functions = [
        name for name, member in vars(fn).items()
        if inspect.isfunction(member) and member.__module__ == fn.__name__ and name[0] != "_"
    ]  # fmt: skip
    both = [name for name in functions if hasattr(reference, name)]
    assert set(functions) - set(both) == {"matmul"}
    for name in both:
        eager = inspect.signature(getattr(fn, name)).parameters
        formula = inspect.signature(getattr(reference, name)).parameters
        different = DIFFERENT.get(name, set())
        common = [p for p in formula if p not in different]
        assert [p for p in eager if p in formula and p not in different] == common, name
        for p in set(eager) - set(formula) - different:
            assert eager[p].default is not inspect.Parameter.empty, f"{name}: {p}"
    assert list(inspect.signature(fn.matmul).parameters)[:3] == list(inspect.signature(reference.linear).parameters)


def test_everything_public_is_documented() -> None:
    assert sorted(pyml_core.__all__) == pyml_core.__all__ or len(set(pyml_core.__all__)) == len(pyml_core.__all__)
    for name in pyml_core.__all__:
        member = getattr(pyml_core, name)
        if callable(member):
            assert (inspect.getdoc(member) or "").strip(), name
            for attribute, part in vars(member).items() if inspect.isclass(member) else ():
                if inspect.isfunction(part) and attribute[0] != "_":
                    assert (part.__doc__ or "").strip(), f"{name}.{attribute}"


def test_only_numpy_comes_from_outside() -> None:
    """pyml_core imports only the standard library, NumPy, and itself."""
    outside = set()
    for path in Path(pyml_core.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                outside |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                outside.add((node.module or "").partition(".")[0])
    assert outside - set(sys.stdlib_module_names) == {"numpy"}
