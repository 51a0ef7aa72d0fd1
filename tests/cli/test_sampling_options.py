"""Options of sampling, stopping and log probabilities: the same as in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp

PROMPT = "the cat in the hat"
RUN = ("--prompt", PROMPT, "--max-tokens", "12", "--threads", "1", "--seed", "3", "--temperature", "1.5")


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (("--min-p", "0.2"), {"min_p": 0.2}),
        (("--typical-p", "0.5"), {"typical_p": 0.5}),
        (("--top-k", "5", "--top-p", "0.7"), {"top_k": 5, "top_p": 0.7}),
        (
            ("--frequency-penalty", "3", "--presence-penalty", "-2"),
            {"frequency_penalty": 3.0, "presence_penalty": -2.0},
        ),
        (("--logit-bias", "40=30", "--logit-bias", "41=-inf"), {"logit_bias": {40: 30.0, 41: -float("inf")}}),
        (
            ("--top-p", "0.5", "--sampler-order", "top-p, temperature"),
            {"top_p": 0.5, "order": ["top_p", "temperature"]},
        ),
    ],
)
def test_rules(flags: tuple[str, ...], options: dict[str, Any], commands: Any, model: Path) -> None:
    result = commands.infer(model, *RUN, *flags)
    assert result.code == 0
    with pyml_nlp.load(model) as lm:
        assert result.text == lm.generate_text(PROMPT, max_tokens=12, temperature=1.5, seed=3, **options)


def test_stop(commands: Any, model: Path) -> None:
    with pyml_nlp.load(model) as lm:
        generation = lm.generate(PROMPT, max_tokens=12, temperature=1.5, seed=3)
        token = list(generation)[4].token
    whole = generation.text
    stop = whole[5:8]
    for more in ((), ("--stream",)):
        assert commands.infer(model, *RUN, "--stop", stop, *more).text == whole[: whole.index(stop)]
        included = commands.infer(model, *RUN, "--stop", "not there", "--stop", stop, "--include-stop", *more)
        assert included.text == whole[: whole.index(stop) + 3]
    shown = json.loads(commands.infer(model, *RUN, "--stop-id", str(token), "--json").text)
    assert shown["finish_reason"] == "stop"
    assert shown["tokens"] == generation.tokens.index(token) + 1


def test_logprobs(commands: Any, model: Path) -> None:
    shown = json.loads(commands.infer(model, *RUN, "--logprobs", "2", "--json").text)
    with pyml_nlp.load(model) as lm:
        steps = list(lm.generate(PROMPT, max_tokens=12, temperature=1.5, seed=3, logprobs=2))
    assert len(shown["logprobs"]) == shown["tokens"] == len(steps)
    for entry, step in zip(shown["logprobs"], steps, strict=True):
        assert step.logprob is not None
        assert step.top_logprobs is not None
        assert (entry["token"], entry["logprob"]) == (step.token, round(step.logprob, 6))
        assert [(top["token"], top["logprob"]) for top in entry["top"]] == [
            (i, round(p, 6)) for i, p in step.top_logprobs
        ]
    assert "logprobs" not in json.loads(commands.infer(model, *RUN, "--json").text)


def test_parts_of_characters_have_their_bytes(commands: Any, model: Path) -> None:
    """Tokens of one byte each spell an emoji; without the bytes all four would look alike."""
    emoji = "\U0001f642"
    with pyml_nlp.load(model) as lm:
        ids = lm.tokenizer.encode(emoji, add_special=False)
    assert len(ids) == 4
    found = []
    for number in ids:
        flags = ("--logprobs", "1", "--json", "--max-tokens", "1", "--logit-bias", f"{number}=1000")
        (entry,) = json.loads(commands.infer(model, *RUN, *flags).text)["logprobs"]
        assert (entry["token"], entry["text"]) == (number, "\ufffd")
        found += entry["bytes"]
    assert bytes(found).decode() == emoji
    shown = json.loads(commands.infer(model, *RUN, "--logprobs", "0", "--json", "--logit-bias", "40=1000").text)
    assert shown["logprobs"][0]["text"].isascii()
    assert "bytes" not in shown["logprobs"][0]
