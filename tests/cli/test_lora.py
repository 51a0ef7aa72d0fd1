"""--lora: an adapter of a command, and several of a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from starlette.testclient import TestClient

import pyml_nlp
from pyml_nlp.cli.adapters import adapters_of, chosen_adapter
from pyml_nlp.options.adapters import AdapterFile
from pyml_nlp.server import app
from tests.helpers import tiny_files
from tests.helpers.tiny_adapters import ADAPTERS, write_peft
from tests.helpers.tiny_models import MODELS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    model = tiny_files.write_hf(MODELS["llama"], folder / "model")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    write_peft(ADAPTERS["lora_llama"], folder / "one")
    write_peft(ADAPTERS["lora_llama_qv"], folder / "two")
    return folder


def test_values() -> None:
    here = str(Path.cwd())
    assert adapters_of(["a", "b.gguf:0.5", "x=c/d:-2"], several=True) == (
        AdapterFile(f"{here}/a", "a", 1.0),
        AdapterFile(f"{here}/b.gguf", "b", 0.5),
        AdapterFile(f"{here}/c/d", "x", -2),
    )
    assert chosen_adapter(["n=a"]) == "n"
    assert chosen_adapter([]) is None
    for value, message in (
        (["a", "b"], "--lora is supported once"),
        ([""], "expected .NAME=.PATH.:SCALE."),
        (["a:1.2.3"], "expected .NAME=.PATH.:SCALE."),
        (["a:1e999"], "--lora must be paths and finite scales"),
    ):
        with pytest.raises(click.UsageError, match=message):
            adapters_of(value)


def test_texts(commands: Any, folder: Path) -> None:
    found = []
    for more in ([], ["--lora", folder / "one"], ["--lora", f"{folder / 'one'}:0"]):
        given = ("--prompt", "the cat", "--temperature", "0", "--max-tokens", "12")
        result = commands.infer(folder / "model", *given, *more)
        assert result.code == 0, result.stderr
        found.append(result.text)
    assert found[0] == found[2] != found[1]
    with pyml_nlp.load(folder / "model", adapters=[folder / "one"]) as lm:
        assert found[1] == lm.generate_text("the cat", temperature=0, max_tokens=12, adapter="one")


def test_a_server_has_each_as_a_model(folder: Path) -> None:
    adapters = {"one": folder / "one", "two": folder / "two"}
    with (
        pyml_nlp.load(folder / "model", threads=1, adapters=adapters) as lm,
        TestClient(app(lm), base_url="http://127.0.0.1:8000") as client,
    ):
        listed = client.get("/v1/models").json()["data"]
        assert [item["id"] for item in listed] == ["model", "one", "two"]
        assert [item.get("parent") for item in listed] == [None, "model", "model"]
        assert client.get("/v1/models/two").json()["id"] == "two"
        assert [item["name"] for item in client.get("/api/tags").json()["models"]] == ["model", "one", "two"]
        request = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
        for name in ("model", "one", "two"):
            adapter = None if name == "model" else name
            answer = client.post("/v1/completions", json={**request, "model": name}).json()
            assert answer["model"] == name
            expected = lm.generate_text("the cat", temperature=0, max_tokens=12, adapter=adapter)
            assert answer["choices"][0]["text"] == expected
            assert lm.openai.completions({**request, "model": name})["choices"][0]["text"] == expected
        chat = {
            "messages": [{"role": "user", "content": "the cat"}],
            "max_tokens": 12,
            "temperature": 0,
            "model": "two",
        }
        text = client.post("/v1/chat/completions", json=chat).json()["choices"][0]["message"]["content"]
        assert text == lm.chat_text("the cat", temperature=0, max_tokens=12, adapter="two")
        assert client.post("/v1/messages", json=chat).json()["model"] == "two"
        wrong = client.post("/v1/completions", json={**request, "model": "three"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
        assert "'model', 'one', 'two' are" in wrong.json()["error"]["message"]
