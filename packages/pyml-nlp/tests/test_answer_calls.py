"""Calls of tools in answers: the formats of model families, however the text is cut into tokens."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from answers import SCHEMAS, STRUCTURED, Answer, Letters, form_of, joined, pieces_of, read, read_pieces

from pyml_nlp.answer import CallArguments, CallBegin
from pyml_nlp.answer.formats import FORMATS, format_of
from pyml_nlp.options.generation import GenerationOptions

ADD, WEATHER = ("add", '{"a": 1}'), ("get_weather", '{"city": "Zürich"}')

CASES: dict[str, tuple[str, str, Answer]] = {
    "one": ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', Answer("", [ADD])),
    "text before": (
        "hermes", 'Sure. <tool_call>{"name":"add","arguments":{ "a":[1,  2] }}</tool_call>',
        Answer("Sure. ", [("add", '{ "a":[1,  2] }')]),
    ),
    "text after": (
        "hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call> Done.', Answer(" Done.", [ADD])
    ),
    "arguments first": (
        "hermes",
        '<tool_call>\n{"arguments": {"city": "Zürich"}, "name": "get_weather"}\n</tool_call>\n'
        '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>\n',
        Answer("", [WEATHER, ("add", "{}")]),
    ),
    "without an end": ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}}', Answer("", [ADD])),
    "arguments as text": (
        "hermes", r'<tool_call>{"name": "add", "arguments": "{\"a\": 1}"}</tool_call>', Answer("", [ADD])
    ),
    "no arguments": ("hermes", '<tool_call>{"name": "add"}</tool_call>', Answer("", [("add", "{}")])),
    "a brace in a string": (
        "hermes", r'<tool_call>{"name": "note", "arguments": {"text": "}</tool_call> \"} \\"}}</tool_call>',
        Answer("", [("note", r'{"text": "}</tool_call> \"} \\"}')]),
    ),
    "cut in its arguments": (
        "hermes", '<tool_call>{"name": "note", "arguments": {"text": "half', Answer("", [("note", '{"text": "half')])
    ),
    "the second is of another tool": (
        "hermes",
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n'
        '<tool_call>{"name": "delete", "arguments": {}}</tool_call>',
        Answer('\n<tool_call>{"name": "delete", "arguments": {}}</tool_call>', [ADD]),
    ),
    "a call after a tag that is none": (
        "hermes", '<tool_call> is it: <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>',
        Answer("<tool_call> is it: ", [ADD]),
    ),
    "a list": (
        "mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "note", "arguments": {}}]',
        Answer("", [ADD, ("note", "{}")]),
    ),
    "a list that ends early": ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}', Answer("", [ADD])),
    "names": (
        "mistral", 'Well.[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]get_weather[ARGS]{"city": "Zürich"}',
        Answer("Well.", [ADD, WEATHER]),
    ),
    "a name and an id": ("mistral", '[TOOL_CALLS]add[CALL_ID]abc123def[ARGS]{"a": 1}', Answer("", [ADD])),
    "a name and a brace": ("mistral", '[TOOL_CALLS]add{"a": 1}', Answer("", [ADD])),
    "bare": ("llama", ' {"name": "add", "parameters": {"a": 1}}', Answer("", [ADD])),
    "bare with a type": ("llama", '{"type": "function", "name": "add", "parameters": {"a": 1}}', Answer("", [ADD])),
    "two bare": (
        "llama", '{"name": "add", "parameters": {"a": 1}}; {"name": "get_weather", "parameters": {"city": "Zürich"}}',
        Answer("", [ADD, WEATHER]),
    ),
    "XML": (
        "qwen3_coder",
        "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\nZürich\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>",
        Answer("I look.\n", [("get_weather", '{"city": "Zürich", "days": 3}')]),
    ),
    "XML with text of several lines": (
        "qwen3_coder",
        '<tool_call><function=note><parameter=text>\n\n"a"\n</b>\n\n</parameter></function></tool_call>\n',
        Answer("", [("note", r'{"text": "\n\"a\"\n</b>\n"}')]),
    ),
    "XML with values of several types": (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=units>\nnull\n</parameter>\n"
        "<parameter=other>\n[1, {\"a\": True}]\n</parameter>\n<parameter=more>\nFalse\n</parameter>\n</function>\n"
        "</tool_call>",
        Answer("", [("get_weather", json.dumps({
            "city": "12", "units": None, "other": '[1, {"a": True}]', "more": False}))]),
    ),
    "two in XML, without arguments": (
        "qwen3_coder",
        "<tool_call>\n<function=add></function></tool_call>\n<tool_call>\n<function=note>\n</function>\n</tool_call>",
        Answer("", [("add", "{}"), ("note", "{}")]),
    ),
    "XML that is cut": (
        "qwen3_coder", "<tool_call>\n<function=note>\n<parameter=text>\nab\n</par",
        Answer("", [("note", '{"text": "ab\\n</par')]),
    ),
    "Python": ("pythonic", "[add(a=1)]", Answer("", [ADD])),
    "two in Python": (
        "pythonic", """ [ add( a=-1 ) , note(text='its "(x]"', tags=[1, True, null, {"a": (2.5,)}]) ] Done.""",
        Answer(" Done.", [
            ("add", '{"a": -1}'), ("note", r'{"text": "its \"(x]\"", "tags": [1, true, null, {"a": [2.5]}]}')]),
    ),
    "JSON in a Python list": (
        "pythonic", '<|tool_call_start|>[{"name": "add", "arguments": {"a": 1}}]<|tool_call_end|>', Answer("", [ADD])
    ),
    "Python between markers": (
        "pythonic", "I add.<|tool_call_start|>[add(a=1)]<|tool_call_end|>", Answer("I add.", [ADD])
    ),
    "FunctionGemma": (
        "functiongemma",
        "<start_function_call>call:get_weather{city:<escape>Zürich, {x}<escape>,days:3}<end_function_call>",
        Answer("", [("get_weather", '{"city": "Zürich, {x}", "days": 3}')]),
    ),
    "two of FunctionGemma": (
        "functiongemma",
        "<start_function_call>call:add{}<end_function_call><start_function_call>call:note{tags:[1,true,<escape>a\n"
        "<escape>,{b:null}],text:plain}<end_function_call>",
        Answer("", [("add", "{}"), ("note", r'{"tags": [1, true, "a\n", {"b": null}], "text": "plain"}')]),
    ),
    "Gemma 4": (
        "gemma4", '<|tool_call>call:note{<|"|>text<|"|>:<|"|>a "b"<|"|>}<tool_call|>',
        Answer("", [("note", r'{"text": "a \"b\""}')]),
    ),
    "Phi": (
        "phi4_mini", '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>', Answer("", [ADD])
    ),
    "Granite": ("phi4_mini", '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]', Answer("", [ADD])),
    "functools": (
        "phi4_mini", ' functools[{"name": "add", "arguments": {"a": 1}}, {"name": "note", "arguments": {}}]',
        Answer("", [ADD, ("note", "{}")]),
    ),
    "generic calls": (
        "generic", '{"tool_calls": [{"name": "add", "arguments": {"a": 1}}, {"name": "note", "arguments": {}}]}',
        Answer("", [ADD, ("note", "{}")]),
    ),
    "a generic response": (
        "generic", r' { "response" : "a \"b\"\n\u00e9 \ud83d\ude00 }" } ', Answer('a "b"\né 😀 }')
    ),
    "a generic response that is cut": ("generic", r'{"response": "a \u00', Answer("a \ufffd")),
    "after a tag": ("llama", 'I add.<|python_tag|>{"name": "add", "parameters": {"a": 1}}', Answer("I add.", [ADD])),
}  # fmt: skip

SPELLED = ("a brace in a string", "a call after a tag that is none", "the second is of another tool")
"""Cases whose text spells a marker that stays text."""

CONTENT = {
    "text": ("hermes", "A <tool is not a call."),
    "white space": ("hermes", " \n"),
    "the beginning of a marker": ("hermes", "a <tool_cal"),
    "another tool": ("hermes", '<tool_call>{"name": "delete", "arguments": {}}</tool_call>'),
    "half of it": ("hermes", '<tool_call>{"name": "add", "arg'),
    "arguments that are a list": ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
    "arguments that are no JSON": ("hermes", '<tool_call>{"name": "add", "arguments": {a: 1}}</tool_call>'),
    "a text as arguments that is no JSON": ("hermes", '<tool_call>{"name": "add", "arguments": "a"}</tool_call>'),
    "no JSON": ("hermes", "<tool_call>add(1)</tool_call>"),
    "an empty object": ("hermes", "<tool_call>{}</tool_call>"),
    "a long name": ("hermes", '<tool_call>{"name": "' + "add" * 200 + '"}</tool_call>'),
    "an empty list": ("mistral", "[TOOL_CALLS] []"),
    "a name without arguments": ("mistral", "[TOOL_CALLS]add"),
    "the name of another tool": ("mistral", "[TOOL_CALLS]delete[ARGS]{}"),
    "XML of another tool": ("qwen3_coder", "<tool_call>\n<function=delete>\n</function>\n</tool_call>"),
    "another tag": ("qwen3_coder", "<tool_call>\n<fun>"),
    "a Python list": ("pythonic", "[1, 2]"),
    "a Python call in a text": ("pythonic", "It is [add(a=1)]"),
    "another function": ("pythonic", "[delete(a=1)]"),
    "Python with a name": ("pythonic", "[add(a=b)]"),
    "Python with a position": ("pythonic", "[add(1)]"),
    "Python with a value that JSON lacks": ("pythonic", "[add(a=1e999)]"),
    "Python that does not parse": ("pythonic", "[add(a=)]"),
    "Python that is nested deeply": ("pythonic", "[add(a=" + "(" * 5000),
    "Python that is cut": ("pythonic", "[add(a=1"),
    "FunctionGemma's of another tool": ("functiongemma", "<start_function_call>call:delete{}<end_function_call>"),
    "functools without calls": ("phi4_mini", "functools[]"),
    "an object that is not generic": ("generic", '{"a": 1}'),
    "generic calls without any": ("generic", '{"tool_calls": []}'),
    "JSON of another kind": ("llama", '{"a": 1}'),
    "a name alone": ("llama", '{"name": "add"}'),
    "a brace in a text": ("llama", 'It is {"name": "add", "parameters": {}}'),
}


@pytest.mark.parametrize("name", CASES)
def test_calls_however_the_text_is_cut(name: str) -> None:
    form, text, expected = CASES[name]
    for pieces in ([text], list(text), *(pieces_of(text, seed) for seed in range(60))):
        assert read_pieces(form_of(form), pieces) == expected


@pytest.mark.parametrize("name", CONTENT)
def test_what_stays_text(name: str) -> None:
    form, text = CONTENT[name]
    for pieces in ([text], list(text), *(pieces_of(text, seed) for seed in range(30))):
        assert read_pieces(form_of(form), pieces) == Answer(text)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["special", "added"])
def test_markers_that_are_tokens(name: str, kind: str) -> None:
    """The same calls, if each marker is one token, with and without characters of its own."""
    form, text, expected = CASES[name]
    markers = [marker for marker in FORMATS[form].markers if marker in text]
    if name in SPELLED:
        return
    letters = Letters(**{kind: markers})
    ids = letters.ids(text)
    assert not markers or len(ids) < len(text)
    for options in (None, STRUCTURED):
        assert read(form_of(form, letters), [*ids, 1_200_000], options=options) == expected


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["special", "added"])
def test_text_that_spells_a_marker_is_no_call(form: str, kind: str) -> None:
    for begin in FORMATS[form].begins:
        letters = Letters(**{kind: FORMATS[form].markers})
        for text in (text for name, text, _ in CASES.values() if name == form and text.startswith(begin)):
            assert read(form_of(form, letters), [ord(letter) for letter in text]) == Answer(text)


def test_arguments_come_as_they_are_written() -> None:
    """A call begins before its arguments have ended, and each character is passed on at once."""
    text = '<tool_call>{"name": "note", "arguments": {"text": "abc"}}</tool_call>'
    parser = form_of("hermes").parser((), GenerationOptions())
    seen = [(letter, part) for letter in text for part in parser.push(1, letter)]
    arguments = [(letter, part.text) for letter, part in seen if isinstance(part, CallArguments)]
    assert arguments == [('"', '{"'), *((letter, letter) for letter in 'text": "abc"}')]


def test_a_stop_string_that_holds_text_back() -> None:
    """The text of tokens may come later than they do; markers stay in their places."""
    letters = Letters(special=["[TOOL_CALLS]"])
    parser = form_of("mistral", letters).parser((), GenerationOptions(stop=["bx"]))
    arrived = [(97, "a"), (98, ""), (letters.markers["[TOOL_CALLS]"], ""), (97, "ba"), (100, "d"), (100, "d")]
    arrived += [(ord(letter), letter) for letter in '[ARGS]{"a": 1}']
    parts = [part for token, text in arrived for part in parser.push(token, text)]
    assert joined([*parts, *parser.finish()]) == Answer("ab", [ADD])


def new_id(form: str, text: str) -> str:
    begin = form_of(form).parser((), GenerationOptions()).push(1, text)[0]
    assert isinstance(begin, CallBegin)
    return begin.id


def test_ids_of_calls() -> None:
    ids = {new_id("hermes", '<tool_call>{"name": "add"}</tool_call>') for _ in range(9)}
    assert len(ids) == 9
    assert all(one.startswith("call_") for one in ids)
    short = new_id("mistral", "[TOOL_CALLS]add{}")
    assert len(short) == 9
    assert short.isalnum()


def test_formats_of_templates() -> None:
    assert format_of("{{ messages }}{{ tools }}") is FORMATS["generic"]
    assert format_of("a <tool_call> tag") is FORMATS["hermes"]
    assert format_of("a <tool_call> with <function=f> and <parameter=p>") is FORMATS["qwen3_coder"]
    assert format_of("<tool_call>{name}\n<arg_key>") is FORMATS["generic"]
    assert format_of('<function=f>{"a": 1}</function>') is FORMATS["generic"]


def test_arguments_are_json() -> None:
    for form, text, expected in CASES.values():
        for name, arguments in expected.calls:
            assert name in SCHEMAS
            if "half" not in text and "</par" not in arguments:
                assert isinstance(json.loads(arguments), dict), (form, text)


TEMPLATES = Path(__file__).parents[3] / "tests" / "chat" / "templates"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen2_5", "hermes"), ("qwen3", "hermes"), ("llama3_1", "llama"), ("llama3_2", "llama"),
        ("mistral", "mistral"),
        ("gemma3", "generic"), ("phi3", "generic"), ("smollm2", "generic"),
    ],
)  # fmt: skip
def test_formats_of_public_templates(name: str, form: str) -> None:
    assert format_of((TEMPLATES / f"{name}.jinja").read_text()).name == form


@pytest.mark.parametrize("form", FORMATS)
def test_garbage(form: str) -> None:
    """Pieces of every format in any order: no error, and the same answer however they are cut; no text is lost."""
    words = [" ", "\n", '{"name": "add"', '"arguments": ', '{"a": 1}', '{"tool_calls": [', '{"response": "']
    words += (
        "<tool_call> </tool_call> <function= add> <parameter= a> </parameter> </function> call: [TOOL_CALLS]".split()
    )
    words += "[ARGS] functools[ <start_function_call> <end_function_call> <escape> <think> </think> add note".split()
    words += "<|python_tag|> \\u00 [ ] { } ( ) \" ' \\ : , ; x é = 1".split()
    for seed in range(150):
        draw = random.Random(seed)
        begin = draw.choice([*FORMATS[form].begins, FORMATS[form].opening, "<think>"])
        text = begin + "".join(draw.choices(words, k=draw.randrange(1, 14)))
        expected = read_pieces(form_of(form, reasoning=("<think>", "</think>")), [text])
        assert read_pieces(form_of(form, reasoning=("<think>", "</think>")), list(text)) == expected
        assert read_pieces(form_of(form, reasoning=("<think>", "</think>")), pieces_of(text, seed)) == expected
        if not expected.calls and not expected.reasoning and form != "generic" and not text.startswith("<think>"):
            assert expected.text == text


def test_one_call_alone() -> None:
    """What follows it is left out."""
    for text in (
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n<tool_call>{"name": "note"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call> Done.',
    ):
        for pieces in ([text], list(text)):
            assert read_pieces(replace(form_of("hermes"), parallel=False), pieces) == Answer("", [ADD])
