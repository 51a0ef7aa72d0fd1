"""The documentation has every route of the server."""

from __future__ import annotations

from pathlib import Path

from starlette.routing import Route

from pyml_nlp import LanguageModel
from pyml_nlp.server import app

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_route_is_documented(lm: LanguageModel) -> None:
    text = "".join(page.read_text() for page in sorted(DOCS.glob("serve*.md")))
    routes = {route.path for route in app(lm).routes if isinstance(route, Route)}
    assert len(routes) > 20
    paths = {path.removeprefix("/v1").replace("{name:path}", "{id}") for path in routes}
    paths = {path for path in paths if path != "/" and not path.startswith("/page/")}  # files of the page
    assert [path for path in sorted(paths) if f"{path}`" not in text] == []
