"""Grammars in llama.cpp's GBNF: what they match, compared with a recogniser of their trees, and what is malformed."""

from __future__ import annotations

import itertools
import random

import pytest
from grammar_makers import Words

from pyml_nlp.structured.gbnf import Chars, Choice, Node, Repeat, Rule, Sequence, Text, Token, parse
from pyml_nlp.structured.gbnf_lark import is_gbnf, to_lark
from pyml_nlp.structured.grammar import Grammar, GrammarError

pytest.importorskip("llguidance")

JSON = r"""
# JSON, with white space where it usually is
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::=
  "\"" (
    [^"\\\x7F\x00-\x1F] |
    "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) # escapes
  )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def ends(rules: dict[str, Node], node: Node, text: str, start: int) -> set[int]:
    """Where matches of a node that begin at ``start`` end. Rules must not begin with themselves."""
    match node:
        case Text(own):
            return {start + len(own)} if text.startswith(own, start) else set()
        case Chars(ranges, negated):
            inside = start < len(text) and any(first <= ord(text[start]) <= last for first, last in ranges) != negated
            return {start + 1} if inside else set()
        case Rule(name):
            return ends(rules, rules[name], text, start)
        case Choice(parts):
            return set().union(*(ends(rules, part, text, start) for part in parts))
        case Sequence(parts):
            places = {start}
            for part in parts:
                places = set().union(*(ends(rules, part, text, place) for place in places))
            return places
        case Repeat(inner, low, high):
            found, places = ({start} if low == 0 else set()), {start}
            for count in range(1, (high or len(text) + low + 1) + 1):
                places = set().union(*(ends(rules, inner, text, place) for place in places))
                found |= places if count >= low else set()
            return found
    raise AssertionError(node)


def matches(rules: dict[str, Node], text: str) -> bool:
    return len(text) in ends(rules, rules["root"], text, 0)


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        (JSON, ['{"a": [1, -2.5e3, "x\\n\\u00e9 é", true], "b":{}}', "{}\n\t"], ["{", "[]", '{"a"; 1}', "{'a': 1}"]),
        ('root ::= word " " word "."\nword ::= [a-z ]+', ["a b c d.", "a b."], ["a.", "a b"]),
        ('root ::= [a-z]+ "ing"', ["running", "inging"], ["ing", "run"]),
        ('root ::= ("- " item)+\nitem ::= [^\\n]+ "\\n"', ["- a b\n- c\n"], ["- a", "a\n"]),
        ('root ::= "\\u00e9" [ぁ-ゟ]+ .', ["éあい!", "éあ\n"], ["e あ", "éあ"]),
        ('root ::= "\\x41\\U0001F600"', ["A😀"], ["A"]),
        ('root ::= [-a] [\\]\\[\\\\"] [a-]', ['-]-', 'a"a', "a\\a"], ["b]a"]),
        (
            'root ::= a "b"? "c"* d+ e{2} "f"{1,} "g"{0,2}\na ::= "a"\nd::="d"\ne ::= "e"',
            ["adeef", "abccddeeffgg"], ["adef", "adeefggg", "abbdeef"],
        ),
        ('root ::= "(" root ")" | ""', ["", "()", "((()))"], ["(", "())"]),
        ('root ::= x |\n  y\nx ::= "x"\n\n\ny ::= "y"', ["x", "y"], ["xy"]),
        ('root ::= "a" # one\n # two\nb ::= "b"', ["a"], ["b"]),
        ('root ::= fooBar foo-bar foo_bar\nfooBar ::= "1"\nfoo-bar ::= "2"\nfoo_bar ::= "3"', ["123"], ["111"]),
        ('\troot ::= ("a" | "b")+ ("b" "c")', ["abbc", "abc"], ["bc", "ab"]),
        ('root ::= "a"{2,3} "a"', ["aaa", "aaaa"], ["aa", "aaaaa"]),
    ],
)  # fmt: skip
def test_texts(source: str, right: list[str], wrong: list[str], words: Words) -> None:
    rules, grammar = parse(source), Grammar("grammar", source)
    for text in right:
        assert matches(rules, text)
        assert words.allows(grammar, text), text
    for text in wrong:
        assert not matches(rules, text)
        assert not words.allows(grammar, text), text


def random_grammar(seed: int) -> str:
    """A few rules over a, b and c; each refers to later ones only, or to itself after a character."""
    draw = random.Random(seed)

    def node(depth: int, later: list[str]) -> str:
        kind = draw.choice(["text", "chars", "rule", "sequence", "choice", "repeat"][: 3 if depth > 2 else 6])
        if kind == "rule" and later:
            return draw.choice(later)
        if kind == "sequence":
            return f"({node(depth + 1, later)} {node(depth + 1, later)})"
        if kind == "choice":
            return f"({node(depth + 1, later)} | {node(depth + 1, later)})"
        if kind == "repeat":
            return f"({node(depth + 1, later)}){draw.choice(['*', '+', '?', '{2}', '{1,2}'])}"
        if kind == "chars":
            return draw.choice(["[a-b]", "[^a]", "[bc]", "."])
        return f'"{draw.choice(["a", "b", "ab", "ca", ""])}"'

    names = ["root", "x", "y"]
    lines = []
    for index, name in enumerate(names):
        body = node(0, names[index + 1 :])
        if draw.random() < 0.3:
            body = f'{body} | "c" {name} {node(2, names[index + 1 :])}'
        lines.append(f"{name} ::= {body}")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(5))
def test_random_grammars(seed: int, words: Words) -> None:
    """Texts match the translation if they match the tree, and only then: short ones, and some of three characters."""
    source = random_grammar(seed)
    rules, grammar = parse(source), Grammar("grammar", source)
    texts = ["".join(text) for length in range(4) for text in itertools.product("abc", repeat=length)]
    for text in [*texts[:13], *random.Random(seed).sample(texts[13:], 8)]:
        assert words.allows(grammar, text) == matches(rules, text), (source, text)


def test_parts_that_cannot_be_mistaken_are_lexemes() -> None:
    """One character after the other would take a hundred times as long."""
    lark = to_lark(JSON)
    terminals = [line for line in lark.splitlines() if line.startswith("L")]
    assert len(terminals) == 4
    assert not any(line.startswith("r") and "c:" in line for line in lark.splitlines())


@pytest.mark.parametrize("seed", range(5))
def test_texts_of_random_choices(seed: int, words: Words) -> None:
    text = words.walk(Grammar("grammar", JSON), random.Random(seed))
    assert text is None or matches(parse(JSON), text)


def test_which_grammars_are_in_gbnf() -> None:
    assert is_gbnf('root ::= "a"')
    assert is_gbnf('# a comment\n  root::="a"')
    assert not is_gbnf('start: "a ::= b"')
    assert not is_gbnf('start: /x/\nx: "::="')


def test_tokens() -> None:
    assert parse("root ::= <[12]> <think> .*")["root"] == Sequence(
        (Token("<[12]>"), Token("<think>"), Repeat(Chars((), True), 0, None))
    )
    assert "<[12]> <think>" in to_lark("root ::= <[12]> <think>")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("root ::= x", "line 1: expected a rule 'x', found none"),
        ('x ::= "a"', "expected a rule root, found none"),
        ('root ::= "a"\nroot ::= "b"', "line 2: expected one rule of the name 'root', found another"),
        ('root ::= "a', "line 1: expected the end of a text or of a set of characters, found the end"),
        ("root ::= [a", "line 1: expected the end of a text or of a set of characters, found the end"),
        ("root ::= []", r"line 1: expected characters between \[ and \], found none"),
        ("root ::= [b-a]", "line 1: expected a range of ascending characters, found 'b' to 'a'"),
        ('root ::=\n ("a"', r"line 2: expected \), found the end"),
        ('root ::= "a")', r"line 1: expected a character, a rule or the end of the line, found '\)'"),
        ('root ::= "\\q"', r"line 1: expected one of \\n .*, found '\\\\q\"'"),
        ('root ::= "\\x4"', r"line 1: expected 2 hexadecimal digits of a character after \\x, found "),
        ('root ::= "\\uD800"', "line 1: expected a character, which half of a surrogate pair is not, found "),
        (
            'root ::= "a"{3,2}',
            "line 1: expected a count whose limits ascend, found '{3,2}'".replace("{3,2}", r"\{3,2\}"),
        ),
        ('root ::= "a"{x}', r"line 1: expected a count such as \{2\}, \{2,\} or \{2,5\}, found '{x}'"),
        ("root ::= !<think>", "line 1: expected a character, a rule or the end of the line, found '!<think>'"),
        ("root ::= < a>", "line 1: expected a token such as "),
        ('root ::= "a"\n= "b"', "line 2: expected the name of a rule, found '= "),
        ('root := "a"\nx ::= "a"', "line 1: expected ::=, found ':= "),
        ("root ::= " + "(" * 100_000, "nested too deeply"),
        (
            "\n".join([*(f"r{i} ::= r{i + 1} | r{i}x" for i in range(999)), 'root ::= "a"']),
            "line 1: expected a rule 'r0x'",
        ),
    ],
)
def test_malformed_grammars(source: str, problem: str, words: Words) -> None:
    with pytest.raises(GrammarError, match=f"^grammar: {problem}") as caught:
        words.vocabulary.matcher(Grammar("grammar", source))
    assert len(str(caught.value)) < 250


def test_long_chains_of_rules() -> None:
    chain = [f'r{i} ::= r{i + 1} "a"?' for i in range(3000)]
    with pytest.raises(GrammarError, match=r"^grammar: expected rules that refer to each other in shorter chains$"):
        to_lark("\n".join(["root ::= r0", *chain, 'r3000 ::= "b"']))
