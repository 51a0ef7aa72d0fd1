"""Texts that have to match a schema, an expression or a grammar, by real models: they always do."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pyml_nlp
from pyml_nlp.generation.request import Request
from pyml_nlp.language_model import LanguageModel
from pyml_nlp.options import GenerationOptions, SamplingOptions
from pyml_nlp.structured.grammar import MAX_SOURCE, Grammar, GrammarError, one_grammar

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["cats", "dogs", "trees"]}, "minItems": 1, "maxItems": 3},
        "email": {"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.(org|net)$"},
    },
    "required": ["name", "age", "likes", "email"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": PERSON,
    "choice": {"enum": ["yes", "no", "I don't know", "наверное", "😀"]},
    "numbers": {"type": "array", "items": {"type": "number", "maximum": 9}, "minItems": 2, "maxItems": 4},
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2},
                },
                "required": ["value", "children"],
                "additionalProperties": False,
            },
            "leaf": {"type": "object", "properties": {"value": {"type": "null"}}, "additionalProperties": False},
        },
        "$ref": "#/$defs/node",
    },
    "either": {"anyOf": [{"type": "integer", "minimum": 10, "maximum": 20}, {"const": {"none": True}}]},
}
LIST = """
start: item+
item: "- " WORD (" " WORD)* "\\n"
WORD: /[a-z]+/
"""


@pytest.fixture(scope="module", params=["smollm2", "gemma"])
def lm(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    with pyml_nlp.load(request.getfixturevalue(f"{request.param}_gguf")) as model:
        yield model


@pytest.fixture(scope="module")
def small(smollm2_gguf: Path) -> Iterator[LanguageModel]:
    with pyml_nlp.load(smollm2_gguf) as model:
        yield model


# ---- matching texts


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(name: str, temperature: float, lm: LanguageModel) -> None:
    schema = SCHEMAS[name]
    generation = lm.generate("An example in JSON:\n", max_tokens=150, temperature=temperature, seed=1, schema=schema)
    streamed = "".join(step.text for step in generation)
    assert generation.finish_reason == "stop"
    assert streamed == generation.text
    value = json.loads(generation.text)
    jsonschema.validate(value, schema)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "regex", [r"\([0-9]{3}\) [0-9]{3}-[0-9]{4}", r"(é|ñ|日本|😀){3,5}", r" yes| no", r"[^a-z]{5}", r"a?b?c"]
)
def test_regex(regex: str, seed: int, lm: LanguageModel) -> None:
    generation = lm.generate("My number is ", max_tokens=60, temperature=2.0, seed=seed, regex=regex)
    list(generation)
    assert generation.finish_reason == "stop"
    assert re.fullmatch(regex, generation.text)


def test_grammar(lm: LanguageModel) -> None:
    text = lm.generate_text("To do:\n", max_tokens=60, temperature=1.0, seed=3, grammar=LIST)
    assert re.fullmatch(r"(- [a-z]+( [a-z]+)*\n)*(- ?[a-z ]*)?", text)


def test_rules_choose_among_what_may_come(small: LanguageModel) -> None:
    options: dict[str, Any] = {"regex": "[ab]{12}", "max_tokens": 40, "seed": 1}
    for rules in ({"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.5}, {"typical_p": 0.2}, {"presence_penalty": 2.0}):
        assert re.fullmatch("[ab]{12}", small.generate_text("x", temperature=1.5, **rules, **options))
    a = next(iter(small.tokenizer.encode("a", add_special=False)))
    text = small.generate_text("x", regex="[ab]", max_tokens=4, logit_bias={a: -float("inf")}, temperature=0)
    assert text == "b"


# ---- how it comes out


def test_forced_tokens_are_not_run_one_by_one(small: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    forward = small.model.forward

    def counted(batch: Any, *want: Any) -> Any:
        runs.append(len(batch[0][1]))
        return forward(batch, *want)

    monkeypatch.setattr(small.model, "forward", counted)
    schema = {"enum": ["the quick brown fox jumps over the lazy dog"]}
    generation = small.generate("x", max_tokens=60, schema=schema, temperature=0)
    steps = list(generation)
    assert json.loads(generation.text) == schema["enum"][0]
    assert len(runs) <= 3 < len(steps)
    assert [step.position for step in steps] == list(range(steps[0].position, steps[0].position + len(steps)))


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_logprobs_change_nothing_and_are_the_models_own(temperature: float, small: LanguageModel) -> None:
    options: dict[str, Any] = {"max_tokens": 100, "temperature": temperature, "seed": 5, "schema": PERSON}
    plain = small.generate("Somebody: ", **options)
    list(plain)
    steps = list(small.generate("Somebody: ", logprobs=1, **options))
    assert [step.token for step in steps] == plain.tokens
    prompt = small.ids("Somebody: ")
    logits = small.logits([*prompt, *plain.tokens[:-1]], range(len(prompt) - 1, len(prompt) + len(steps) - 1))
    from pyml_nlp.sampling import top_logprobs

    for step, row in zip(steps, logits, strict=True):
        assert (step.logprob, step.top_logprobs) == top_logprobs(row, step.token, 1)


def test_batch_is_the_same_as_alone(small: LanguageModel) -> None:
    grammars = [None, Grammar("schema", json.dumps(PERSON)), Grammar("regex", "[0-9]{8}"), Grammar("grammar", LIST)]
    requests = [
        Request(small.ids("An example: "), GenerationOptions(60, SamplingOptions(1.0, seed=seed), grammar=grammar))
        for seed, grammar in enumerate(grammars * 2)
    ]
    together = [completion.tokens for completion in small.generate_batch(requests)]
    alone = [next(c.tokens for c in small.generate_batch([request])) for request in requests]
    assert together == alone


def test_a_batch_takes_the_same_options(small: LanguageModel) -> None:
    options: dict[str, Any] = {"regex": "[a-f]{9}", "min_p": 0.01, "stop": ["fa"], "seed": 4}
    texts = [
        completion.text
        for completion in small.generate_batch(["one", "two"], max_tokens=20, temperature=1.2, **options)
    ]
    assert texts == [
        small.generate_text(prompt, max_tokens=20, temperature=1.2, **options) for prompt in ("one", "two")
    ]


def test_a_context_shift(small: LanguageModel) -> None:
    schema = {"enum": [" ".join(["all work and no play"] * 12)]}
    narrow = pyml_nlp.LanguageModel(small.model, small.tokenizer, small.eos_ids, 32)
    assert (
        json.loads(narrow.generate_text("x", max_tokens=200, schema=schema, overflow="shift", temperature=0))
        == schema["enum"][0]
    )
    ended = narrow.generate("x", max_tokens=200, schema=schema, temperature=0)
    list(ended)
    assert ended.finish_reason == "length"
    assert len(ended.tokens) == 32 - len(small.ids("x")) + 1


def test_the_longest_text(small: LanguageModel) -> None:
    generation = small.generate("x", max_tokens=7, schema=PERSON, temperature=0)
    list(generation)
    assert (generation.finish_reason, len(generation.tokens)) == ("length", 7)
    assert generation.text.startswith('{"name": "')
    cache = small.new_cache(8)
    full = small.generate("x y z", max_tokens=90, schema=SCHEMAS["choice"], cache=cache, temperature=0)
    list(full)
    assert cache.length <= 8


def test_a_cache_holds_all_but_the_last_token(small: LanguageModel) -> None:
    cache = small.new_cache()
    generation = small.generate("x", max_tokens=60, regex="[ab] and so on and on and on", cache=cache, temperature=0)
    list(generation)
    assert cache.ids == [*small.ids("x"), *generation.tokens[:-1]]


def test_stop_string(small: LanguageModel) -> None:
    generation = small.generate("x", max_tokens=60, schema=PERSON, stop=['", "age'], temperature=0)
    list(generation)
    assert generation.finish_reason == "stop"
    assert generation.completion.stopped_by == '", "age'
    assert re.fullmatch(r'\{"name": "[^"]*', generation.text)


def test_cancel(small: LanguageModel) -> None:
    generation = small.generate("x", max_tokens=60, schema=PERSON, temperature=0)
    for step in generation:
        if step.index == 2:
            generation.cancel()
    assert generation.finish_reason == "cancelled"


# ---- refused grammars


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex": "("}, r'^regex: invalid regex "\(": unclosed group$'),
        ({"regex": "(?=a)b"}, "^regex: .*look-around"),
        ({"regex": ".*" * 300}, "^regex: lexer"),
        ({"regex": ""}, "^regex: expected one, got an empty text$"),
        ({"grammar": "start: foo"}, 'unknown name: "foo"'),
        ({"schema": {"type": "foo"}}, "^schema: #/type: expected one of null, .* and integer, found 'foo'$"),
        ({"schema": {"if": {}}}, "^schema: Unimplemented keys:"),
        ({"schema": {"if": {}, "x-guidance": {"lenient": True}}}, "^schema: Unimplemented keys:"),
        ({"schema": {"$ref": "http://localhost/x"}}, "^schema: Resource .* is not present"),
        ({"schema": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "^schema: Unsatisfiable schema"),
        ({"schema": {"$ref": "#"}}, "^schema: nothing can be written: it needs itself, or a"),
        ({"regex": r"[^\s\S]"}, "^regex: no text matches$"),
        ({"grammar": "start: start"}, "^grammar: no text matches$"),
        ({"schema": '{"items":' * 300 + "{}" + "}" * 300}, "^schema: recursion limit exceeded at line 1 column"),
        ({"schema": {"type": "array", "uniqueItems": True}}, r'^schema: Unimplemented keys: \["uniqueItems"\]$'),
        ({"schema": "{"}, "^schema: expected JSON: "),
        ({"schema": "[1]"}, "^schema: expected a JSON object, got list$"),
        ({"schema": '{"a":' * 100_000}, "^schema: nested too deeply$"),
        ({"schema": {"a": {1, 2}}}, "^schema: expected a JSON value: "),
        ({"regex": "a", "grammar": "b"}, "^expected one of schema, regex and grammar, got regex and grammar$"),
        ({"regex": "a" * (MAX_SOURCE + 1)}, "^regex: expected at most 1048576 characters, got 1048577$"),
        ({"regex": 5}, "^regex: expected a text, got int$"),
    ],
)
def test_errors(options: dict[str, Any], message: str, small: LanguageModel) -> None:
    with pytest.raises(GrammarError, match=message) as error:
        small.generate("x", **options)
    assert len(str(error.value).splitlines()) == 1


def test_a_grammar_that_is_too_much_work_ends_with_an_error(small: LanguageModel) -> None:
    names = [f"k{i}" for i in range(2500)]
    branches = [{"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]} for name in names]
    with pytest.raises(GrammarError, match=r"^schema: Parser Error: Current row has [0-9]+ items; max is 2000$"):
        small.generate_text("x", max_tokens=30, schema={"anyOf": branches}, temperature=0)


def test_a_grammar_that_takes_long_ends_with_the_deadline(small: LanguageModel) -> None:
    slow = {"patternProperties": {f"^k{n}x*$": {"type": "null"} for n in range(1000)}}
    start = time.monotonic()
    generation = small.generate("x", max_tokens=9, schema=slow, timeout=0.3, temperature=0)
    assert list(generation) == []  # in the end there would be an error: it takes more than it may
    assert time.monotonic() - start < 1.3
    assert (generation.finish_reason, generation.text) == ("timeout", "")


def test_without_llguidance(small: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    monkeypatch.setattr(small.engine, "_vocabulary", None)
    with pytest.raises(GrammarError, match=r'structured output needs llguidance: pip install "pyml-nlp\[structured\]"'):
        small.generate("x", regex="a", temperature=0)


def test_llguidance_is_not_imported_unless_it_is_used(smollm2_gguf: Path) -> None:
    import subprocess

    text = f"pyml_nlp.load({str(smollm2_gguf)!r}).generate_text('x', max_tokens=1)"
    code = f"import sys, pyml_nlp; {text}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "llguidance" not in done.stdout


def test_one_grammar() -> None:
    assert one_grammar() is None
    assert one_grammar(schema={"type": "null"}) == Grammar("schema", '{"type": "null"}')
    assert one_grammar(regex="a") == Grammar("regex", "a")
