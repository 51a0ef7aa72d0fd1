"""Options as objects: what they accept, how they are changed, and where a model's defaults come from."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
from typing import Any

import numpy as np
import pytest
from fake_model import make

from pyml_nlp import ArgumentError, ChatOptions, GenerationOptions, Grammar, GrammarError, LoadOptions, SamplingOptions
from pyml_nlp.cli.options import DTYPES, KV_DTYPES
from pyml_nlp.options import DEFAULT_SAMPLING, chat, generation, keywords, load, sampling
from pyml_nlp.options.defaults import from_generation_config, from_gguf

CLASSES: list[Any] = [SamplingOptions, GenerationOptions, ChatOptions, LoadOptions]


# ---- objects


@pytest.mark.parametrize("kind", CLASSES)
def test_options_are_frozen_values(kind: Any) -> None:
    options = kind()
    assert options == kind()
    assert pickle.loads(pickle.dumps(options)) == copy.deepcopy(options) == options
    assert options.replace() == options
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, name, None)


@pytest.mark.parametrize("kind", CLASSES)
def test_none_is_the_default(kind: Any) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    assert kind(**dict.fromkeys(names)) == kind()
    assert kind().replace(**dict.fromkeys(names)) == kind()


def test_keywords_have_the_fields_of_the_objects() -> None:
    def names(kind: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(kind)}

    def keys(kind: Any) -> frozenset[str]:
        found: frozenset[str] = kind.__optional_keys__
        return found

    assert keys(keywords.SamplingKeywords) == names(SamplingOptions) == sampling.SAMPLING
    forms = {"schema", "regex", "grammar"}
    everything = names(GenerationOptions) | names(SamplingOptions) | forms
    assert keys(keywords.GenerationKeywords) == everything == generation.GENERATION
    assert keys(keywords.ChatKeywords) == names(ChatOptions) == chat.CHAT
    assert keys(keywords.LoadKeywords) == names(LoadOptions) == load.LOAD
    assert keys(keywords.ChatGenerationKeywords) == everything | names(ChatOptions)
    assert chat.CHAT.isdisjoint(everything)


def test_the_command_line_knows_the_same_types() -> None:
    assert (DTYPES, KV_DTYPES) == (load.DTYPES, load.KV_DTYPES)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (SamplingOptions, {"temperature": "1"}, "temperature must be a number, got '1'"),
        (SamplingOptions, {"top_k": 2.0}, "top_k must be a whole number, got 2.0"),
        (GenerationOptions, {"max_tokens": -1}, "max_tokens must be >= 0, got -1"),
        (GenerationOptions, {"max_tokens": True}, "max_tokens must be a whole number, got True"),
        (GenerationOptions, {"sampling": {"temperature": 1}}, r"sampling must be SamplingOptions, got \{'temp"),
        (GenerationOptions, {"grammar": "[a-z]"}, r"grammar must be Grammar, got '\[a-z\]'"),
        (GenerationOptions, {"overflow": "roll"}, "overflow must be one of error, shift, got 'roll'"),
        (GenerationOptions, {"n_keep": -1}, "n_keep must be >= 0, got -1"),
        (GenerationOptions, {"sample_index": 1.0}, "sample_index must be a whole number, got 1.0"),
        (ChatOptions, {"tools": "t" * 999}, r"tools must be a list, got 't{75}\.\.\.'$"),
        (ChatOptions, {"documents": {"a": 1}}, r"documents must be a list, got \{'a': 1\}"),
        (ChatOptions, {"template": 5}, "template must be a text, got 5"),
        (ChatOptions, {"add_generation_prompt": 1}, "add_generation_prompt must be True or False, got 1"),
        (ChatOptions, {"continue_final_message": "no"}, "continue_final_message must be True or False, got 'no'"),
        (ChatOptions, {"variables": ["a"]}, r"variables must be a mapping of names and values, got \['a'\]"),
        (LoadOptions, {"dtype": "q3"}, "dtype must be one of auto, f32, bf16, q8_0, q4_0, got 'q3'"),
        (LoadOptions, {"threads": 0}, "threads must be > 0, got 0"),
        (LoadOptions, {"context_length": 0}, "context_length must be > 0, got 0"),
        (LoadOptions, {"prefill_chunk": 0}, "prefill_chunk must be > 0, got 0"),
        (LoadOptions, {"prefix_cache_bytes": -1}, "prefix_cache_bytes must be >= 0, got -1"),
        (LoadOptions, {"screen": 0}, "screen must be True or False, got 0"),
        (LoadOptions, {"kv_dtype": "f8"}, "kv_dtype must be one of auto, f32, f16, int8, got 'f8'"),
    ],
)
def test_invalid_values(kind: Any, values: dict[str, Any], message: str) -> None:
    (name,) = values
    for make_options in (kind, kind().replace):
        if name == "grammar" and make_options != kind:
            continue  # the keyword is a Lark grammar
        with pytest.raises(ArgumentError, match=f"^{message}") as error:
            make_options(**values)
        assert error.value.name == name
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (SamplingOptions, "temprature", "temperature"),
        (GenerationOptions, "max_token", "max_tokens"),
        (GenerationOptions, "topk", "top_k"),
        (ChatOptions, "tool", "tools"),
        (LoadOptions, "context_len", "context_length"),
    ],
)
def test_unknown_names(kind: Any, name: str, meant: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^unknown option '{name}': did you mean '{meant}'\?$"):
        kind().replace(**{name: 1})
    with pytest.raises(ArgumentError, match=r"^unknown option 'zzz': expected one of [a-z_, ]+$"):
        kind().replace(zzz=1)


def test_numpy_scalars() -> None:
    options = GenerationOptions(np.int16(5), logprobs=np.uint8(2), include_stop=np.bool_(True))  # type: ignore[arg-type]
    assert options == GenerationOptions(5, logprobs=2, include_stop=True)
    assert [type(value) for value in (options.max_tokens, options.logprobs, options.include_stop)] == [int, int, bool]
    assert LoadOptions(threads=np.int64(2)).threads.__class__ is int  # type: ignore[arg-type]


# ---- changes


def test_changes_of_sampling_reach_it() -> None:
    base = GenerationOptions(max_tokens=7, sampling=SamplingOptions(0.5, top_k=9))
    changed = base.replace(top_k=3, seed=1, stop="x")
    assert changed == GenerationOptions(7, SamplingOptions(0.5, top_k=3, seed=1), stop=("x",))
    assert base.sampling.top_k == 9
    assert base.replace(sampling=SamplingOptions(1.5), seed=2).sampling == SamplingOptions(1.5, seed=2)


def test_forms_of_a_grammar() -> None:
    base = GenerationOptions(grammar=Grammar("regex", "a"))
    assert base.replace(regex="b").grammar == Grammar("regex", "b")
    assert base.replace(schema={"type": "null"}).grammar == Grammar("schema", '{"type": "null"}')
    assert base.replace(grammar="start: X").grammar == Grammar("grammar", "start: X")
    assert base.replace(grammar=Grammar("regex", "c")).grammar == Grammar("regex", "c")
    with pytest.raises(GrammarError, match="expected one of schema, regex and grammar, got regex and grammar"):
        base.replace(regex="b", grammar="start: X")


def test_an_order_switches_off_the_rules_that_it_does_not_name() -> None:
    base = SamplingOptions(0.8, top_k=5, top_p=0.95, min_p=0.05, repetition_penalty=1.1)
    changed = base.replace(order=["top_p", "temperature"])
    assert changed.rules == ("top_p", "temperature")
    assert changed == SamplingOptions(0.8, top_p=0.95, order=("top_p", "temperature"))
    assert base.replace(order=["top_k"]).rules == ("top_k",)  # temperature 1
    assert SamplingOptions(0.0, repetition_penalty=2.0).replace(order=["repetition_penalty"]).greedy
    with pytest.raises(ArgumentError, match=r"^order must name all rules in use, top_k missing$"):
        base.replace(top_k=3, order=["top_p", "temperature"])


def test_temperature_0_alone_is_greedy() -> None:
    for base in (GenerationOptions(), from_generation_config({"top_k": 64, "top_p": 0.95}, "x")):
        options = base.replace(temperature=0)
        assert options.sampling.greedy
        assert options.sampling.required_top_k == 1
        assert options.seeded() is options


def test_summaries() -> None:
    assert str(GenerationOptions().sampling) == "temperature=0.8 top_p=0.95 min_p=0.05"
    assert str(SamplingOptions(seed=3)) == "temperature=1.0 seed=3"
    assert str(SamplingOptions(0.0, top_k=4, repetition_penalty=1.5)) == "greedy repetition_penalty=1.5"


# ---- calls


def test_an_object_means_exactly_what_it_says() -> None:
    lm = make(generation_options=GenerationOptions(max_tokens=3, sampling=SamplingOptions(2.0, seed=7), stop="z"))
    chosen = GenerationOptions(max_tokens=9, sampling=SamplingOptions(1.5, seed=4))
    generation = lm.generate("ab", chosen)
    assert generation.completion.options == chosen
    assert len(list(generation)) == 9
    assert lm.generate("ab").completion.options == lm.generation_options
    assert lm.generate("ab", chosen, top_k=2).completion.options == chosen.replace(top_k=2)
    texts = [completion.text for completion in lm.generate_batch(["ab", "cd"], chosen)]
    assert texts == [lm.generate_text(prompt, chosen) for prompt in ("ab", "cd")]


def test_keywords_are_changes_of_the_defaults() -> None:
    lm = make(generation_options=GenerationOptions(max_tokens=5, sampling=SamplingOptions(2.0, seed=7)))
    same = lm.generate_text("ab", GenerationOptions(5, SamplingOptions(2.0, top_k=40, seed=7)))
    assert lm.generate_text("ab", top_k=40) == same
    assert lm.generate_text("ab", top_k=40, temperature=None, max_tokens=None) == same
    assert next(lm.generate_batch(["ab"], top_k=40)).text == same


@pytest.mark.parametrize("count", [3, np.int64(3)])
def test_a_number_in_place_of_options_is_max_tokens(count: int) -> None:
    lm = make(generation_options=GenerationOptions(max_tokens=5, sampling=SamplingOptions(2.0, seed=7)))
    expected = lm.generate_text("ab", max_tokens=3, top_k=40)
    assert lm.generate_text("ab", count, top_k=40) == expected
    assert next(lm.generate_batch(["ab"], count, top_k=40)).text == lm.submit("ab", count, top_k=40).result().text


# ---- defaults of a model

FOLDERS: dict[str, tuple[dict[str, Any], SamplingOptions]] = {
    "no file": ({}, DEFAULT_SAMPLING),
    "nothing about sampling": ({"eos_token_id": 2, "max_length": 20}, DEFAULT_SAMPLING),
    "nulls": ({"do_sample": None, "temperature": None}, DEFAULT_SAMPLING),
    "do_sample": ({"do_sample": True}, SamplingOptions(1.0, top_k=50, top_p=1.0)),
    "Gemma 3": ({"do_sample": True, "top_k": 64, "top_p": 0.95}, SamplingOptions(1.0, top_k=64, top_p=0.95)),
    "a field alone": ({"temperature": 0.6}, SamplingOptions(0.6, top_k=50, top_p=1.0)),
    "Qwen 2.5": (
        {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
        SamplingOptions(0.7, top_k=20, top_p=0.8, repetition_penalty=1.05),
    ),
    "the others": (
        {"min_p": 0.1, "typical_p": 0.9},
        SamplingOptions(1.0, top_k=50, top_p=1.0, min_p=0.1, typical_p=0.9),
    ),
    "off": ({"temperature": 0.5, "top_k": 0}, SamplingOptions(0.5, top_p=1.0)),
    "greedy": ({"do_sample": False, "temperature": 0.6, "top_k": 3}, SamplingOptions(0.0)),
    "greedy, penalised": (
        {"do_sample": False, "repetition_penalty": 1.2},
        SamplingOptions(0.0, repetition_penalty=1.2),
    ),
    "a penalty alone": ({"repetition_penalty": 1.2}, DEFAULT_SAMPLING.replace(repetition_penalty=1.2)),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_defaults_of_a_folder(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config, sampling = FOLDERS[name]
    assert from_generation_config(config, "x") == GenerationOptions(max_tokens=256, sampling=sampling)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("config", "sampling", "problem"),
    [
        ({"temperature": -1.0}, DEFAULT_SAMPLING, "temperature must be a finite number >= 0.0, got -1"),
        ({"temperature": True}, DEFAULT_SAMPLING, "temperature must be a number, got True"),
        (
            {"do_sample": True, "top_p": 7, "top_k": 5},
            SamplingOptions(1.0, top_k=5, top_p=1.0),
            r"top_p must be in \(0.0, 1.0\], got 7 \(1 is off\)",
        ),
        ({"top_k": [40]}, DEFAULT_SAMPLING, r"top_k must be a whole number, got \[40\]"),
        ({"min_p": 10**40}, DEFAULT_SAMPLING, r"min_p must be in \[0.0, 1.0\], got 1e\+40 \(0 is off\)"),
        ({"do_sample": "yes"}, DEFAULT_SAMPLING, "do_sample must be true or false, got 'yes'"),
    ],
)
def test_invalid_values_of_a_folder(
    config: dict[str, Any], sampling: SamplingOptions, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert from_generation_config(config, "m/generation_config.json").sampling == sampling
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "pyml.load"
    with pytest.raises(ValueError, match=rf"^m/generation_config.json: {problem}; ignored$"):
        raise ValueError(record.getMessage())


def test_defaults_of_a_gguf_file(caplog: pytest.LogCaptureFixture) -> None:
    def found(**values: Any) -> SamplingOptions:
        return from_gguf({f"general.sampling.{key}": value for key, value in values.items()}, "m.gguf").sampling

    single = float(np.float32(0.95))
    assert single != 0.95
    assert found() == DEFAULT_SAMPLING
    assert found(top_k=64, top_p=single) == SamplingOptions(1.0, top_k=64, top_p=0.95)
    assert found(temp=float(np.float32(0.7)), min_p=0.0) == SamplingOptions(0.7, top_k=50, top_p=1.0, min_p=0.0)
    assert found(temp=0.123456789012) == SamplingOptions(0.123456789012, top_k=50, top_p=1.0)  # no float32
    assert found(penalty_repeat=1.5) == DEFAULT_SAMPLING.replace(repetition_penalty=1.5)
    assert found(penalty_repeat=1.5, penalty_last_n=0) == DEFAULT_SAMPLING
    assert found(temp=1e300).temperature == 1e300
    assert found(mirostat=0, xtc_probability=0.0) == DEFAULT_SAMPLING
    assert caplog.records == []
    assert found(mirostat=2, top_p=9.0) == DEFAULT_SAMPLING
    assert [record.getMessage() for record in caplog.records] == [
        "m.gguf: general.sampling.mirostat is not supported; ignored",
        "m.gguf: general.sampling.top_p must be in (0.0, 1.0], got 9 (1 is off); ignored",
    ]
