"""Requests of the operator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pyml_core.errors import OutOfMemoryError, PymlError, quoted

from ..bodies import json_body
from ..errors import RequestError
from ..service import Service


async def reload(request: Request) -> Response:
    """POST /admin/reload: load the model again, or another one of the operator's folder, and serve it from then on."""
    service: Service = request.app.state.service
    options = service.options
    if not options.api_keys and options.api_key_file is None:
        raise RequestError(403, "a reload needs a server with API keys", code="key_required")
    if service.reload is None:
        raise RequestError(501, "this server cannot load models", code="not_supported")
    empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    body = {} if empty else await json_body(request, service)
    path = model_path(body.get("model"), options.models)
    start = time.monotonic()
    try:
        name = await service.reload(path)
    except OutOfMemoryError:
        raise
    except (PymlError, OSError) as error:  # the model's files are at fault, and the present model stays
        raise RequestError(400, str(error), param="model", code="model_not_loaded") from None
    return JSONResponse({"status": "ok", "model": name, "seconds": round(time.monotonic() - start, 3)})


def model_path(name: Any, folder: Path | None) -> Path | None:
    """The path of a model in the operator's folder; None: of the model that is served.

    Raises:
        RequestError: there is no folder, or no such model in it.
    """
    if name is None:
        return None
    if folder is None:
        raise RequestError(403, "a model can be named only where the server has a folder of them", param="model")
    root = folder.resolve()
    missing = RequestError(404, f"no model {quoted(name)} in the folder", param="model", code="model_not_found")
    if not isinstance(name, str) or not name or "\0" in name:
        raise missing
    try:
        path = (root / name).resolve()
        if path == root or not path.is_relative_to(root) or not path.exists():
            raise missing
    except (OSError, RuntimeError):  # a name that is too long, or links in a circle
        raise missing from None
    return path
