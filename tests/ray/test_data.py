"""``Generate`` in a pipeline of Ray Data: the same texts as without Ray, whatever the batches are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import pyml_nlp
from pyml_nlp import ray_session
from pyml_nlp.integrations import Generate
from pyml_nlp.integrations.ray_data import row_seed


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[None]:
    """A cluster of this machine, with more logical CPUs than workers take."""
    with ray_session.session("local"):
        import ray.data  # its settings need a running cluster

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        yield


ROWS = [{"id": f"row {i}", "prompt": f"Text number {i}" if i != 5 else ""} for i in range(24)]


def rows_of(model: Path, batch_size: int, **options: Any) -> list[dict[str, Any]]:
    dataset = ray.data.from_items(ROWS).repartition(3)
    made = dataset.map_batches(
        Generate,
        fn_constructor_kwargs={"model": str(model), "seed": 7, "max_tokens": 12, "temperature": 1.0, **options},
        num_cpus=1,
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    return sorted(made.take_all(), key=lambda row: int(row["id"].split()[1]))


def test_texts_are_those_of_the_model_alone(cluster: None, model: Path) -> None:
    found = rows_of(model, 8)
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    with pyml_nlp.load(model, threads=1) as lm:
        for row in found:
            if not row["error"]:
                seed = row_seed(7, row["id"])
                alone = lm.submit(row["prompt"], max_tokens=12, temperature=1.0, seed=seed).result()
                assert (row["text"], row["tokens"]) == (alone.text, len(alone.tokens))
    assert [row["text"] for row in rows_of(model, 5)] == [row["text"] for row in found]


def test_a_row_that_cannot_be_answered_has_an_error(cluster: None, model: Path) -> None:
    long = [{"id": 0, "prompt": "x " * 40000}, {"id": 1, "prompt": "short"}]
    made = ray.data.from_items(long).map_batches(
        Generate, fn_constructor_kwargs={"model": str(model), "max_tokens": 4}, num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip
    bad, good = sorted(made.take_all(), key=lambda row: row["id"])
    assert "32768" in bad["error"]
    assert bad["text"] == ""
    assert good["error"] == ""
    assert good["tokens"] == 4


def test_threads_are_those_that_ray_has_given(cluster: None, model: Path) -> None:
    def threads() -> int:
        return Generate(str(model)).lm.model.program.threads

    assert ray.get(ray.remote(num_cpus=2)(threads).remote(), timeout=60) == 2
