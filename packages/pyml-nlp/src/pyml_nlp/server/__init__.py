"""An HTTP server for a language model: ``pyml serve``, and :func:`app` for other ASGI servers.

:mod:`.application` puts the routes together, :mod:`.service` is the model as they see it, :mod:`.bodies`, :mod:`.sse`
and :mod:`.errors` are what requests and answers have in common. Bodies of the APIs themselves are made in
:mod:`pyml_nlp.openai` and its like, which know no HTTP. Needs the extra ``serve``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .options import ServeOptions

if TYPE_CHECKING:
    from .application import app

__all__ = ["ServeOptions", "app"]


def __getattr__(name: str) -> object:
    if name == "app":  # with the libraries of the extra
        from .application import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
