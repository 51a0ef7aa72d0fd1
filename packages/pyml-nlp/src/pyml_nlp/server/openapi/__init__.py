"""The description of the server's API that it publishes: OpenAPI 3.1, at ``/openapi.json``.

:mod:`.paths` has the routes, :mod:`.openai`, :mod:`.others` and :mod:`.own` the bodies of requests and answers, and
:mod:`.fields` what requests share. It is imported when it is asked for.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pyml_core import __version__

from . import fields, openai, others, own
from .paths import path_items

_ABOUT = """\
Paths that begin with `/v1` answer without it, too. A field that is null is not given. A known field is honoured, or a
hint without an effect; one that would change the text and cannot be honoured is refused, and an unknown one is ignored
and named in the header `x-pyml-ignored`. The schemas of requests have the types and ranges of fields; some
combinations of them are refused as well, with status 400 and the field's name in `param`."""


@cache
def document() -> dict[str, Any]:
    """The description."""
    schemas = {**fields.REQUEST_PARTS, **openai.SCHEMAS, **others.ANTHROPIC, **others.OLLAMA, **own.SCHEMAS}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pyml serve", "version": __version__, "description": _ABOUT, "license": {"name": "MIT"}},
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": path_items(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }
