"""The page for a browser: files of the package, which a browser asks for again and gets when they have changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..guard_answers import PAGE

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"


def routes() -> list[Route]:
    """GET /: the page. GET /page/...: its style sheet, scripts and image, a route for each."""
    found = {name: "/" if name == INDEX else f"/page/{name}" for name in sorted(contents())}
    return [Route(path, _served(name), methods=["GET"]) for name, path in found.items()]


@cache
def contents() -> dict[str, tuple[bytes, str]]:
    """Content and ETag of each file of the page."""
    found = {}
    for entry in files("pyml_nlp.server").joinpath("page").iterdir():
        if entry.name.endswith(tuple(_TYPES)):
            data = entry.read_bytes()
            found[entry.name] = data, f'"{sha256(data).hexdigest()[:24]}"'
    return found


def _served(name: str) -> Callable[[Request], Awaitable[Response]]:
    data, etag = contents()[name]
    kept = {"etag": etag, "cache-control": "no-cache"}
    content_type = _TYPES["." + name.rpartition(".")[2]]
    headers = {**kept, **{key.decode(): value.decode() for key, value in PAGE}, "content-type": content_type}

    async def respond(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=kept)
        return Response(data, headers=headers)

    return respond
