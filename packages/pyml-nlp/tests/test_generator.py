"""The generator on a scripted model: when texts end and why, the model's inputs, batches, deadlines, cancelling."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fake_model import EOS, VOCAB, FakeModel, calls, cycle, make, request, script
from hypothesis import given, settings
from hypothesis import strategies as st

from pyml_core import CancelToken
from pyml_core.errors import OutOfMemoryError, PymlError
from pyml_nlp import memory
from pyml_nlp.generation.generator import Generator
from pyml_nlp.generation.iterator import Generation
from pyml_nlp.generation.speculation import Costs
from pyml_nlp.generation.stopping import StopStrings
from pyml_nlp.language_model import LanguageModel
from pyml_nn import ContextOverflowError

# ---- one text


def test_length() -> None:
    lm = make()
    generation = lm.generate("ab", max_tokens=5)
    steps = list(generation)
    assert generation.text == "cdefg" == "".join(step.text for step in steps)
    assert [step.token for step in steps] == list(b"cdefg") == generation.tokens
    assert [step.index for step in steps] == [0, 1, 2, 3, 4]
    assert [step.position for step in steps] == [2, 3, 4, 5, 6]
    assert [step.finish_reason for step in steps] == [None] * 4 + ["length"]
    assert generation.finish_reason == "length"
    # The prompt once, then one token a step; the last token is not fed.
    assert calls(lm) == [[([97, 98], None)], *([([token], None)] for token in b"cdef")]


@pytest.mark.parametrize("eos", [(EOS,), (5, EOS), (EOS, 5, 6)])
def test_stops_at_every_end_token(eos: tuple[int, ...]) -> None:
    for stop in eos:
        following = lambda ids, stop=stop: [100, 101, stop][len(ids) - 2]  # noqa: E731
        generation = make(following, eos=eos).generate("ab", max_tokens=9)
        steps = list(generation)
        assert generation.finish_reason == steps[-1].finish_reason == "stop"
        assert [step.token for step in steps] == [100, 101, stop]
        assert generation.text == "de"
        assert steps[-1].text == ""


def test_stop_as_the_first_token() -> None:
    generation = make(lambda ids: EOS).generate("ab")
    assert [step.token for step in generation] == [EOS]
    assert (generation.text, generation.finish_reason) == ("", "stop")


def test_stop_at_the_last_token_wins_over_length() -> None:
    generation = make(script(b"x", 2)).generate("ab", max_tokens=2)
    assert [step.finish_reason for step in generation] == [None, "stop"]


def test_no_tokens_wanted() -> None:
    lm = make()
    cache = lm.new_cache()
    generation = lm.generate("abc", max_tokens=0, cache=cache)
    assert list(generation) == []
    assert (generation.text, generation.finish_reason) == ("", "length")
    assert cache.ids == [97, 98, 99]


def test_text_comes_in_whole_characters() -> None:
    text = "a€😀é"
    steps = list(make(script(text.encode(), 2)).generate("ab", max_tokens=50))
    assert [step.text for step in steps] == ["a", "", "", "€", "", "", "", "😀", "", "é", ""]


def test_a_character_cut_short_at_the_end() -> None:
    generation = make(script("a€".encode(), 2)).generate("ab", max_tokens=3)
    assert [step.text for step in generation] == ["a", "", "\ufffd"]
    assert generation.text == "a\ufffd"


def test_generate_text() -> None:
    assert make().generate_text("ab", max_tokens=3) == "cde"
    assert make().generate_text([97, 98], max_tokens=3, temperature=0.0) == "cde"


def test_logprobs() -> None:
    lm = make()
    without = list(lm.generate("ab", max_tokens=3))
    assert all(step.logprob is None and step.top_logprobs is None for step in without)
    alone = list(lm.generate("ab", max_tokens=3, logprobs=0))
    assert all(step.top_logprobs == () for step in alone)
    for step, plain in zip(lm.generate("ab", max_tokens=3, logprobs=2), alone, strict=True):
        assert step.logprob == plain.logprob
        assert step.logprob is not None
        assert -1 < step.logprob < 0
        assert step.top_logprobs is not None
        assert step.top_logprobs[0] == (step.token, step.logprob)
        assert step.top_logprobs[1][1] < step.logprob


def test_logprobs_are_the_models_own() -> None:
    lm = make()
    plain = [step.logprob for step in lm.generate("ab", max_tokens=1, logprobs=0)]
    sampled = [step.logprob for step in lm.generate("ab", max_tokens=1, logprobs=0, temperature=0.3, top_k=1, seed=1)]
    assert plain == sampled


# ---- stop strings and ids


def test_stop_string() -> None:
    for text in (b"one two three", "één €€ twee drie".encode()):
        whole = text.decode()
        for stop in (whole[4:6], whole[3:9], whole[-1], whole[0]):
            generation = make(script(text, 2)).generate("ab", max_tokens=50, stop=stop)
            steps = list(generation)
            assert generation.text == "".join(step.text for step in steps) == whole[: whole.index(stop)]
            assert generation.finish_reason == steps[-1].finish_reason == "stop"
            assert generation.completion.stopped_by == stop
            # It ended as soon as the stop string was there; the tokens that make it are kept.
            assert len(steps) == len(whole[: whole.index(stop) + len(stop)].encode())
            included = make(script(text, 2)).generate_text("ab", max_tokens=50, stop=[stop], include_stop=True)
            assert included == whole[: whole.index(stop) + len(stop)]


def test_nothing_that_may_become_a_stop_string_is_streamed() -> None:
    steps = list(make(script(b"aab aaab!", 2)).generate("ab", max_tokens=50, stop=["aaab"]))
    assert [step.text for step in steps] == ["", "", "aab", " ", "", "", "", ""]


def test_what_was_held_back_comes_at_the_end() -> None:
    generation = make(script(b"x STO", 2)).generate("ab", max_tokens=50, stop=["STOP"])
    assert [step.text for step in generation] == ["x", " ", "", "", "", "STO"]
    assert (generation.text, generation.finish_reason) == ("x STO", "stop")
    assert generation.completion.stopped_by == EOS
    short = make(script(b"x STOP", 2)).generate("ab", max_tokens=4, stop=["STOP"])
    assert "".join(step.text for step in short) == short.text == "x ST"
    assert (short.finish_reason, short.completion.stopped_by) == ("length", None)


def test_stop_string_at_the_last_token_wins_over_length() -> None:
    generation = make(script(b"abcd", 2)).generate("ab", max_tokens=3, stop=["c"])
    assert [step.text for step in generation] == ["a", "b", ""]
    assert generation.finish_reason == "stop"


def test_stop_ids() -> None:
    generation = make(script(b"abcd", 2)).generate("ab", stop_ids=[99])
    assert [step.token for step in generation] == [97, 98, 99]
    assert (generation.text, generation.finish_reason, generation.completion.stopped_by) == ("ab", "stop", 99)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(PymlError, match="stop must be of one character or more, got an empty text"):
        make().generate("ab", stop=["x", ""])


@settings(deadline=None)
@given(
    st.text("ab", min_size=0, max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.booleans(),
)
def test_stop_strings_do_not_depend_on_the_pieces(text: str, stops: list[str], sizes: list[int], include: bool) -> None:
    found = [(text.index(stop) + len(stop), text.index(stop), stop) for stop in stops if stop in text]
    expected = text if not found else text[: min(found)[0] if include else min(found)[1]]
    strings, shown, at = StopStrings(stops, include), "", 0
    for size in itertools.cycle(sizes):
        if at >= len(text):
            break
        shown += strings.push(text[at : at + size])
        at += size
        seen = text[:at]
        # All that is certain is shown at once.
        held = max(
            (
                n
                for n in range(len(seen) + 1)
                for stop in stops
                if n < len(stop) and stop.startswith(seen[-n:] if n else "")
            ),
            default=0,
        )
        assert shown == (expected if strings.found else seen[: len(seen) - held])
    assert shown + strings.flush() == expected
    assert strings.found == (min(found)[2] if found else None)


# ---- penalties, bias


def test_frequency_penalty_counts_the_text_alone() -> None:
    following = lambda ids: 97  # noqa: E731
    assert make(following).generate_text("aaaaaa", max_tokens=4, presence_penalty=50.0).startswith("a")
    text = make(following).generate_text("aaaaaa", max_tokens=4, presence_penalty=50.0)
    assert "a" not in text[1:]


def test_logit_bias_of_a_token_that_is_not_there() -> None:
    with pytest.raises(PymlError, match="logit_bias must be token ids below 300, got 300"):
        make().generate("ab", logit_bias={300: 1.0})


# ---- the context


def test_prompt_that_does_not_fit_is_refused_before_any_work() -> None:
    lm = make(context=8)
    message = r"Sequence length exceeded: max=8, actual=9 \(the prompt has 9 tokens; overflow=shift would forget the "
    with pytest.raises(ContextOverflowError, match=message):
        lm.generate("a" * 9)
    assert calls(lm) == []


def test_context_ends_the_text() -> None:
    lm = make(context=8)
    generation = lm.generate("abc", max_tokens=50)
    assert len(list(generation)) == 6  # five more positions, and one token that needs none
    assert generation.finish_reason == "length"
    assert generation.completion.cache.length == 8


def test_prompt_that_fills_the_context() -> None:
    generation = make(context=8).generate("abcdefgh", max_tokens=50)
    assert [step.text for step in generation] == ["i"]
    assert generation.finish_reason == "length"


def test_context_length_of_the_language_model() -> None:
    with pytest.raises(ContextOverflowError, match="max=4, actual=5"):
        make(context=64, context_length=4).generate("abcde")


def test_continue_in_a_cache() -> None:
    lm = make()
    whole = lm.generate_text("abc", max_tokens=8)
    cache = lm.new_cache()
    first = lm.generate("abc", max_tokens=4, cache=cache)
    list(first)
    assert cache.ids == list(b"abcdef")  # but for the last token
    rest = lm.generate([first.tokens[-1]], max_tokens=4, cache=cache)
    list(rest)
    assert first.text + rest.text == whole


def test_cache_that_is_full() -> None:
    lm = make()
    cache = lm.new_cache(6)
    list(lm.generate("abc", max_tokens=2, cache=cache))
    with pytest.raises(ContextOverflowError, match=r"max=6, actual=7 .*after 4 in the cache"):
        lm.generate("xyz", cache=cache)
    assert len(list(lm.generate("xy", max_tokens=9, cache=cache))) == 1


def test_continuing_has_the_same_noise_as_going_on() -> None:
    lm = make()
    whole = lm.generate("abc", max_tokens=20, temperature=3.0, seed=4)
    list(whole)
    cache = lm.new_cache()
    first = lm.generate("abc", max_tokens=7, temperature=3.0, seed=4, cache=cache)
    list(first)
    rest = lm.generate(first.tokens[-1:], max_tokens=13, temperature=3.0, seed=4, cache=cache)
    list(rest)
    assert first.tokens + rest.tokens == whole.tokens


# ---- seeds


def test_seeds() -> None:
    def tokens(seed: int | None) -> list[int]:
        generation = make().generate("ab", max_tokens=30, temperature=5.0, seed=seed)
        list(generation)
        return generation.tokens

    assert tokens(3) == tokens(3)
    assert tokens(3) != tokens(4)
    assert tokens(None) != tokens(None)


def test_the_random_seed_can_be_used_again() -> None:
    generation = make().generate("ab", max_tokens=30, temperature=5.0)
    list(generation)
    assert generation.seed is not None
    again = make().generate("ab", max_tokens=30, temperature=5.0, seed=generation.seed)
    list(again)
    assert again.tokens == generation.tokens
    assert make().generate("ab").seed is None


def test_penalty_sees_prompt_and_text() -> None:
    # "a" is best by far and already in the prompt; with a penalty each new token makes itself less likely.
    generation = make(lambda ids: 97).generate("a", max_tokens=6, repetition_penalty=1e6)
    list(generation)
    assert 97 not in generation.tokens
    assert len(set(generation.tokens)) == 6


# ---- ends from outside


def test_timeout_keeps_the_text() -> None:
    lm = make()
    lm.model.before = lambda: time.sleep(0.03)  # type: ignore[attr-defined]
    generation = lm.generate("ab", max_tokens=60, timeout=0.2)
    steps = list(generation)
    assert generation.finish_reason == "timeout"
    assert 0 < len(steps) < 60
    assert generation.text == "".join(step.text for step in steps)


def test_timeout_in_the_prompt() -> None:
    lm = make()
    lm.model.before = lambda: time.sleep(0.05)  # type: ignore[attr-defined]
    generation = lm.generate("a" * 40, timeout=0.02)
    assert list(generation) == []
    assert (generation.finish_reason, generation.text) == ("timeout", "")
    assert calls(lm) == []


def test_a_timeout_gives_out_what_the_decoder_holds() -> None:
    lm = make(script("a€€€".encode(), 2))
    generator = Generator(lm, timeout=100)
    completion = generator.start(request([97, 98], 50))
    generator.prefill(completion)
    generator.decode_step()
    generator.stop_token = completion.stop_token = CancelToken(1e-9)
    assert generator.decode_step() == []
    assert (completion.finish_reason, completion.text) == ("timeout", "a\ufffd")
    assert generator.running == []


def test_cancel_between_steps() -> None:
    generation = make().generate("ab", max_tokens=50)
    steps = []
    for step in generation:
        steps.append(step)
        if step.index == 3:
            generation.cancel()
    assert len(steps) == 4
    assert (generation.finish_reason, generation.text) == ("cancelled", "cdef")


@pytest.mark.parametrize("at", [0, 3])
def test_cancel_inside_a_run(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Costs, "ms", None)  # a call has one run
    lm = make()
    generation = lm.generate("ab", max_tokens=50)
    lm.model.before = lambda: generation.cancel() if len(calls(lm)) == at else None  # type: ignore[attr-defined]
    assert len(list(generation)) == at
    assert generation.finish_reason == "cancelled"
    assert len(generation.text) == at


def test_an_error_of_the_model_keeps_the_text() -> None:
    def following(ids: list[int]) -> int:
        if len(ids) == 5:
            raise PymlError("broken")
        return cycle(ids)

    generation = make(following).generate("ab", max_tokens=50)
    with pytest.raises(PymlError, match="broken"):
        list(generation)
    assert generation.text in ("cd", "cde")  # a call that fails gives none of its tokens


# ---- refused arguments


def refusals() -> Iterator[tuple[Callable[[LanguageModel], object], str]]:
    yield lambda lm: lm.generate(""), "the prompt is empty"
    yield lambda lm: lm.generate([]), "the prompt is empty"
    yield lambda lm: lm.generate("a", max_tokens=-1), "max_tokens must be >= 0, got -1"
    yield lambda lm: lm.generate("a", timeout=0.0), "timeout must be > 0.0, got 0"
    yield lambda lm: lm.generate("a", timeout=float("nan")), "timeout must be > 0.0, got nan"
    yield lambda lm: lm.generate("a", logprobs=-1), "logprobs must be >= 0, got -1"
    yield lambda lm: lm.generate("a", temperature=-0.5), "temperature must be a finite number >= 0.0, got -0.5"
    yield lambda lm: lm.new_cache(0), r"max_length must be in 1 \.\. 64 \(the context\), got 0"
    yield lambda lm: lm.new_cache(65), r"max_length must be in 1 \.\. 64 \(the context\), got 65"


@pytest.mark.parametrize(("call", "message"), list(refusals()))
def test_refusals(call: Callable[[LanguageModel], object], message: str) -> None:
    lm = make()
    with pytest.raises(PymlError, match=message):
        call(lm)
    assert calls(lm) == []


def test_caches_that_would_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make(context=1 << 20)
    page = FakeModel.kv_layout.page_bytes
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * page)
    with pytest.raises(
        OutOfMemoryError, match=r"a KV cache of 500 positions needs .* MB of memory, .* MB are available"
    ):
        lm.generate("ab", max_tokens=498)
    generator = Generator(lm)
    assert generator.prefill(generator.start(request([97], 100))) is not None  # two pages, one of which exists by now
    generator.start(request([97], 100))
    with pytest.raises(OutOfMemoryError):
        generator.start(request([97], 300))


# ---- the language model


def test_logits() -> None:
    lm = make()
    everything = lm.logits([97, 98, 99])
    assert everything.shape == (3, VOCAB)
    assert everything.argmax(axis=1).tolist() == [98, 99, 100]
    assert np.array_equal(lm.logits("abc", [-1, 0]), everything[[2, 0]])
    assert lm.logits("abc", []).shape[0] == 0


def test_forward_advances_caches() -> None:
    lm = make()
    caches = [lm.new_cache(), lm.new_cache()]
    results = lm.forward([(caches[0], [97, 98], None), (caches[1], [99], [0])])
    assert [result.shape for result in results] == [(1, VOCAB), (1, VOCAB)]
    assert [cache.length for cache in caches] == [2, 1]


def test_generation_is_an_iterator() -> None:
    generation = make().generate("ab", max_tokens=3)
    assert isinstance(generation, Generation)
    assert iter(generation) is generation
    assert next(generation).text == "c"
    assert generation.finish_reason is None
    assert [step.text for step in generation] == ["d", "e"]
    assert list(generation) == []


def test_context_manager_closes() -> None:
    closed = []
    with make() as lm:
        lm.model.close = lambda: closed.append(True)  # type: ignore[method-assign]
        assert "LanguageModel" in repr(lm)
    assert closed == [True]
