"""The process that renders chat templates, started by :mod:`.renderer`: one JSON line in, one JSON line out.

Templates come with models and are not trusted. Jinja's sandbox denies access to Python's objects, but does not prevent
endless loops or filling the memory. The kernel does: a signal ends the process when a request has used up its processor
time, allocations fail beyond a limit of address space, and no file can be written. The parent process sees how it
ended.

Run as ``python -I -S worker.py SECONDS MEGABYTES CHARACTERS FOLDER...``; the folders are those of jinja2 and its
dependencies. The environment is that of transformers (``utils/chat_template_utils.py``): trimmed blocks, ``tojson``
without escapes for HTML, ``raise_exception``, ``strftime_now``, loop controls, the ``generation`` tag.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any

MAX_MESSAGE = 500  # maximum length of an error message


def restrict(megabytes: int) -> None:
    """Set permanent limits for this process."""
    if sys.platform != "darwin":  # macOS does not enforce this limit, and refuses to set it
        wanted, allowed = megabytes << 20, resource.getrlimit(resource.RLIMIT_AS)[1]
        size = wanted if allowed == resource.RLIM_INFINITY else min(wanted, allowed)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the process, without running Python code
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def serve(seconds: float, max_characters: int) -> None:
    """Answer requests until the input ends."""
    renderer = Renderer(max_characters)
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer = renderer.answer(json.loads(line))
        except MemoryError:
            answer = {"error": "it needs more memory than a template may have"}
        except RecursionError:
            answer = {"error": "it is nested too deeply"}
        data = json.dumps(answer).encode() + b"\n"
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


class Renderer:
    """Compiles and renders templates; keeps the last compiled one."""

    def __init__(self, max_characters: int) -> None:
        self._max_characters = max_characters
        self._environment = environment()
        self._last: tuple[str, Any] = ("", None)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return ``{"text": ...}`` or ``{"error": ...}`` for ``{"source": ..., "variables": {...}}``.

        Without variables it is ``{"names": [...]}``: those of the variables that the template reads.
        """
        from jinja2 import TemplateSyntaxError, meta  # after sys.path has its folder

        try:
            if "variables" not in request:
                names = meta.find_undeclared_variables(self._environment.parse(request["source"]))
                return {"names": sorted(names)}
            return self._render(request["source"], request["variables"])
        except (MemoryError, RecursionError):
            raise
        except Raised as error:
            return {"error": str(error.args[0])[:MAX_MESSAGE]}
        except TemplateSyntaxError as error:
            return {"error": f"line {error.lineno}: {error.message}"[:MAX_MESSAGE]}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:MAX_MESSAGE]}

    def _render(self, source: str, variables: dict[str, Any]) -> dict[str, Any]:
        if self._last[0] != source or self._last[1] is None:
            self._last = (source, self._environment.from_string(source))
        pieces: list[str] = []
        size = 0
        for piece in self._last[1].generate(variables):
            size += len(piece)
            if size > self._max_characters:
                return {"error": f"it writes more than {self._max_characters} characters"}
            pieces.append(piece)
        return {"text": "".join(pieces)}


class Raised(Exception):
    """Raised by a template with ``raise_exception``."""


def environment() -> Any:
    """Return the sandbox with transformers' additions."""
    from jinja2 import nodes  # after sys.path has its folder
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class GenerationTag(Extension):
        """``{% generation %}``: marks an assistant's text for training. Its content is rendered unchanged."""

        tags = {"generation"}  # noqa: RUF012  (Jinja's way)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.CallBlock(self.call_method("_rendered"), [], [], body).set_lineno(line)

        def _rendered(self, caller: Any) -> Any:
            return caller()

    class PlainNamespace(Namespace):
        """A namespace that refuses names with a leading underscore."""

        def __init__(*args: Any, **names: Any) -> None:  # no self, which is a legal name in a namespace
            for name in dict(*args[1:], **names):
                PlainNamespace.check(name)
            Namespace.__init__(*args, **names)

        def __setitem__(self, name: str, value: Any) -> None:
            PlainNamespace.check(name)
            Namespace.__setitem__(self, name, value)

        @staticmethod
        def check(name: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise SecurityError(f"the name {name!r} begins with an underscore")

    class PlainDict:
        """``dict`` without the attributes of the type."""

        def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
            return dict(*args, **items)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: Any) -> None:
        raise Raised(message)

    def strftime_now(format: str) -> str:
        return datetime.now().strftime(format)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols], autoescape=False
    )
    sandbox.filters["tojson"] = to_json
    sandbox.globals |= {
        "dict": PlainDict(),
        "namespace": PlainNamespace,
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
    }
    del sandbox.globals["lipsum"]
    return sandbox


if __name__ == "__main__":
    restrict(int(sys.argv[2]))
    sys.path += sys.argv[4:]
    serve(float(sys.argv[1]), int(sys.argv[3]))
