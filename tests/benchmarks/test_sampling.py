"""``benchmarks/sampling.py`` on a tiny model: what is measured, not how long it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
import sampling

TEXTS = [name for name in sampling.RULES if name not in (sampling.FULL_HEAD, sampling.JSON_SCHEMA)]


@pytest.fixture
def report(tiny_ggufs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    file = tmp_path / "found.json"
    rules = ["temp", "penalty", "typical", "logprobs", "top-p"]
    options = ["--rounds", "2", "--tokens", "3", "--threads", "1", "--batches", "2", "5"]
    sampling.main(["--model", str(tiny_ggufs["llama"]), *options, "--rules", *rules, "--json", str(file)])
    found: dict[str, Any] = json.loads(file.read_text())
    assert capsys.readouterr().out == sampling.markdown(found)
    return found


def test_every_row_has_its_tokens(report: dict[str, Any]) -> None:
    rows = {row["row"]: row for row in report["results"]}
    kinds = [sampling.FORWARD, *sampling.BATCHES]
    assert list(rows) == [*TEXTS, *(f"batch of {size}, {kind}" for size in (2, 5) for kind in kinds)]
    for name, row in rows.items():
        tokens = 3 * int(name.split()[2].rstrip(",")) if name.startswith("batch") else 3
        assert [sample["tokens"] for sample in row["rounds"]] == [tokens, tokens]
        assert all(0 < sample["inside"] < sample["seconds"] for sample in row["rounds"])
        assert (row["choosing_ms"] is None) == name.startswith("batch")


def test_ratios_are_to_greedy_and_to_the_kernels(report: dict[str, Any]) -> None:
    bases = {row["row"]: row["ratio_to"] for row in report["results"]}
    assert {bases[name] for name in TEXTS} == {sampling.GREEDY}
    assert bases["batch of 5, mixed"] == "batch of 5, forward"
    assert {row["ratio"] for row in report["results"] if row["row"] == row["ratio_to"]} == {1.0}


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    samples = [sampling.Sample(10, seconds, 0.5, 1.0) for seconds in (1.0, 2.0, 4.0)]
    base = [sampling.Sample(10, seconds, 0.5) for seconds in (2.0, 2.0, 2.0)]
    found = sampling.Row("own", "base", samples).as_json(sampling.Row("base", "base", base))
    assert (found["ratio"], found["tokens_per_s"], found["outside_share"]) == (1.0, 5.0, 0.75)


def test_no_rule_comes_from_the_model(tiny_ggufs: dict[str, Path]) -> None:
    chosen = sampling.options_of("greedy, penalty 1.1", 7, seed=3)
    assert chosen.max_tokens == 7
    assert chosen.sampling == pyml_nlp.SamplingOptions(0.0, repetition_penalty=1.1)
    assert sampling.options_of(sampling.SAMPLED, 7, seed=3).sampling.seed == 3


def test_words_choose_the_rules() -> None:
    assert sampling.chosen_rules(["typical"]) == [sampling.GREEDY, "1, typical 0.9"]
    assert sampling.chosen_rules([]) == [sampling.GREEDY]


def test_numbers_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sampling.parse(["--batches", "0"])
    assert "must be > 0" in capsys.readouterr().err
