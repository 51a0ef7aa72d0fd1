"""Schemathesis against the published description of the API: ``hatch run schema:test``.

It makes requests of the schemas, valid and not. Each must be answered as the description says: with a status, a content
type and a body that it has. A status of 500 or more is a fault, unless it was asked for.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

import pyml_nlp
from pyml_nlp.server import app
from pyml_nlp.server.openapi.paths import OPERATIONS
from tests.helpers import tiny_files, tiny_models
from tests.server.conftest import TEMPLATE
from tests.server.live import live

schemathesis = pytest.importorskip("schemathesis", reason="hatch run schema:test")

EXAMPLES = int(os.environ.get("PYML_SCHEMA_EXAMPLES", "20"))
"""Requests of each route and mode."""

ROUTES = [one for one in OPERATIONS if one.path != "/v1/trace/live"]
"""All but the stream that does not end."""

MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def statuses() -> Iterator[Counter[int]]:
    """Counts answers by status, and prints them."""
    found: Counter[int] = Counter()
    yield found
    print("answers by status:", dict(sorted(found.items())))
    assert found[200] > 0
    assert found[400] > 0


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory, statuses: Counter[int]) -> Iterator[Any]:
    """The description, as a running server publishes it. Afterwards a text is still the same."""
    folder = tmp_path_factory.mktemp("described") / "tiny-llama"
    tiny_files.write_hf(tiny_models.MODELS["llama"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    served: dict[str, Any] = {"max_queue": 32, "max_output": 8, "request_traces": 4, "timeout": 20, "any_model": True}
    with pyml_nlp.load(folder, threads=1, context_length=256) as lm, live(app(lm, **served)) as server:
        before = lm.generate("the cat", max_tokens=8, seed=3).read()
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
        assert lm.generate("the cat", max_tokens=8, seed=3).read() == before
        assert lm.server.n_running == lm.server.n_waiting == 0


@pytest.mark.parametrize("mode", MODES, ids=["valid", "invalid"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda one: f"{one.method}{one.path}")
def test_requests_of_the_description(schema: Any, statuses: Counter[int], route: Any, mode: Any) -> None:
    if mode is MODES[1] and not route.body:
        pytest.skip("has no body that may be invalid")
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conformance = [
        checks.status_code_conformance, checks.content_type_conformance, checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]  # fmt: skip
    operation = schema[route.path][route.method.upper()]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
        phases=(Phase.generate,), database=None,
    )  # fmt: skip
    def ask(case: Any) -> None:
        response = case.call(timeout=60)
        statuses[response.status_code] += 1
        if response.status_code == 501:
            assert "embed" in route.path, response.text
        elif response.status_code == 504:
            assert "timeout" in json.dumps(case.body, default=str), response.text
        wanted = [] if response.status_code in (501, 504) else [not_a_server_error]
        case.validate_response(response, checks=[*conformance, *wanted])

    ask()
