"""Tokens of several texts in one call: those of one run after the other with the rules of each text in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from core_cases import Model, Watcher

from pyml_core import Choice, Sample, SampledToken, Sampler, ShapeError, Slice
from pyml_core._native import StopFlag
from pyml_core.kv_layout import PageTable
from pyml_core.sampling import History, SamplingRules, sample

RULES = [
    SamplingRules(greedy=True),
    SamplingRules(("temperature",), temperature=1.3, seed=5),
    SamplingRules(("temperature", "top_k", "top_p"), temperature=0.8, top_k=9, top_p=0.9, seed=6),
    SamplingRules(
        ("logit_bias", "repetition_penalty", "frequency_penalty"), True, repetition_penalty=1.4, frequency_penalty=0.3,
        logit_bias=((3, -4.0), (11, 2.0)),
    ),
    SamplingRules(("presence_penalty", "temperature", "min_p"), temperature=0.7, min_p=0.02, presence_penalty=1.0),
]  # fmt: skip
V = Model.VOCABULARY


class Text(NamedTuple):
    """A prompt of some tokens and a way to continue it."""

    rules: SamplingRules
    prompt: list[int]
    pages: PageTable

    def choice(self, generated: Sequence[int] = (), **options: Any) -> Choice:
        sampler = Sampler(self.rules, 4, V, self.prompt, generated)
        return Choice(sampler, len(self.prompt) + len(generated), **options)


def texts(model: Model) -> list[Text]:
    return [
        Text(rules, model.ids(5 + 13 * index, index).tolist(), model.pages(128)) for index, rules in enumerate(RULES)
    ]


def expected(model: Model, text: Text, count: int) -> list[int]:
    """Token by token: all logits, and the rules in NumPy."""
    found: list[int] = []
    start, ids = 0, text.prompt
    for _ in range(count):
        (row,) = model.program.run([Slice(text.pages, start, ids, [len(ids) - 1])])
        history = History(text.prompt, found)
        found.append(sample(row, text.rules, 4, len(text.prompt) + len(found), history))
        start, ids = start + len(ids), found[-1:]
    return found


def tokens(found: list[SampledToken]) -> list[int]:
    assert all(one.error is None for one in found)
    return [one.token for one in found]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_texts_with_rules_of_their_own(threads: int) -> None:
    """Prompts of different lengths in the first run; then tokens of all texts, over a page's end."""
    model = Model(threads)
    alone = [expected(model, text, 40) for text in texts(model)]
    batch = texts(model)
    want = Sample([text.choice() for text in batch], 40)
    found = model.program.run([Slice(one.pages, 0, one.prompt, [len(one.prompt) - 1]) for one in batch], want)
    assert [tokens(each) for each in found] == alone
    assert all(one.ms > 0 and one.choosing_ms > 0 for each in found for one in each)


def test_calls_of_any_length_give_the_same_tokens() -> None:
    model = Model(2)
    alone = [expected(model, text, 20) for text in texts(model)]
    for counts in ([1] * 20, [3, 1, 9, 7]):
        batch = texts(model)
        choices = [text.choice() for text in batch]
        parts = [Slice(one.pages, 0, one.prompt, [len(one.prompt) - 1]) for one in batch]
        found: list[list[int]] = [[] for _ in batch]
        for count in counts:
            results = model.program.run(parts, Sample(choices, count))
            for own, each in zip(found, results, strict=True):
                own += tokens(each)
            choices = [one._replace(position=one.position + count) for one in choices]
            parts = [
                Slice(part.pages, part.start + len(part.ids) + count - 1, own[-1:], [0])
                for part, own in zip(parts, found, strict=True)
            ]
        assert found == alone


def test_drafts_are_accepted_as_far_as_they_are_right() -> None:
    model = Model(2)
    for index, text in enumerate(texts(model)):
        right = expected(model, text, 12)
        for n_right in (0, 1, 3):
            wrong = (right[n_right] + 1) % V
            ids = [*text.prompt, *right[:n_right], wrong, 5]
            wanted = range(len(text.prompt) - 1, len(ids))
            pages = model.pages(128)
            (found,) = model.program.run([Slice(pages, 0, ids, wanted)], Sample([text.choice()], 6))
            assert tokens(found) == right[: n_right + 6], (index, n_right)
            assert [one.ms > 0 for one in found] == [True] + n_right * [False] + 5 * [True]


def test_slices_without_a_choice_run_beside() -> None:
    model = Model(2)
    text, other = texts(model)[:2]
    parts = [Slice(other.pages, 0, other.prompt), Slice(text.pages, 0, text.prompt, [len(text.prompt) - 1])]
    none, found = model.program.run(parts, Sample([text.choice()]))
    assert (none, tokens(found)) == ([], expected(model, text, 1))
    assert model.program.run(parts[:1], Sample([])) == [[]]
    with pytest.raises(ShapeError, match="expected every slice to want logits of its last token"):
        model.program.run(parts, Sample([text.choice()], 2))


def test_one_text_ends_the_call_of_all() -> None:
    model = Model(2)
    first, second = (expected(model, text, 20) for text in texts(model)[1:3])

    def run(ends: Sequence[int] = (), **options: Any) -> list[list[int]]:
        one, two = texts(model)[1:3]
        parts = [Slice(each.pages, 0, each.prompt, [len(each.prompt) - 1]) for each in (one, two)]
        found = model.program.run(parts, Sample([one.choice(**options), two.choice()], 20, ends))
        return [tokens(each) for each in found]

    place = max({token: index for index, token in reversed([*enumerate(second)])}.values())  # the latest new token
    count = 1 + min([each.index(second[place]) for each in (first, second) if second[place] in each])
    assert run([second[place]]) == [first[:count], second[:count]]
    place = max({token: index for index, token in reversed([*enumerate(first)])}.values())
    stops = np.zeros((V + 31) // 32, np.uint32)
    stops[first[place] // 32] = 1 << first[place] % 32
    assert run(stops=stops) == [first[: place + 1], second[: place + 1]]
    seen: list[int] = []

    def follow(token: int) -> bool:
        seen.append(token)
        return len(seen) < 4

    assert run(follow=follow) == [first[:4], second[:4]]
    assert seen == first[:4]


def test_a_pause() -> None:
    model, flag = Model(2), StopFlag()
    text = texts(model)[1]
    right = expected(model, text, 3)
    seen: list[int] = []

    def follow(token: int) -> bool:
        seen.append(token)
        if len(seen) == 3:
            flag.cancel()
        return True

    part = Slice(text.pages, 0, text.prompt, [len(text.prompt) - 1])
    (found,) = model.program.run([part], Sample([text.choice(follow=follow)], 20, pause=flag))
    assert tokens(found) == right
    (found,) = model.program.run([part], Sample([text.choice()], 20, pause=flag))
    assert tokens(found) == right[:1]


def test_an_error_of_python_ends_its_text() -> None:
    model = Model(2)
    one, two = texts(model)[:2]
    second = expected(model, texts(model)[1], 3)
    calls = 0

    def fails(_: object) -> bool:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ValueError("of the hook")
        return True

    parts = [Slice(each.pages, 0, each.prompt, [len(each.prompt) - 1]) for each in (one, two)]
    found = model.program.run(parts, Sample([one.choice(follow=fails), two.choice()], 9))
    assert [type(each.error) for each in found[0]] == [type(None), type(None), ValueError]
    assert tokens(found[1]) == second
    with pytest.raises(KeyboardInterrupt):
        model.program.run(parts, Sample([one.choice(follow=interrupted), two.choice()], 9))


def interrupted(_: object) -> bool:
    raise KeyboardInterrupt


def test_a_text_that_no_token_is_left_for() -> None:
    model = Model(2)
    one, two = texts(model)[:2]
    choice = one.choice()
    choice.sampler.set_mask(np.zeros((V + 31) // 32, np.uint32))
    parts = [Slice(each.pages, 0, each.prompt, [len(each.prompt) - 1]) for each in (one, two)]
    (failed,), found = model.program.run(parts, Sample([choice, two.choice()], 9))
    assert str(failed.error) == "the grammar leaves no token that could stand at position 5"
    assert len(tokens(found)) == 1


def test_invalid_choices() -> None:
    model = Model(1)
    one, two = texts(model)[:2]
    parts = [Slice(each.pages, 0, each.prompt, [len(each.prompt) - 1]) for each in (one, two)]
    same = one.choice()
    for choices, message in (
        ([one.choice()], "expected a choice for each of the 2 slices that want logits, got 1"),
        ([same, same], "expected a sampler for each text, got one twice"),
        (
            [one.choice(), Choice(Sampler(two.rules, 0, V + 1), 5)],
            f"expected samplers of {V} tokens, got one of {V + 1}",
        ),
        ([one.choice(), two.choice(stops=np.zeros(2, np.uint32))], f"expected a bit of uint32 for each of {V} tokens"),
    ):
        with pytest.raises(ShapeError, match=message):
            model.program.run(parts, Sample(choices))
    drafted = [Slice(one.pages, 0, one.prompt, [3, 4])]
    with pytest.raises(ShapeError, match="expected one wanted position of a text whose tokens are followed"):
        model.program.run(drafted, Sample([one.choice(follow=bool)]))


def test_every_run_of_a_batch_is_observed() -> None:
    model, watcher = Model(2), Watcher()
    batch = texts(model)[:3]
    parts = [Slice(one.pages, 0, one.prompt, [len(one.prompt) - 1]) for one in batch]
    with model.program.observe(watcher):
        found = model.program.run(parts, Sample([text.choice() for text in batch], 4))
    assert watcher.runs[0][0] == parts
    for index, (ran, timings) in enumerate(watcher.runs[1:], 1):
        assert [(part.start, list(part.ids)) for part in ran] == [
            (len(text.prompt) + index - 1, [each[index - 1].token]) for text, each in zip(batch, found, strict=True)
        ]
        assert timings.tokens == 3
    assert len(watcher.runs) == 4
