"""Every operation of a model against the NumPy reference, each with the inputs that the compiled operations computed.

A whole quantised model cannot be compared so: where rounding puts one activation on the other side of a half, its int8
code is a step further, and layer by layer that grows to the size of the quantisation itself, in any two programs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyml_nlp
from pyml_core import Program, Slice, reference
from pyml_core.batch import Batch
from pyml_core.kv_layout import PAGE_TOKENS
from pyml_core.ops import OPERATIONS
from tests.helpers import tiny_files, tiny_models

BLOCK_TYPES = (
    *("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"),
    *("iq4_nl", "iq4_xs", "mxfp4", "f16", "bf16"),
)
NMSE = 1e-6

F32Array = npt.NDArray[np.float32]


def beginning(program: Program, count: int) -> Program:
    """The program's first ``count`` operations."""
    part = Program(program.max_tokens, program.kv, program.threads)
    part.buffers = program.buffers
    part.operations = program.operations[:count]
    part.result = part.operations[-1].output
    return part


def check_operations(model: Any, ids: list[int], layers: Collection[int] | None = None) -> None:
    """Compare the results of every operation (or only of ``layers``), and the keys and values in the KV pages."""
    program: Program = model.program
    outputs = list(range(0, len(ids), 3))

    def new_slice() -> Slice:
        return Slice([model.kv_layout.new_page() for _ in range(0, len(ids), 64)], 0, ids, outputs)

    batch = Batch(program.kv, [new_slice()])
    for count, operation in enumerate(program.operations, 1):
        part = new_slice()
        got = beginning(program, count).run([part])
        name, output = operation.name, operation.output
        assert output is not None
        layer = int(name.split(".")[1]) if name.startswith("layers.") else None
        if layers is None or layer is None or layer in layers:
            if operation.kind == "attention":  # reads the pages, which its own run has filled
                batch.slices = [part]
            expected = OPERATIONS[operation.kind].run(batch, operation)
            if operation.kind == "prepare_qkv":
                check_pages(name, model.kv_layout, operation.params["layer"], part.pages, batch.slices[0].pages)
                width = operation.params["n_heads"] * model.kv_layout.head_dim  # only q counts from here on
                assert_close(name, got[:, :width], expected[:, :width])
            else:
                assert_close(name, got, expected)
        batch.values[output] = got
        batch.slices = [new_slice()]


def check_pages(name: str, layout: Any, layer: int, got: Any, expected: Any) -> None:
    """Compare one layer's keys and values."""
    parts = (reference.read_kv(layout, pages, layer, PAGE_TOKENS * len(pages)) for pages in (got, expected))
    for what, found, wanted in zip(("keys", "values"), *parts, strict=True):
        assert_close(f"{name}, {what}", found, wanted)


def assert_close(name: str, got: F32Array, expected: F32Array) -> None:
    """Fail, naming the operation, where the normalised mean square error is above NMSE."""
    error = np.square(got.astype(np.float64) - expected).sum()
    scale = np.square(expected.astype(np.float64)).sum()
    assert error <= NMSE * scale, f"{name}: NMSE {error / scale:.2e}, largest {abs(got - expected).max():.2e}"


@pytest.mark.parametrize("dtype", BLOCK_TYPES)
def test_block_type(dtype: str, tmp_path: Path) -> None:
    model = tiny_models.QUANTIZED
    lm = pyml_nlp.load(tiny_files.write_gguf(model, tmp_path / "model.gguf", dtype), threads=2)
    check_operations(lm.model, model.prompt[:24])


@pytest.mark.parametrize("name", ["gpt2", "gemma3_head80", "llama_head80", "mistral_window", "mixtral"])
@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "bf16", "f32"])
def test_converted_model(name: str, dtype: str) -> None:
    model = tiny_models.MODELS[name]
    check_operations(tiny_files.build(model, dtype=dtype, threads=2), model.prompt)


@pytest.mark.parametrize(("fixture", "layers"), [("smollm2_gguf", (0,)), ("gemma_gguf", (5,))])
def test_real_model(fixture: str, layers: tuple[int, ...], request: pytest.FixtureRequest) -> None:
    lm = pyml_nlp.load(request.getfixturevalue(fixture), threads=2)
    check_operations(lm.model, lm.tokenizer.encode("The capital of France"), layers)
