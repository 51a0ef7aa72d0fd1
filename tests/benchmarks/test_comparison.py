"""``benchmarks/compare.py`` without peers: tests and their rules, quality, tables."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compare
import quality
import tables
from engines import EngineError
from peers import protocol
from peers.divergence import divergence
from peers.protocol import PROMPT, RULES, Engine, NotOffered, Rules, compare_logits


@pytest.mark.parametrize(
    ("name", "depth", "batch", "text", "rules"),
    [
        ("tg64", 0, 1, False, None),
        ("tg64@d2048@text", 2048, 1, True, None),
        ("tg64@sampled", PROMPT, 1, True, "sampled"),
        ("tg64@b8@nucleus", PROMPT, 8, True, "nucleus"),
        ("tg64@d100@b2@penalty", 100, 2, True, "penalty"),
    ],
)
def test_names_of_tests(name: str, depth: int, batch: int, text: bool, rules: str | None) -> None:
    test = protocol.Test.parse(name)
    assert (test.depth, test.batch, test.text, test.rules) == (depth, batch, text, rules)
    assert (test.context, test.total) == (depth + 64, 64 * batch)


@pytest.mark.parametrize("name", ["pp64@sampled", "tg64@b8@typical", "tg64@sampled@b8", "b8@sampled", "quality"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="test"):
        protocol.Test.parse(name)


def test_rules() -> None:
    assert RULES["sampled"] == Rules(1.0, 64, 0.95)
    assert RULES["nucleus"] == Rules(0.8, 0, 0.95)
    assert RULES["penalty"] == Rules(0.0, repetition_penalty=1.1)


class Scripted(Engine):
    """Logits that are a function of the ids."""

    name = "scripted"

    def describe(self) -> dict[str, Any]:
        return {"version": "1", "note": "", "vocab_size": 1000}

    def measure(self, test: protocol.Test, setting: str, ids: Any) -> float:
        return 1.0

    def logits(self, ids: list[int], first: int) -> Any:
        if ids[0]:
            raise NotOffered("logits of this text")
        return np.outer(np.array(ids[first:], np.float32), [0, 1, 2]).astype(np.float32) / 100


def test_prompts_of_a_batch_follow_each_other() -> None:
    engine = Scripted("", 1)
    engine.text_ids = list(range(500))
    ids = engine.source(7, protocol.Test.parse("tg8@b3@sampled"))
    prompts = [ids(PROMPT) for _ in range(3)]
    assert [*itertools.chain(*prompts)] == list(range(prompts[0][0], prompts[0][0] + 3 * PROMPT))
    with pytest.raises(ValueError, match="needs 512 ids, the text has 500"):
        engine.source(7, protocol.Test.parse("tg8@b8@sampled"))


# ---- quality


def test_divergence() -> None:
    reference = np.log(np.array([[0.5, 0.5], [0.8, 0.2]], np.float32))
    logits = np.log(np.array([[0.25, 0.75], [0.6, 0.4]], np.float32)) + np.float32(3)  # a shift changes nothing
    found = divergence(reference, logits)
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert found["kld"] == pytest.approx([first, 0.8 * math.log(4 / 3) + 0.2 * math.log(0.5)], rel=1e-5)
    assert found["same_top"] == 1
    assert divergence(reference, reference) == {"kld": [0.0, 0.0], "same_top": 2}


def test_divergence_of_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected the shape \(2, 3\), got \(2, 4\)"):
        divergence(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="finite"):
        divergence(np.zeros((1, 2), np.float32), np.array([[0, np.nan]], np.float32))


def test_logits_of_one_engine_are_compared_with_those_of_another(tmp_path: Path) -> None:
    path = str(tmp_path / "logits.npy")
    ids = [0, 5, 9, 2]
    assert compare_logits(Scripted("", 1), "logits", ids, 1, path) == {}
    assert np.load(path).shape == (3, 3)
    assert compare_logits(Scripted("", 1), "diverge", ids, 1, path) == {"kld": [0.0] * 3, "same_top": 3}


def test_windows_of_a_text() -> None:
    ids = [7, *range(100, 100 + 4000)]
    parts = quality.windows(ids)
    assert [len(part) for part in parts] == [quality.WINDOW] * quality.WINDOWS
    assert {part[0] for part in parts} == {7}
    assert [*itertools.chain(*(part[1:] for part in parts))] == ids[1 : 1 + quality.WINDOWS * (quality.WINDOW - 1)]
    assert quality.WINDOWS * quality.SCORED >= 2560
    with pytest.raises(ValueError, match="the text has 3000"):
        quality.windows(ids[:3000])


class Asked:
    """A stand-in for an engine's process."""

    def __init__(self, about: dict[str, Any], kld: float | None) -> None:
        self.about, self.kld = about, kld
        self.commands: list[str] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        self.commands.append(request["command"])
        if self.kld is None:
            raise EngineError("not offered: the logits of many positions")
        count = len(request["ids"]) - request["first"]
        return {"kld": [self.kld] * count, "same_top": count // 4}

    def close(self) -> None:
        self.commands.append("close")


def test_quality_is_measured_once(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    reference = Asked({}, 0.0)
    good, none = Asked({"version": "1"}, 0.25), Asked({"version": "2"}, None)
    runners: Any = {"good": good, "none": none}
    start: Any = lambda: reference  # noqa: E731
    kept = quality.Quality(tmp_path / "quality", list(range(4000)), start, lambda text: None)
    found = kept.measure(runners, dict.fromkeys(runners, model))
    assert found["good"] == {"kld": 0.25, "max_kld": 0.25, "same_top": 0.25, "positions": 2560}
    assert found["none"] == {"error": "not offered: the logits of many positions"}
    assert reference.commands == ["logits"] * quality.WINDOWS + ["close"]
    assert good.commands == ["diverge"] * quality.WINDOWS
    again = kept.measure({"good": runners["good"]}, {"good": model})
    assert again["good"] == {**found["good"], "kept": True}
    assert len(good.commands) == quality.WINDOWS
    good.about = {"version": "1.1"}
    assert "kept" not in kept.measure({"good": runners["good"]}, {"good": model})["good"]


def test_the_key_names_everything_that_decides(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"weights")
    about = {"version": "1", "note": "f16", "build": "a"}
    keys = {quality.key(name, about, model, ids) for name, ids in (("x", [1]), ("y", [1]), ("x", [2]))}
    keys |= {quality.key("x", {**about, name: "?"}, model, [1]) for name in about}
    model.write_bytes(b"other weights")
    keys.add(quality.key("x", about, model, [1]))
    assert len(keys) == 7
    assert quality.key("x", {**about, "weight_bytes": 3}, model, [1]) in keys


# ---- tables


def test_quality_is_in_the_table_of_speeds() -> None:
    row = compare.Row("m", "tg64@nucleus", {"pyml": [30.0, 33.0], "llama.cpp": [20.0, 11.0], "openvino": []})
    row.errors["openvino"] = "not offered: top-p alone"
    report = {
        "results": [row.as_json()], "text": "text.txt", "quality_positions": 2560,
        "quality": [{"model": "m", "engines": {
            "pyml": {"kld": 0.0123, "same_top": 0.955}, "llama.cpp": {"kld": 0.02, "same_top": 0.94},
            "openvino": {"error": "its process ended"},
        }}],
    }  # fmt: skip
    lines = tables.speeds(report, {"model": "m", "engines": {"pyml": {}, "llama.cpp": {}, "openvino": {}}})
    assert lines[2] == "| tg64@nucleus | 31.5 (30.0-33.0) | **15.5** (11.0-20.0) | not offered | 2.25x |"
    assert lines[3] == "| mean KL divergence | 1.23e-02 | 2.00e-02 | failed | |"
    assert lines[4] == "| same top-1 | 95.50% | 94.00% | failed | |"
    assert lines[6].endswith("text.txt, 2560 positions.")


def test_share_of_a_plain_read() -> None:
    """A step of a mixture does not read all weights: its share is unknown."""
    limits = [{"read_gb_per_s": 10.0}]
    shares = {
        name: compare.read_share(compare.Row(name, "tg64", {"pyml": [4.0]}), 10**9, limits)
        for name in ("gemma3-270m", "llama3.1-8b-q4_k_m@4", "qwen3-30b-a3b-q4_k@4")
    }
    assert list(shares.values()) == [0.4, 0.4, None]


def test_the_command_line_takes_the_new_tests() -> None:
    options = compare.parse(["--tests", "tg64@b8@sampled", "quality", "cold", "--wheels"])
    assert options.tests == ["tg64@b8@sampled", "quality", "cold"]
    assert options.wheels
