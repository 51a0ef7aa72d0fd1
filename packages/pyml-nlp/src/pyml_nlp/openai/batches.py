"""Batch files in the form of OpenAI's API: a request a line, and an answer a line."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from pyml_core.errors import PymlError, one_line, quoted

from ..errors import ArgumentError
from ..text_files import MAX_NAME, decoded, parse_json
from ..values import choice, text
from .errors import error_body, error_status
from .fields import Fields

PathLike = str | os.PathLike[str]

Calls = Mapping[str, Callable[[Mapping[str, Any]], Any]]
"""By URL: the method that answers the body of a request."""


def answered(calls: Calls, lines: Iterable[Mapping[str, Any]], at_a_time: int) -> Iterator[dict[str, Any]]:
    """Answer requests in their order, with ``at_a_time`` of them in the works."""
    waiting = iter(lines)
    with ThreadPoolExecutor(at_a_time, "pyml-batch") as pool:
        running: deque[Future[dict[str, Any]]] = deque()
        try:
            running.extend(pool.submit(answer, calls, line) for line in islice(waiting, 2 * at_a_time))
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(answer, calls, line) for line in islice(waiting, 1))
        finally:
            for future in running:
                future.cancel()


def answer(calls: Calls, line: Any) -> dict[str, Any]:
    """The line of the result file for a line of the batch file."""
    name: str | None = None
    try:
        fields = Fields(line, "line")
        name = text("custom_id", fields.required("custom_id"))
        choice("method", fields.required("method"), ("POST",))
        url = choice("url", fields.required("url"), tuple(calls))
        body = fields.required("body")
        fields.finish(("custom_id", "method", "url", "body"))
        if isinstance(body, Mapping) and body.get("stream"):
            raise ArgumentError("is not supported in batches", "stream")
        status, found = 200, calls[url](body)
    except PymlError as error:
        status, found = error_status(error), error_body(error)
    number = os.urandom(12).hex()
    response = {"status_code": status, "request_id": f"req_{number}", "body": found}
    return {"id": f"batch_req_{number}", "custom_id": name, "response": response, "error": None}


def answer_file(calls: Calls, source: PathLike, target: PathLike, at_a_time: int) -> int:
    """Answer a file; see :meth:`.OpenAI.batch_file`."""
    if not all(isinstance(path, str | os.PathLike) for path in (source, target)):
        raise ArgumentError(f"must be paths, got {quoted(source)} and {quoted(target)}", "source and target")
    failed = 0
    try:
        with Path(source).open("rb") as file:
            lines = [_parsed(line) for line in file if line.strip()]
        with Path(target).open("w", encoding="utf-8") as out:
            for found in answered(calls, lines, at_a_time):
                failed += found["response"]["status_code"] != 200
                out.write(json.dumps(found, ensure_ascii=False) + "\n")
                out.flush()
    except OSError as error:
        name = one_line(str(error.filename or source), MAX_NAME)
        raise PymlError(f"{name}: {error.strerror or error}") from None
    return failed


def _parsed(line: bytes) -> Any:
    """The object of a line; one that is no JSON is its own text, which is refused as a request."""
    try:
        return parse_json(decoded(line))
    except ValueError:
        return line.decode("utf-8", "replace").strip()
