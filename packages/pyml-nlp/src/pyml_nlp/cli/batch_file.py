"""Batch files: a prompt a line, or with ``.jsonl`` a JSON object a line, with options of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _list_of(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _biases(value: object) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and _number(bias) for key, bias in value.items())


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "a whole number": (_whole, "max_tokens top_k seed logprobs sample keep"),
    "a number": (_number, "temperature top_p min_p typical_p repetition_penalty frequency_penalty presence_penalty"),
    "a string": (_text, "prompt overflow regex grammar"),
    "true or false": (lambda value: isinstance(value, bool), "include_stop"),
    "a string or a list of strings": (lambda value: _text(value) or _list_of(_text)(value), "stop"),
    "a list of whole numbers": (_list_of(_whole), "stop_ids"),
    "a list of strings": (_list_of(_text), "order"),
    "an object of token ids and numbers": (_biases, "logit_bias"),
    "an object": (lambda value: isinstance(value, dict), "schema"),
    "a string or a whole number": (lambda value: _text(value) or _whole(value), "id"),
}  # fmt: skip
KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    key: (check, expected) for expected, (check, keys) in _KINDS.items() for key in keys.split()
}
"""What a line may have, and how it is checked."""


@dataclass(frozen=True)
class Item:
    """One line of a batch file.

    Attributes:
        prompt: its text.
        options: those of :class:`.Request` and :class:`.Sampling` that the line has itself.
        id: what the line calls itself, to be found again in the results.
    """

    prompt: str
    options: Mapping[str, Any] = field(default_factory=dict)
    id: str | int | None = None

    def request_options(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Those of its :class:`.Request`: its own, else the defaults.

        Raises:
            PymlError: a value out of its range.
        """
        from ..structured.grammar import one_grammar

        own = dict(self.options)
        grammars = {key: own.pop(key) for key in ("schema", "regex", "grammar") if key in own}
        sampling = defaults["sampling"]
        rules = {name: own.pop(name) for name in list(own) if name in sampling.__dataclass_fields__}
        if "logit_bias" in rules:
            rules["logit_bias"] = {int(token): bias for token, bias in rules["logit_bias"].items()}
        options = {**defaults, **own, "sampling": replace(sampling, **rules)}
        return options | ({"grammar": one_grammar(**grammars)} if grammars else {})


def read(path: str) -> list[Item]:
    """The lines that are not blank.

    Raises:
        PymlError: the file cannot be read, has no line, or a line that is malformed: it is named.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise PymlError(f"Failed to read batch file: {path}: {getattr(error, 'strerror', None) or error}") from None
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise PymlError(f"Batch file is empty: {path}")
    if not path.lower().endswith(".jsonl"):
        return [Item(line) for _, line in lines]
    items = []
    for number, line in lines:
        try:
            items.append(_item(line))
        except ValueError as error:
            raise PymlError(f"{path} line {number}: {error}") from None
    return items


def _item(line: str) -> Item:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a JSON object ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, found {line:.40}")
    for key, value in values.items():
        if key not in KEYS:
            raise ValueError(f"unknown key {key[:40]!r}, expected {', '.join(sorted(KEYS))}")
        check, expected = KEYS[key]
        if not check(value):
            raise ValueError(f"{key}: expected {expected}, found {json.dumps(value):.40}")
    if not values.get("prompt", "").strip():
        raise ValueError("expected a prompt")
    return Item(values.pop("prompt"), values, values.pop("id", None))
