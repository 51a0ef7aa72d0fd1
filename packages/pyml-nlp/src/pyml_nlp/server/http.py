"""The HTTP server that runs the application: uvicorn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

from .. import logs
from .options import ServeOptions
from .service import Service

if TYPE_CHECKING:
    from ..language_model import LanguageModel


def run(load: Callable[[], LanguageModel], options: ServeOptions) -> int:
    """Load a model and serve it until the process is told to end; returns the exit code."""
    try:
        import uvicorn  # of the extra

        from .application import application  # with the libraries of the extra
    except ImportError as error:
        raise PymlError(f'the server needs {error.name}: pip install "pyml-nlp[serve]"') from None
    service = Service(options)
    config = uvicorn.Config(
        application(service), options.host, options.port, log_level="warning", access_log=False, server_header=False
    )
    with load() as lm:
        service.start(lm)
        logs.tell(f"Serving {service.model_name} on http://{options.host}:{options.port}")
        uvicorn.Server(config).run()
    return 0
