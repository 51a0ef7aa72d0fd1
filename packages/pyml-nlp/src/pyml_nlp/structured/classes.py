"""JSON schemas of Python classes: pydantic models, dataclasses, TypedDicts and types of ``typing``.

pydantic is not needed for it: a class that has ``model_json_schema`` is asked for its schema.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, is_typeddict

from pyml_core.errors import quoted

from .errors import GrammarError

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    None: {"type": "null"},
    dict: {"type": "object"},
    list: {"type": "array"},
    Any: {},
}


def is_class(value: object) -> bool:
    """Whether :func:`schema_of` is meant: a class, a type of ``typing``, or an object that makes schemas."""
    made = callable(getattr(value, "model_json_schema", None)) or callable(getattr(value, "json_schema", None))
    return made or isinstance(value, type | types.UnionType) or get_origin(value) is not None


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a class.

    Args:
        kind: a class with ``model_json_schema`` (pydantic's models), an object with ``json_schema`` (its TypeAdapter),
            a dataclass, a TypedDict, an enumeration, or ``str``, ``int``, ``float``, ``bool``, ``Literal``, unions,
            ``list``, ``tuple`` and ``dict`` of these. Fields with a default may be left out by the model.

    Raises:
        GrammarError: a part has no schema; the message names it.
    """
    for name in ("model_json_schema", "json_schema"):
        make = getattr(kind, name, None)
        if callable(make):
            try:
                schema = make()
            except Exception as error:  # of code that is not ours
                raise GrammarError(f"schema: {_name(kind)}.{name} failed: {quoted(error)}") from None
            if not isinstance(schema, dict):
                raise GrammarError(f"schema: expected a JSON object from {_name(kind)}.{name}, got {quoted(schema)}")
            return schema
    definitions: dict[str, Any] = {}
    schema = _Schemas(definitions).of(kind, _name(kind))
    return {**schema, "$defs": definitions} if definitions else schema


class _Schemas:
    """Makes the schemas of one class and of the classes in its fields, which are definitions: they may be recursive."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions
        self._names: dict[Any, str] = {}

    def of(self, kind: Any, where: str) -> dict[str, Any]:
        """The schema of a type; ``where`` names it in messages."""
        try:
            if kind in _PLAIN:
                return dict(_PLAIN[kind])
        except TypeError:  # what cannot be hashed is no type
            raise _refused(kind, where) from None
        origin, arguments = get_origin(kind), get_args(kind)
        if origin in (typing.Annotated, typing.Required, typing.NotRequired):
            return self.of(arguments[0], where)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(part, where) for part in arguments]}
        if origin in (list, set, frozenset, Sequence):
            return {"type": "array", "items": self.of(arguments[0], f"{where}[]")}
        if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self.of(arguments[0], f"{where}[]")}
        if origin is tuple:
            items = [self.of(part, f"{where}[{index}]") for index, part in enumerate(arguments)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if origin in (dict, Mapping) and arguments[0] is str:
            return {"type": "object", "additionalProperties": self.of(arguments[1], f"{where}.*")}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [member.value for member in kind]}
        if isinstance(kind, type) and (is_dataclass(kind) or is_typeddict(kind)):
            return self._reference(kind, where)
        if callable(getattr(kind, "model_json_schema", None)):
            raise GrammarError(f"schema: {where}: expected models of pydantic in models of pydantic alone")
        raise _refused(kind, where)

    def _reference(self, kind: Any, where: str) -> dict[str, Any]:
        if kind not in self._names:
            name = kind.__name__
            while name in self._definitions:
                name += "_"
            self._names[kind], self._definitions[name] = name, {}
            try:
                hints = typing.get_type_hints(kind, include_extras=True)
            except NameError as error:
                raise GrammarError(f"schema: {where}: {error}") from None
            if is_typeddict(kind):
                required = [key for key, hint in hints.items() if _is_required(key, hint, kind)]
            else:
                required = [
                    one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING
                ]
                hints = {one.name: hints[one.name] for one in fields(kind)}
            self._definitions[name] = {
                "type": "object",
                "properties": {key: self.of(hint, f"{where}.{key}") for key, hint in hints.items()},
                "required": required,
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{self._names[kind]}"}


def _is_required(key: str, hint: Any, kind: Any) -> bool:
    """Whether a TypedDict must have a key; its own list does not see marks in annotations that are texts."""
    origin = get_origin(hint)
    if origin in (typing.Required, typing.NotRequired):
        return origin is typing.Required
    return key in kind.__required_keys__


def _refused(kind: Any, where: str) -> GrammarError:
    return GrammarError(f"schema: {where}: expected a type that JSON has, got {quoted(kind)}")


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or quoted(kind)
