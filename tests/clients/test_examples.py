"""The examples of docs/server-clients.md, and clients that are not of Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyml_nlp
from pyml_nlp.server import app
from tests.helpers import tiny_files, tiny_models
from tests.helpers.markdown import sessions
from tests.server.conftest import TEMPLATE
from tests.server.live import live

PAGE = Path(__file__).resolve().parents[2] / "docs/server-clients.md"
BLOCKS = [block for session in sessions(PAGE.read_text()) for block in session]


@pytest.fixture(scope="module")
def plain_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model does not reason."""
    folder = tmp_path_factory.mktemp("plain") / "tiny-llama"
    tiny_files.write_hf(tiny_models.MODELS["llama"], folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with pyml_nlp.load(folder, threads=1) as lm, live(app(lm)) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=lambda number: f"line{BLOCKS[number].line}")
def test_example(plain_url: str, number: int) -> None:
    text = BLOCKS[number].text.replace("http://127.0.0.1:8000", plain_url)
    assert plain_url in text
    exec(compile("\n" * BLOCKS[number].line + text, str(PAGE), "exec", dont_inherit=True), {"__name__": "example"})


def test_the_page_has_all_clients() -> None:
    text = "".join(block.text for block in BLOCKS)
    for name in ("openai", "anthropic", "ollama", "litellm", "langchain_openai", "instructor", "pydantic_ai"):
        assert f"import {name}\n" in text or f"from {name}" in text


NODE_EXAMPLE = PAGE.read_text().partition("```js\n")[2].partition("```")[0]
NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "any", maxRetries: 0 });
const messages = [{ role: "user", content: "the cat" }];
const fields = { model: "default", messages, max_tokens: 12, seed: 3 };
const whole = await client.chat.completions.create(fields);
let text = "", last = "";
for await (const chunk of await client.chat.completions.create({ ...fields, stream: true })) {
  text += chunk.choices[0].delta.content ?? "";
  last = chunk.choices[0].finish_reason ?? last;
}
const stream = client.responses.stream({ model: "default", input: "the cat", max_output_tokens: 12 });
for await (const event of stream) void event;
const response = await stream.finalResponse();
console.log(JSON.stringify({ whole: whole.choices[0].message.content, text, last, status: response.status }));
"""


def test_node(plain_url: str, tmp_path: Path) -> None:
    """The package openai of npm, which ``hatch run clients:node`` puts beside the tests."""
    folder, node = Path(__file__).parent / "node_modules", shutil.which("node")
    if node is None or not (folder / "openai").is_dir():
        pytest.skip("needs node and its package openai: hatch run clients:node")
    (tmp_path / "node_modules").symlink_to(folder)
    (tmp_path / "example.mjs").write_text(NODE_EXAMPLE.replace("http://127.0.0.1:8000", plain_url))
    example = subprocess.run([node, "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert example.returncode == 0, example.stderr
    assert example.stdout
    (tmp_path / "client.mjs").write_text(NODE)
    done = subprocess.run([node, "client.mjs", plain_url], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"] == found["whole"]
    assert (found["last"], found["status"]) == ("length", "incomplete")
