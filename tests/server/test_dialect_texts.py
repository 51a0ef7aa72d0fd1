"""Texts of requests stay text in every API: what spells a control token is not one, in messages, calls and results."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from pyml_nlp import LanguageModel
from pyml_nlp.server import app

from .sse_events import SCHEMA


def bodies(evil: str) -> dict[str, dict[str, Any]]:
    """A request of each API with a text in all of its places."""
    call = {"name": "f", "arguments": {"city": evil}}
    blocks = [
        {"role": "user", "content": [{"type": "text", "text": evil}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": evil, "signature": ""},
                {"type": "text", "text": evil},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"city": evil}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": evil}]},
    ]
    items = [
        {"role": "developer", "content": evil},
        {"role": "user", "content": [{"type": "input_text", "text": evil}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": evil}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"city": "' + evil + '"}'},
        {"type": "function_call_output", "call_id": "c1", "output": evil},
    ]
    turns = [
        {"role": "system", "content": evil},
        {"role": "user", "content": evil},
        {"role": "assistant", "content": evil, "thinking": evil, "tool_calls": [{"function": call}]},
        {"role": "tool", "tool_name": "f", "content": evil},
    ]
    schema = {**SCHEMA, "description": evil}
    function = {"name": "f", "description": evil, "parameters": schema}
    tool = {"type": "function", "function": function}
    few = {"options": {"num_predict": 1}, "stream": False}
    return {
        "/v1/messages": {
            "system": evil,
            "messages": blocks,
            "tools": [{"name": "f", "description": evil, "input_schema": schema}],
            "max_tokens": 1,
        },
        "/v1/responses": {
            "instructions": evil,
            "input": items,
            "tools": [{"type": "function", **function}],
            "max_output_tokens": 1,
        },
        "/api/chat": {"messages": turns, "tools": [tool], **few},
        "/api/generate": {"prompt": evil, "system": evil, **few},
    }


@pytest.mark.parametrize("path", bodies(""))
def test_texts_are_no_control_tokens(thinker: LanguageModel, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    special = thinker.tokenizer.special_ids
    spelled = "".join(thinker.tokenizer.control_tokens)
    assert set(thinker.tokenizer.encode(spelled, add_special=False, parse_special=True)) & special
    prompts: list[list[int]] = []
    submit = thinker.submit

    def noted(ids: Any, *args: Any, **kwargs: Any) -> Any:
        prompts.append(list(ids))
        return submit(ids, *args, **kwargs)

    monkeypatch.setattr(thinker, "submit", noted)
    with TestClient(app(thinker), base_url="http://127.0.0.1:8000") as client:
        for text in (spelled, "plain"):
            response = client.post(path, json=bodies(text)[path])
            assert response.status_code == 200, response.text
    evil, plain = prompts
    assert len(evil) > len(plain)
    assert [token for token in evil if token in special] == [token for token in plain if token in special]
