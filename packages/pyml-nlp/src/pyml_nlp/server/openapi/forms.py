"""Short names for the parts of JSON schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
OBJECT: Schema = {"type": "object"}
ANY: Schema = {}


def ref(name: str) -> Schema:
    """A schema of the document, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def whole(low: int | None = None, high: int | None = None) -> Schema:
    """Whole numbers in a range, inclusive."""
    return {"type": "integer", **_limits(minimum=low, maximum=high)}


def number(low: float | None = None, high: float | None = None, **more: Any) -> Schema:
    """Numbers in a range, inclusive."""
    return {"type": "number", **_limits(minimum=low, maximum=high), **more}


def one_of(*values: str) -> Schema:
    """One of several texts."""
    return {"type": "string", "enum": list(values)}


def any_of(*schemas: Schema) -> Schema:
    """What at least one of the schemas allows."""
    return {"anyOf": list(schemas)}


def many(items: Schema, low: int | None = None, high: int | None = None) -> Schema:
    """Lists."""
    return {"type": "array", "items": items, **_limits(minItems=low, maxItems=high)}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]} if _plain(schema) else any_of(schema, {"type": "null"})


def given(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Objects of a request: null stands for an optional field that is not given. Unknown fields are allowed."""
    properties = {**required, **{name: nullable(schema) for name, schema in (optional or {}).items()}}
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def made(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """Objects of an answer, which have no other fields."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def described(schema: Schema, text: str) -> Schema:
    """A schema with a description."""
    return {**schema, "description": text}


def names(schemas: Mapping[str, Schema], wanted: Sequence[str]) -> dict[str, Schema]:
    """Some of the schemas, by name."""
    return {name: schemas[name] for name in wanted}


def _plain(schema: Schema) -> bool:
    return isinstance(schema.get("type"), str) and "enum" not in schema and "const" not in schema


def _limits(**limits: float | None) -> Schema:
    return {name: value for name, value in limits.items() if value is not None}
