"""The screened head of real models finds the tokens of their full head, state by state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core.screen import MAX_STATES
from pyml_core.want import Top, top_of

TEXT = (Path(__file__).parents[1] / "goldens" / "text.txt").read_text()


@pytest.mark.parametrize("fixture", ["gemma_gguf", "smollm2_gguf", "gpt2_dir"])
def test_every_state_of_a_text(fixture: str, request: pytest.FixtureRequest) -> None:
    with pyml_nlp.load(request.getfixturevalue(fixture), dtype="q8_0", threads=2) as lm:
        assert lm.model.screened
        ids = lm.ids(TEXT)[:320]
        cache = lm.new_cache()
        rescored: dict[int, list[int]] = {1: [], 40: []}
        for start in range(0, len(ids), MAX_STATES):
            part = ids[start : start + MAX_STATES]
            logits = lm.forward([(cache, part, range(len(part)))])[0]
            for k, counts in rescored.items():
                cache.trim(start)
                for row, top in zip(logits, lm.forward([(cache, part, range(len(part)))], Top(k))[0], strict=True):
                    assert np.array_equal(top.ids, top_of(row, k).ids)
                    assert np.array_equal(top.logits, row[top.ids])
                    counts.append(top.rescored)
        assert len(rescored[1]) == len(ids)
        if fixture != "gpt2_dir":  # whose weights are random, so that nothing stands out
            assert np.median(rescored[1]) < lm.vocab_size / 20


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 0.8, "top_k": 40, "seed": 3}])
def test_texts_are_those_of_the_full_head(options: dict[str, Any], gemma_gguf: Path) -> None:
    texts = []
    for screen in (True, False):
        with pyml_nlp.load(gemma_gguf, threads=2, screen=screen) as lm:
            texts.append(lm.generate_text("The first men who", max_tokens=40, **options))
            assert lm.model.screened == screen
    assert texts[0] == texts[1]
