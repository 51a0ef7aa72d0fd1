"""Every kind of operation is complete: declaration, formula, cost, trace shape, determinism."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from core_cases import EveryOperation, assert_near, new_pages, same_bits, timed_run

from pyml_core import Program, Top, pack, quantize, reference
from pyml_core.batch import Batch
from pyml_core.operation_kind import OperationKind, RunSize
from pyml_core.ops import OPERATIONS

TOKENS = 90
KINDS = list(OPERATIONS)


@pytest.fixture(scope="module")
def model() -> EveryOperation:
    return EveryOperation()


# ---- the records


def test_the_program_of_these_tests_has_every_kind(model: EveryOperation) -> None:
    """A missing kind would have no reference or determinism test below: add it to EveryOperation."""
    assert model.kinds == set(KINDS)


def test_required_fields_have_no_default() -> None:
    required = set(OperationKind._fields) - OperationKind._field_defaults.keys()
    assert {"declare", "formula", "run", "cost", "shape", "inputs", "rows", "writes"} <= required


@pytest.mark.parametrize("kind", KINDS)
def test_programs_declare_it_by_its_name(kind: str) -> None:
    """``screen`` declares ``rescore`` too."""
    assert vars(Program)["screen" if kind == "rescore" else kind] is OPERATIONS[kind].declare
    assert OPERATIONS[kind].name == kind


AT_RUN_TIME = {"ids", "positions", "layout", "rows", "q", "keys", "values", "start", "angles"}
OTHER_NAMES = {"linear": {"weight"}, "add_positions": {"x"}, "screen": {"x", "weight", "stats"}, "low_rank": {"a", "b"}}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rescore"])
def test_its_formula_has_the_parameters_of_its_declaration(kind: str) -> None:
    record = OPERATIONS[kind]
    declared = {*inspect.signature(record.declare).parameters, *AT_RUN_TIME, *OTHER_NAMES.get(kind, ())}
    assert not set(inspect.signature(record.formula).parameters) - declared
    assert record.formula.__doc__


@pytest.mark.parametrize("kind", KINDS)
def test_its_parameters_are_those_of_the_record(kind: str, model: EveryOperation) -> None:
    record = OPERATIONS[kind]
    for op in (*model.program.operations, *model.program.screening):
        if op.kind == kind:
            assert len(op.inputs) <= len(record.inputs)
            assert {*record.vectors, *filter(None, [record.matrices])} <= op.params.keys()


# ---- their cost and shape


@pytest.mark.parametrize("kind", KINDS)
def test_it_costs_more_with_more_rows(kind: str, model: EveryOperation) -> None:
    small = RunSize(2, 1, [(0, 2)], model.kv, (3, 0, 0), [1])
    large = RunSize(60, 30, [(0, 60)], model.kv, (90, 0, 0), [1])
    for op in (*model.program.operations, *model.program.screening):
        if op.kind == kind:
            costs = [OPERATIONS[kind].cost(op, size) for size in (small, large)]
            assert 0 < costs[0][0] < costs[1][0]
            assert 0 < costs[0][1] < costs[1][1]


def test_traces_show_the_shapes_of_matrix_products(model: EveryOperation) -> None:
    size = RunSize(7, 3, [(0, 7)], model.kv, (11, 0, 0), [1])
    shapes = {
        op.name: OPERATIONS[op.kind].shape(op, size) for op in (*model.program.operations, *model.program.screening)
    }
    assert {name: shape for name, shape in shapes.items() if shape} == {
        "qkv": "[7,64]x[256,64] q8_0", "out": "[7,128]x[64,128] q8_0",
        "out.low_rank": "[7,128] rank 5 f16", "up": "[7,64]x[64,64] q8_0",
        "down": "[7,64]x[64,64] q4_0", "router": "[7,64]x[32,64] f32", "experts": "[112,64]x[128,64] q8_0",
        "head": "[3,64]x[96,64] q8_0", "head.screen": "[3,64]x[96,64] q8_0", "head.rescore": "[1,64]x[11,64] q8_0",
    }  # fmt: skip


def test_a_timed_run_has_the_costs_of_its_operations(model: EveryOperation) -> None:
    batch = model.batch(new_pages(model.kv, 30), 0, 30)
    found, timings = timed_run(model.program, batch, want=Top(2))
    rescored = sum(one.rescored for one in found)
    size = RunSize(30, len(batch[0].outputs), [(0, 30)], model.kv, (rescored, 0, 0), [1])
    assert timings.costs() == [(t.bytes, t.flops) for t in timings]
    assert [(t.bytes, t.flops) for t in timings] == [
        OPERATIONS[t.operation.kind].cost(t.operation, size) for t in timings
    ]
    assert timings[-1].rescored == rescored > 0
    assert timings.shape(timings[-1].operation) == f"[1,64]x[{rescored},64] q8_0"


# ---- their results


def test_the_compiled_program_is_the_reference(level: str) -> None:
    model = EveryOperation()
    pages = [new_pages(model.kv, TOKENS) for _ in range(2)]
    got = model.program.run(model.batch(pages[0], 0, TOKENS))
    assert_near(got, reference.run(model.program, model.batch(pages[1], 0, TOKENS)), 1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("screen", "rescore")])
def test_a_quantised_matrix_can_read_its_output(kind: str, level: str) -> None:
    """The kernel or a separate pass makes the int8 copy, as the record says."""
    model = EveryOperation()
    program = Program(TOKENS, model.kv, threads=2)
    index = next(i for i, op in enumerate(model.program.operations) if op.kind == kind)
    program.buffers, program.operations = model.program.buffers, model.program.operations[: index + 1]
    rows = program.operations[-1].output
    weight = np.ones((5, rows.width), np.float32)
    if kind == "prepare_qkv":  # keys and values are in the pages; their part of the output is undefined
        weight[:, model.HEADS * model.HEAD_DIM :] = 0
    matrix = pack(quantize(weight, "q8_0"), "q8_0", weight.shape)
    program.linear("read", rows, [matrix], program.buffer("read", 5, rows.rows, rows.copies))
    adapter = int(any(op.kind == "low_rank" for op in program.operations))
    parts = [model.batch(new_pages(model.kv, TOKENS), 0, TOKENS) for _ in range(2)]
    batches = [[part._replace(adapter=adapter) for part in batch] for batch in parts]
    assert_near(program.run(batches[0]), reference.run(program, batches[1]), 1e-4)


def test_screened_heads_have_a_reference_too(model: EveryOperation) -> None:
    batch = Batch(model.program.kv, model.batch(new_pages(model.kv, TOKENS), 0, TOKENS))
    for op in model.program.operations:
        batch.values[op.output] = OPERATIONS[op.kind].run(batch, op)
    screen, rescore = model.program.screening
    exact = batch.values[model.program.operations[-1].output]
    assert np.array_equal(OPERATIONS["rescore"].run(batch, rescore), exact)
    assert (OPERATIONS["screen"].run(batch, screen) >= exact).all()


def test_bits_do_not_depend_on_threads_or_chunks(level: str) -> None:
    """With every kind of operation, for all logits and for the largest ones."""
    model = EveryOperation(threads=1)
    pages = new_pages(model.kv, TOKENS)
    base, best = model.program.run(model.batch(pages, 0, TOKENS)), []
    for row in base:
        best.append(np.flatnonzero(row >= np.partition(row, -3)[-3]).tolist())
    for threads in (1, 2, 3, 8):
        model = EveryOperation(threads)
        for chunk in (1, 7, 64, TOKENS):
            chunk_pages = new_pages(model.kv, TOKENS)
            parts, top = [], []
            for start in range(0, TOKENS, chunk):
                batch = model.batch(chunk_pages, start, min(start + chunk, TOKENS))
                parts.append(model.program.run(batch))
                top += [one.ids.tolist() for one in model.program.run(batch, Top(3))]
            assert same_bits(np.concatenate(parts), base), (threads, chunk)
            assert top == best, (threads, chunk)
            assert all(np.array_equal(a, b) for a, b in zip(chunk_pages, pages, strict=True)), (threads, chunk)
