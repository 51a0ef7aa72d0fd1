"""Users' arguments: numbers, flags, texts, token ids, spellings of other engines, and messages about other values."""

from __future__ import annotations

import array
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest
from fake_model import calls, cycle, make

from pyml_core.errors import PymlError
from pyml_nlp import values
from pyml_nlp.errors import ArgumentError
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions

# ---- numbers, flags, texts


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_whole_numbers(value: Any) -> None:
    found = values.whole("n", value, 0)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), Decimal("0.5")])
def test_numbers(value: Any) -> None:
    found = values.number("x", value)
    assert (found, type(found)) == (0.5, float)
    assert type(values.number("x", 3)) is float


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (values.whole, True, "n must be a whole number, got True"),
        (values.whole, np.True_, r"n must be a whole number, got np\.True_"),
        (values.whole, 1.0, r"n must be a whole number, got 1\.0"),
        (values.whole, np.float32(1), r"n must be a whole number, got np\.float32\(1\.0\)"),
        (values.whole, "3", "n must be a whole number, got '3'"),
        (values.whole, None, "n must be a whole number, got None"),
        (values.number, False, "n must be a number, got False"),
        (values.number, "0.5", r"n must be a number, got '0\.5'"),
        (values.number, np.str_("0.5"), r"n must be a number, got '0\.5'"),
        (values.number, 1j, "n must be a number, got 1j"),
        (values.number, [1.0], r"n must be a number, got \[1\.0\]"),
        (values.number, np.array([1.0]), r"n must be a number, got array\(\[1\.\]\)"),
        (values.number, 10**400, r"n must be a number below 1\.8e308, got an integer of about 401 digits"),
        (values.seconds, float("nan"), r"n must be > 0\.0, got nan"),
        (values.seconds, "1", "n must be a number, got '1'"),
        (values.flag, 1, "n must be True or False, got 1"),
        (values.flag, "no", "n must be True or False, got 'no'"),
        (values.text, b"x", "n must be a text, got b'x'"),
        (values.text, "ü\udfff", r"n must be Unicode characters, got the lone surrogate '\\udfff' at 1"),
        (values.texts, 5, "n must be a text or a list of texts, got 5"),
        (values.texts, b"x", "n must be a text or a list of texts, got b'x'"),
        (values.texts, ["a", 5], "n must be a text, got 5"),
        (values.texts, ["a", ""], "n must be of one character or more, got an empty text"),
        (values.token_id, -1, "n must be token ids, got -1"),
        (values.token_id, 2**70, "n must be token ids, got 1180591620717411303424"),
    ],
)
def test_what_is_refused(check: Callable[[str, Any], Any], value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}$") as caught:
        check("n", value)
    assert caught.value.name == "n"


def test_flags_of_numpy() -> None:
    assert values.flag("f", np.True_) is True
    assert values.flag("f", False) is False


@pytest.mark.parametrize(
    "ids",
    [[1, 2, 3], (1, 2, 3), range(1, 4), np.array([1, 2, 3], np.int32), [np.int64(1), 2, np.uint8(3)]]
    + [array.array("i", [1, 2, 3]), iter([1, 2, 3])],
)  # fmt: skip
def test_token_ids(ids: Any) -> None:
    found = values.token_ids("prompt", ids)
    assert list(found) == [1, 2, 3]
    assert {type(token) for token in found} == {int}


# ---- requests


SPELLINGS: list[dict[str, Any]] = [
    {"top_k": 0}, {"top_k": -1}, {"top_k": None}, {"top_p": 1}, {"top_p": None}, {"min_p": 0}, {"typical_p": 1},
    {"repetition_penalty": 1}, {"frequency_penalty": 0}, {"presence_penalty": None}, {"logit_bias": {}},
    {"logit_bias": None}, {"order": None}, {"seed": None}, {"seed": -1},
]  # fmt: skip


@pytest.mark.parametrize("options", SPELLINGS, ids=str)
def test_spellings_of_off(options: dict[str, Any]) -> None:
    rules = SamplingOptions(0.7, **options)
    assert rules.rules == ("temperature",)
    assert rules.seed is None
    assert SamplingOptions(None, **options) == SamplingOptions(**options)  # type: ignore[arg-type]


def test_numbers_of_numpy_give_the_same_text() -> None:
    rules = SamplingOptions(0.5, top_k=4, top_p=0.75, seed=7, logit_bias={97: 0.5})
    half, four, three_quarters, seven = np.float32(0.5), np.int32(4), np.float64(0.75), np.int64(7)
    options: dict[str, Any] = {"temperature": half, "top_k": four, "top_p": three_quarters, "seed": seven}
    same = SamplingOptions(**options, logit_bias={"97": np.float16(0.5)})  # type: ignore[dict-item]
    assert same == rules
    assert {type(value) for value in vars(same).values()} == {type(value) for value in vars(rules).values()}
    lm = make(cycle)
    plain = lm.generate_text("ab", max_tokens=5, temperature=1.5, seed=2**40 + 1)
    prompt: Any = np.array([97, 98])
    given: dict[str, Any] = {"max_tokens": np.int64(5), "temperature": 1.5, "seed": np.uint64(2**40 + 1)}
    assert lm.generate_text(prompt, **given) == plain


def test_none_is_not_given() -> None:
    lm = make(cycle)
    names = "temperature stop stop_ids include_stop logprobs n_keep overflow timeout top_k top_p seed logit_bias order"
    nothing: Any = dict.fromkeys([*names.split(), "sample_index", "schema", "regex", "grammar", "draft_model"])
    (text,) = lm.generate_batch(["ab"], max_tokens=None, **nothing)
    assert text.text == lm.generate_text("ab")
    assert lm.generate_text("ab", max_tokens=None, cache=None, **nothing) == lm.generate_text("ab")


def test_requests_hold_plain_values() -> None:
    prompt: Any = np.array([1, 2])
    given: dict[str, Any] = {"stop_ids": {np.int64(5)}, "n_keep": np.uint8(1), "logprobs": np.int16(2)}
    request = Request(prompt, GenerationOptions(stop="x", **given))
    assert request == Request([1, 2], GenerationOptions(stop=("x",), stop_ids=(5,), n_keep=1, logprobs=2))
    assert request.seeded().options.sampling.seed is not None


# ---- arguments that a language model refuses before any work


def refusals() -> dict[str, tuple[Callable[[LanguageModel], object], str]]:
    def text(prompt: Any = "ab", max_tokens: Any = 3, **options: Any) -> Callable[[LanguageModel], object]:
        return lambda lm: lm.generate_text(prompt, max_tokens=max_tokens, **options)

    anything: Any = object()
    prompts: dict[str, tuple[Any, str]] = {
        "bytes": (b"ab", "prompt must be a text or token ids, got b'ab'$"),
        "a bytearray": (bytearray(b"ab"), r"prompt must be a text or token ids, got bytearray\(b'ab'\)$"),
        "nothing": (None, "prompt must be a text or token ids, got None$"),
        "a number": (5, "prompt must be a text or token ids, got 5$"),
        "a set": ({1, 2}, r"prompt must be a text or token ids, got {1, 2}$"),
        "an array of no dimension": (np.array(5), r"prompt must be a text or token ids, got array\(5\)$"),
        "texts": (["a", "b"], "prompt must be a text or token ids, got 'a' at 0; for several prompts: generate_batch"),
        "lists": (
            [[1], [2]],
            r"prompt must be a text or token ids, got \[1\] at 0; for several prompts: generate_batch",
        ),
        "an array of two dimensions": (np.ones((2, 2), int), r"got array\(\[1, 1\]\) at 0; for several prompts"),
        "a message": ({"role": "user"}, "got {'role': 'user'}; for messages: chat"),
        "messages": ([{"role": "user"}], "got {'role': 'user'} at 0; for messages: chat"),
        "floats": ([1, 2.0], r"prompt must be a text or token ids, got 2\.0 at 1$"),
        "an array of floats": (np.array([1.5]), r"got np\.float64\(1\.5\) at 0$"),
        "bools": ([1, True], "prompt must be a text or token ids, got True at 1$"),
        "a negative id": ([1, -2], "prompt must be token ids, got -2 at 1$"),
        "an id of no vocabulary": ([2**40], "prompt must be token ids, got 1099511627776 at 0$"),
        "an id of another vocabulary": ([5, 300], "prompt must be token ids below 300, got 300$"),
    }
    options: dict[str, tuple[dict[str, Any], str]] = {
        "max_tokens 1.5": ({"max_tokens": 1.5}, "max_tokens must be a whole number, got 1.5"),
        "max_tokens text": ({"max_tokens": "3"}, "max_tokens must be a whole number, got '3'"),
        "max_tokens inf": ({"max_tokens": float("inf")}, "max_tokens must be a whole number, got inf"),
        "temperature text": ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        "top_k half": ({"top_k": 2.5}, "top_k must be a whole number, got 2.5"),
        "top_p list": ({"top_p": [1]}, r"top_p must be a number, got \[1\]"),
        "seed half": ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        "seed large": ({"seed": 10**9000}, r"seed must be in 0 .. 2\*\*64 - 1, got an integer of about 9001 digits"),
        "stop number": ({"stop": 5}, "stop must be a text or a list of texts, got 5"),
        "stop bytes": ({"stop": b"x"}, "stop must be a text or a list of texts, got b'x'"),
        "stop surrogate": ({"stop": "\ud800"}, r"stop must be Unicode characters, got the lone surrogate"),
        "stop_ids number": ({"stop_ids": 5}, "stop_ids must be a list of token ids, got 5"),
        "stop_ids text": ({"stop_ids": "ab"}, "stop_ids must be a list of token ids, got 'ab'"),
        "stop_ids texts": ({"stop_ids": ["a"]}, "stop_ids must be token ids, got 'a'"),
        "stop_ids large": ({"stop_ids": [2**70]}, "stop_ids must be token ids, got 1180591620717411303424"),
        "stop_ids beyond": ({"stop_ids": [300]}, "stop_ids must be token ids below 300, got 300"),
        "include_stop": ({"include_stop": "yes"}, "include_stop must be True or False, got 'yes'"),
        "logit_bias list": ({"logit_bias": [1]}, r"logit_bias must be token ids with numbers, such as .*, got \[1\]"),
        "logit_bias word": ({"logit_bias": {"a": 1}}, "logit_bias must be token ids, got 'a'"),
        "logit_bias text": ({"logit_bias": {1: "1"}}, "logit_bias must be a number, got '1'"),
        "logit_bias twice": ({"logit_bias": {1: 1, "1": 2}}, "logit_bias must name each token once, got 1 twice"),
        "order text": ({"order": "top_p"}, "order must be a list of names, got 'top_p'"),
        "order numbers": ({"order": [5]}, "order must be one of logit_bias, .*, got 5"),
        "order long": ({"order": ["x" * 9999]}, "order must be one of .{150,250}$"),
        "logprobs": ({"logprobs": True}, "logprobs must be a whole number, got True"),
        "overflow": ({"overflow": "x" * 9999}, "overflow must be one of error, shift, got 'x{75}...'$"),
        "n_keep": ({"n_keep": "1"}, "n_keep must be a whole number, got '1'"),
        "timeout": ({"timeout": "1"}, "timeout must be a number, got '1'"),
        "speculate": ({"speculate": 0}, "speculate must be True or False, got 0"),
        "cache": ({"cache": 5}, r"cache must be a KVCache \(lm.new_cache\(\) makes one\), got 5"),
        "draft_model": ({"draft_model": "x"}, "draft_model must be a model that pyml_nlp.load has returned, got 'x'"),
        "regex": ({"regex": 5}, "regex: expected a text, got int"),
    }
    found = {f"a prompt of {name}": (text(prompt), message) for name, (prompt, message) in prompts.items()}
    found |= {name: (text(**given), message) for name, (given, message) in options.items()}
    return found | {
        "agenerate": (lambda lm: lm.agenerate("a", temperature="x"), "temperature must be a number"),
        "one text for a batch": (
            lambda lm: lm.generate_batch("ab"),
            "prompts must be a list of prompts, got 'ab'; for",
        ),
        "a number for a batch": (
            lambda lm: lm.generate_batch(anything),
            "prompts must be a list of prompts, got <object",
        ),
        "ids for a batch": (
            lambda lm: lm.generate_batch([1, 2]),
            "prompt 0: prompt must be a text or token ids, got 1",
        ),
        "max_batch_size": (
            lambda lm: lm.generate_batch(["a"], max_batch_size="2"),
            "max_batch_size must be a whole number, got '2'",
        ),
        "ordered": (lambda lm: lm.generate_batch(["a"], ordered=1), "ordered must be True or False, got 1"),
        "an option of a batch": (
            lambda lm: lm.generate_batch(["a"], seed="x"),
            "^seed must be a whole number",
        ),
        "prefill": (lambda lm: lm.prefill(b"a"), "prompt must be a text or token ids"),
        "no logits": (lambda lm: lm.logits([]), "the text is empty: expected at least one token"),
        "logits of bytes": (lambda lm: lm.logits(b"a"), "text must be a text or token ids, got b'a'"),
        "one position": (lambda lm: lm.logits("ab", -1), "positions must be a list of whole numbers, got -1"),
        "half a position": (lambda lm: lm.logits("ab", [0.5]), "positions must be a whole number, got 0.5"),
        "no such position": (lambda lm: lm.logits("ab", [0, 2]), r"positions must be in -2 .. 1, got 2"),
        "score": (lambda lm: lm.score("ab", top=1.0), "top must be a whole number, got 1.0"),
        "forward": (
            lambda lm: lm.forward(anything),
            r"batch must be a list of \(cache, ids, positions or None\), got <obj",
        ),
        "a part of forward": (lambda lm: lm.forward([5]), r"batch must be a list of .*, got 5 at 0"),
        "a cache of forward": (lambda lm: lm.forward([(5, [1], None)]), "batch must be .*, got 5 for the cache at 0"),
        "what is wanted": (lambda lm: lm.forward([], 5), r"want must be AllLogits\(\), Top\(k\) or Sample.*, got 5"),
        "new_cache": (lambda lm: lm.new_cache(5.0), "max_length must be a whole number, got 5.0"),
        "a request of text": (
            lambda lm: Request(cast("Any", "ab")),
            r"prompt must be token ids \(see lm.ids\), got 'ab'",
        ),
        "sampling": (
            lambda lm: Request([1], GenerationOptions(sampling=cast("Any", {}))),
            "sampling must be SamplingOptions, got {}",
        ),
        "grammar": (
            lambda lm: Request([1], GenerationOptions(grammar=cast("Any", "a"))),
            "grammar must be Grammar, got 'a'",
        ),
    }


REFUSALS = refusals()


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    call, message = REFUSALS[name]
    lm = make()
    with pytest.raises(PymlError, match=message) as caught:
        call(lm)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert calls(lm) == []


def test_unknown_options() -> None:
    lm: Any = make()
    for name, hint in (
        ("max_token", "did you mean 'max_tokens'"),
        ("temprature", "did you mean 'temperature'"),
        ("cache", "an argument of generate, chat"),
        ("timout", "did you mean 'timeout'"),
        ("n", "for several texts of a prompt: generate_samples"),
        ("zzz", "expected one of "),
        ("x" * 9999, "expected one of "),
    ):
        with pytest.raises(ArgumentError, match=rf"^unknown option '{name[:75]}.{{0,4}}: {hint}"):
            lm.generate_batch(["a"], **{name: 5})
    with pytest.raises(ArgumentError, match=r"^unknown option 'tool': did you mean 'tools'\?$"):
        lm.chat("a", tool=[])
    with pytest.raises(ArgumentError, match=r"^options must be GenerationOptions, got '5'"):
        lm.generate("a", "5")
    with pytest.raises(ArgumentError, match=r"^max_tokens is given twice: "):
        lm.generate("a", 5, max_tokens=5)
    with pytest.raises(ArgumentError, match=r"^max_tokens must be"):
        lm.generate("a", True)
