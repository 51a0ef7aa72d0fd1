"""Parts of pyml-bench and pyml inspect: counts of bytes and operations, shown values."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pyml_core.errors import PymlError
from pyml_nlp.cli import bench, inspect
from pyml_nlp.cli import bench_rows as rows

ABOUT = rows.About(2, "scalar", "m|n", "auto", "full", "f16")


@pytest.mark.parametrize(
    ("test", "name"),
    [
        (rows.Test(512, 0, 0, 1), "pp512"),
        (rows.Test(0, 64, 0, 1), "tg64"),
        (rows.Test(0, 64, 2048, 1), "tg64@d2048"),
        (rows.Test(0, 64, 0, 8), "tg64@b8"),
        (rows.Test(0, 64, 2048, 8), "tg64@d2048@b8"),
    ],
)
def test_names_of_tests(test: rows.Test, name: str) -> None:
    assert test.name == name


def fake_model(chunk: int = 512) -> Any:
    """One attention layer with a window of 4, a matrix of 100 bytes, a head of 1000."""
    from pyml_core.kv_layout import KVLayout

    tokens, outputs = SimpleNamespace(rows="tokens"), SimpleNamespace(rows="outputs")
    matrix = SimpleNamespace(nbytes=100, shape=(5, 20))
    head = SimpleNamespace(nbytes=1000, shape=(50, 20))
    operations = [
        SimpleNamespace(kind="linear", output=tokens, params={"matrices": (matrix,)}),
        SimpleNamespace(kind="attention", output=tokens, params={"window": 4, "n_heads": 2}),
        SimpleNamespace(kind="linear", output=outputs, params={"matrices": (head,)}),
    ]
    model = SimpleNamespace(program=SimpleNamespace(operations=operations, screening=None))
    return SimpleNamespace(model=model, kv_layout=KVLayout(1, 1, 8), prefill_chunk=chunk)


KV = 2 * 8 * 2  # bytes a position
PAIR = 4 * 2 * 8  # operations for a query and a key, both heads


def test_cost_of_a_prefill() -> None:
    read, flops = bench.cost(fake_model(), rows.Test(6, 0, 0, 1))
    assert read == 100 + 1000 + 6 * KV
    assert flops == 2 * 6 * 100 + 2 * 1000 + (1 + 2 + 3 + 4 + 4 + 4) * PAIR


def test_cost_of_a_prefill_in_chunks() -> None:
    read, flops = bench.cost(fake_model(chunk=4), rows.Test(6, 0, 0, 1))
    assert read == 2 * 100 + 1000 + (4 + 3 + 2) * KV
    assert flops == bench.cost(fake_model(), rows.Test(6, 0, 0, 1))[1]


def test_cost_of_decoding() -> None:
    read, flops = bench.cost(fake_model(), rows.Test(0, 3, 2, 1))
    assert read == 3 * 1100 + (3 + 4 + 4) * KV
    assert flops == 3 * 2 * 1100 + (3 + 4 + 4) * PAIR


def test_cost_of_decoding_together() -> None:
    one, both = (
        bench.cost(fake_model(), rows.Test(0, 3, 0, 1)),
        bench.cost(fake_model(), rows.Test(0, 3, 0, 2)),
    )
    weights = 3 * 1100
    assert both[0] - weights == 2 * (one[0] - weights)
    assert both[1] == 2 * one[1]


def test_tokens_of_a_text() -> None:
    text = np.arange(100)
    windows = bench._sequences(fake_model(), rows.Test(0, 8, 2, 3), text)
    assert [window[0] for window in windows] == [0, 45, 90]
    assert all(len(window) == 10 for window in windows)
    with pytest.raises(PymlError, match="tg8@d99: needs a text of 107 tokens, --text has 100"):
        bench._sequences(fake_model(), rows.Test(0, 8, 99, 1), text)


def test_random_tokens_are_the_same_each_time() -> None:
    lm = SimpleNamespace(vocab_size=50)
    test = rows.Test(0, 8, 2, 3)
    first: Any = lm
    windows = bench._sequences(first, test, None)
    assert windows == bench._sequences(first, test, None)
    assert len({tuple(window) for window in windows}) == 3


def test_rows() -> None:
    row = rows.row_of(rows.Test(0, 10, 0, 2), [0.5, 1.0], 3_000_000_000, 0, ABOUT)
    assert (row.tokens_per_s, row.ms, row.gb_per_s, row.samples_ms) == (30.0, 750.0, 4.0, [500.0, 1000.0])
    assert row.stddev == pytest.approx(14.142, abs=1e-3)
    assert "| m\\|n | scalar | 2 | full | tg10@b2 | 30.00 ± 14.14 | 750.00 | 4.00 | 0.00 |" in rows.markdown([row])
    found = json.loads(rows.as_json([row]))[0]
    assert found["test"] == "tg10@b2"
    assert "rules" not in found


def test_rows_of_generated_texts() -> None:
    """The tokens that were counted are those of the rate, whatever the test's number."""
    samples = [rows.TextSample(10, 0.5, 0.4), rows.TextSample(30, 1.5, 1.4)]
    row = rows.text_row(rows.Test(0, 10, 0, 1), samples, "greedy", ABOUT)
    assert (row.tokens_per_s, row.stddev, row.ms, row.gb_per_s) == (20.0, 0.0, 1000.0, None)
    assert row.outside_share == pytest.approx(0.1)
    kernels = rows.row_of(rows.Test(0, 10, 0, 1), [1.0], 10**9, 10**9, ABOUT)
    lines = rows.markdown([kernels, row]).splitlines()
    assert lines[0].endswith("| GB/s | GFLOP/s | Python | rules |")
    assert lines[2].endswith("| 1.00 | 1.00 |  |  |")
    assert lines[3].endswith("| 20.00 ± 0.00 | 1000.00 |  |  | 10.0% | greedy |")
    assert [entry.get("rules") for entry in json.loads(rows.as_json([kernels, row]))] == [None, "greedy"]


# ---- inspect


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        (None, None),
        ("short", "short"),
        ("x" * 200, "x" * 100 + "... (200 characters)"),
        (np.arange(3), [0, 1, 2]),
        (np.zeros(99), "[99 values]"),
        (["a"] * 3, ["a"] * 3),
        ({"a": ["b"] * 20}, {"a": "[20 values]"}),
    ],
)
def test_shown_values(value: Any, shown: Any) -> None:
    result = inspect._shown(value)
    assert result == shown
    json.dumps(result)


def test_files_cannot_talk_to_the_terminal() -> None:
    assert inspect._printable("\x1b[31mred\nünd") == "\ufffd[31mred\ufffdünd"
