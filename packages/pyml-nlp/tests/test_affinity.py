"""Which server a prompt goes to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pyml_nlp.server.affinity import prompt_key, ranked

SYSTEM = {"role": "system", "content": "Be brief."}
FIRST = {"role": "user", "content": "What is a tree?"}


def test_all_turns_of_a_conversation_have_one_key() -> None:
    first = prompt_key({"messages": [SYSTEM, FIRST]})
    answer = {"role": "assistant", "content": "A plant."}
    assert prompt_key({"messages": [SYSTEM, FIRST, answer, {"role": "user", "content": "And?"}]}) == first
    assert prompt_key({"messages": [SYSTEM, {"role": "user", "content": "What is a bush?"}]}) != first
    assert prompt_key({"messages": [FIRST]}) != first
    assert prompt_key({"messages": [SYSTEM, FIRST]}, client="another") != first
    assert prompt_key({"messages": [SYSTEM, FIRST], "cache_salt": "x"}) != first


def test_prompts_that_begin_alike_have_one_key() -> None:
    beginning = "Classify this text. " * 40
    assert prompt_key({"prompt": beginning + "one"}) == prompt_key({"prompt": beginning + "two"})
    assert prompt_key({"prompt": "one"}) != prompt_key({"prompt": "two"})
    assert prompt_key({"prompt": list(range(5000))}) == prompt_key({"prompt": list(range(6000))})
    assert prompt_key({"input": "one"}) == prompt_key({"prompt": "one"})


def test_dialects_have_keys_and_other_bodies_none() -> None:
    parts = [{"type": "text", "text": "What is a tree?"}]
    assert prompt_key({"system": "Be brief.", "messages": [{"role": "user", "content": parts}]})
    assert prompt_key({"instructions": "Be brief.", "input": [{"role": "user", "content": parts}]})
    assert prompt_key({"messages": ["no message"]})
    others: list[Any] = [{}, {"messages": []}, None, [], "text", {"prompt": None}]
    for body in others:
        assert prompt_key(body) == ""


def test_a_key_has_the_same_server_while_there_is_room() -> None:
    names = [f"replica {i}" for i in range(5)]
    loads = dict.fromkeys(names, 0)
    keys = [f"key {i}" for i in range(1000)]
    first = {key: ranked(key, loads, 4)[0] for key in keys}
    assert min(Counter(first.values()).values()) > 140
    del loads[names[2]]
    moved = [key for key in keys if ranked(key, loads, 4)[0] != first[key]]
    assert {first[key] for key in moved} == {names[2]}  # only its own keys move


def test_a_popular_key_spreads_over_all_servers() -> None:
    loads = dict.fromkeys(("a", "b", "c"), 0)
    for _ in range(30):
        loads[ranked("popular", loads, 2)[0]] += 1
    assert max(loads.values()) <= 13  # a quarter more than a third
    assert min(loads.values()) >= 3
    few = dict.fromkeys(("a", "b", "c"), 0)
    for _ in range(2):
        few[ranked("popular", few, 2)[0]] += 1
    assert sorted(few.values()) == [0, 0, 2]  # what is spare needs no help


def test_all_servers_are_ranked() -> None:
    loads = {"a": 9, "b": 9, "c": 8}
    assert sorted(ranked("key", loads, 1)) == ["a", "b", "c"]
    assert ranked("", loads, 1) == ["c", "a", "b"]
    assert ranked("key", {}, 1) == []
