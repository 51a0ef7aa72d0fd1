"""Tables of keys: a row for each field, and the kinds of keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pyml_nn.config import Fields, Key, hf
from pyml_nn.errors import ConfigError
from pyml_nn.models import ARCHITECTURES


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_tables_have_a_row_for_each_field(name: str) -> None:
    """A row sets a field of the configuration, and a field without a row has a default."""
    config = ARCHITECTURES[name].Config
    names = {field.name for field in dataclasses.fields(config)}
    required = {field.name for field in dataclasses.fields(config) if field.default is dataclasses.MISSING}
    for rows in (set(config.HF.rows), {*config.GGUF.rows, "vocab_size"}):
        assert required <= rows <= names


def test_a_key_is_read_by_its_kind() -> None:
    def read(key: Key, **values: Any) -> Any:
        return key(Fields(values, "config.json"), {"width": 12})

    assert read(Key("n", int, 1, 9), n=3) == 3
    assert read(Key("x", float, 0, 1, 0.5)) == 0.5
    assert read(Key("x", float, 0, 2), x=2) == 2.0
    assert read(Key("b", bool, default=True)) is True
    assert read(Key("name", {"a": "A"}, default="a")) == "A"
    assert read(Key("n", int, 1, 99, lambda known: 4 * known["width"])) == 48
    assert read(Key("n", int, 1, 99, lambda known: 4 * known["width"]), n=5) == 5
    for key, values, message in (
        (Key("n", int, 1, 9), {}, "n: missing, expected an integer from 1 to 9"),
        (Key("n", int, 1, 9), {"n": 10}, "n: expected an integer from 1 to 9, found 10"),
        (Key("b", bool, default=False), {"b": 1}, "b: expected true or false, found 1"),
        (Key("name", {"a": "A"}), {"name": "b"}, "name: expected one of a, found 'b'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(key, **values)


def test_pinned_keys() -> None:
    table = hf.Table(("llama",), {}, fixed={"use_mrope": False, "extra": None})
    table.read({"model_type": "llama", "use_mrope": False, "extra": None}, "config.json")
    for change, message in (
        ({"use_mrope": True}, "use_mrope: expected false or null"),
        ({"extra": 0}, r"extra: expected null \(pyml supports nothing else here\), found 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            table.read({"model_type": "llama", **change}, "config.json")
