"""Scores and perplexities against the logits of all positions at once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core.errors import PymlError
from pyml_nlp import evaluation
from pyml_nlp.evaluation import evaluate, windows
from pyml_nlp.language_model import LanguageModel

TEXT = (Path(__file__).parent / "goldens" / "text.txt").read_text()[:600]


@pytest.fixture(scope="module")
def lm(smollm2_gguf: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(smollm2_gguf) as model:
        yield model


@pytest.fixture(scope="module")
def exact(smollm2_gguf: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(smollm2_gguf, dtype="f32") as model:
        yield model


def log_softmax(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    shifted: np.ndarray = rows - rows.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


# ---- windows


def test_windows_side_by_side_score_second_halves() -> None:
    got = list(windows(range(100, 123), [7], 8))
    assert got == [([7, 101, 102, 103, 104, 105, 106, 107], 5), ([7, *range(109, 116)], 5)]
    assert list(windows(range(8), [], 8)) == [(list(range(8)), 5)]
    assert list(windows(range(9), [], 9)) == [(list(range(9)), 5)]  # as llama.cpp: 9 // 2 + 1


@pytest.mark.parametrize(
    ("count", "size", "stride"), [(23, 8, 4), (23, 8, 8), (24, 8, 8), (25, 8, 3), (9, 8, 1), (30, 8, 7)]
)
def test_windows_with_a_stride_score_every_token_once(count: int, size: int, stride: int) -> None:
    scored: list[int] = []
    for ids, first in windows(range(count), [0], size, stride):
        assert len(ids) <= size
        scored += ids[first:]
    assert scored == list(range(1, count))


def test_a_short_text_is_one_window() -> None:
    assert list(windows([1, 2, 3], [1], 512)) == [([1, 2, 3], 1)]


@pytest.mark.parametrize(
    ("ids", "size", "stride", "message"),
    [
        ([1], 8, None, "the text is too short: expected two tokens or more, got 1"),
        ([1, 2], 3, None, "window must be > 3, got 3"),
        ([1, 2], 8, 0, r"stride must be in 1 .. 8 \(the window\), got 0"),
        ([1, 2], 8, 9, r"stride must be in 1 .. 8 \(the window\), got 9"),
    ],
)
def test_windows_that_are_refused(ids: list[int], size: int, stride: int | None, message: str) -> None:
    with pytest.raises(PymlError, match=message):
        list(windows(ids, [], size, stride))


# ---- scores


def test_score(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = lm.ids(TEXT)
    expected = log_softmax(lm.logits(ids))
    whole = lm.score(TEXT, top=2)
    assert [entry.token for entry in whole] == ids
    assert (whole[0].logprob, whole[0].top_logprobs) == (None, ())
    for index, entry in enumerate(whole[1:]):
        assert entry.logprob == pytest.approx(expected[index, ids[index + 1]], abs=1e-9)
        assert entry.top_logprobs[0][0] == expected[index].argmax()
        assert len(entry.top_logprobs) == 2
    monkeypatch.setattr(evaluation, "ROW_BYTES", 1)  # the fewest rows at a time
    assert lm.score(ids, top=2) == whole


def test_score_is_what_generation_reports(lm: LanguageModel) -> None:
    steps = list(lm.generate(TEXT, max_tokens=5, logprobs=3, temperature=0))
    entries = lm.score([*lm.ids(TEXT), *(step.token for step in steps)], top=3)[-5:]
    assert [(s.token, s.logprob, s.top_logprobs) for s in steps] == [tuple(entry) for entry in entries]


def test_scores_that_are_refused(lm: LanguageModel) -> None:
    with pytest.raises(PymlError, match="the text is empty"):
        lm.score([])
    with pytest.raises(PymlError, match="top must be >= 0, got -1"):
        lm.score("x", top=-1)


# ---- perplexity and comparison


@pytest.mark.parametrize("stride", [None, 20])
def test_evaluate(stride: int | None, lm: LanguageModel, exact: LanguageModel) -> None:
    found = evaluate(lm, TEXT, 48, stride, None, exact)
    losses, reference_losses, klds, same = [], [], [], []
    prefix = list(lm.tokenizer.metadata.prefix)
    for ids, first in windows(lm.ids(TEXT), prefix, 48, stride):
        q, p = (log_softmax(model.logits(ids[:-1])) for model in (lm, exact))
        for position in range(first - 1, len(ids) - 1):
            losses.append(-q[position, ids[position + 1]])
            reference_losses.append(-p[position, ids[position + 1]])
            klds.append(np.exp(p[position]) @ (p[position] - q[position]))
            same.append(p[position].argmax() == q[position].argmax())
    assert found.positions == len(losses)
    assert found.comparison is not None
    for estimate, values in ((found.perplexity, losses), (found.comparison.perplexity, reference_losses)):
        error = 1.959964 * np.std(values, ddof=1) / math.sqrt(len(values))
        expected = np.exp([np.mean(values), np.mean(values) - error, np.mean(values) + error])
        assert estimate == pytest.approx(tuple(expected), rel=1e-9)
    assert found.comparison.kld.value == pytest.approx(np.mean(klds), abs=1e-9)
    assert found.comparison.max_kld == pytest.approx(np.max(klds), abs=1e-9)
    assert found.comparison.same_top.value == np.mean(same)
    assert found.comparison.same_top.low < np.mean(same) < found.comparison.same_top.high <= 1
    alone = evaluate(lm, TEXT, 48, stride)
    assert (alone.perplexity, alone.comparison) == (found.perplexity, None)


def test_a_model_against_itself(lm: LanguageModel) -> None:
    calls: list[tuple[int, int]] = []
    found = evaluate(lm, TEXT, 32, limit=2, reference=lm, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert found.windows == 2
    assert found.comparison is not None
    assert found.comparison.kld == (0.0, 0.0, 0.0)
    assert found.comparison.same_top.value == 1.0
    assert found.comparison.same_top.low > 0.8
    assert found.comparison.perplexity == found.perplexity


def test_numbers_that_are_refused(lm: LanguageModel) -> None:
    for options, message in (
        ({"window": 64.0}, "window must be a whole number, got 64.0"),
        ({"window": 10**6000}, "window must be in 4 .. .*, got an integer of about 6001 digits"),
        ({"window": 64, "stride": "8"}, "stride must be a whole number, got '8'"),
        ({"window": 64, "limit": 0}, "limit must be > 0, got 0"),
    ):
        with pytest.raises(PymlError, match=message):
            evaluate(lm, TEXT, **options)
    assert evaluate(lm, TEXT, window=64, limit=10**30) == evaluate(lm, TEXT, window=64)


def test_other_tokens_are_refused(lm: LanguageModel, gemma_gguf: Path) -> None:
    with pyml_nlp.load(gemma_gguf) as gemma, pytest.raises(PymlError, match="expected models with the same tokens"):
        evaluate(lm, TEXT, reference=gemma)


def test_command(lm: LanguageModel, smollm2_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pyml_nlp.cli.main import run

    (tmp_path / "text.txt").write_text(TEXT)
    arguments = ["eval", str(tmp_path / "text.txt"), str(smollm2_gguf), "--window", "48"]
    assert run("pyml", [*arguments, "--json", "--against-dtype", "f32"]) == 0
    shown: dict[str, Any] = json.loads(capfd.readouterr().out)
    found = evaluate(lm, TEXT, 48)
    assert shown["perplexity"] == found.perplexity._asdict()
    assert shown["reference"]["kld"]["value"] > 0
    assert run("pyml", arguments) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith(f"perplexity   {found.perplexity.value:.4f}  (95 %: ")
    for wrong, code, message in (
        (["--window", "3"], 2, "--window must be > 3, got 3"),
        (["--stride", "49"], 2, "--stride must be in 1 .. 48 (the window), got 49"),
        (["--chunks", "0"], 2, "--chunks must be > 0, got 0"),
    ):
        assert run("pyml", [*arguments, *wrong]) == code
        assert capfd.readouterr().err == f"Error: {message}\n"
    assert run("pyml", ["eval", str(tmp_path / "none"), str(smollm2_gguf)]) == 1
    assert capfd.readouterr().err == f"Error: {tmp_path / 'none'}: No such file or directory\n"
