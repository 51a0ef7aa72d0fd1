"""From names to files: paths, environment, the hub (a stand-in on loopback, asked from processes of their own)."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import writers
from hub_stand_in import COMMIT, SCRIPT, Hub, Repository, environment, resolved

from pyml_nlp.errors import ModelFileError, ModelNotFoundError
from pyml_nlp.source import Source, check_name, is_hub_id, resolve

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WEIGHTS = [writers.safetensors({name: ("F32", (1000,), writers.floats(1000))}) for name in "ab"]
SMALL = {"config.json": b'{"model_type": "gpt2"}', "tokenizer.json": b"{}"}
SINGLE = {**SMALL, "model.safetensors": WEIGHTS[0]}
SHARDED = {
    **SMALL,
    "README.md": b"not wanted",
    "pytorch_model.bin": b"not wanted",
    "modeling_evil.py": b"not wanted",
    "consolidated.safetensors": b"not wanted",
    "model.safetensors.index.json": json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode(),
    **dict(zip(SHARDS, WEIGHTS, strict=True)),
}
GGUF = writers.join(writers.gguf({}, {"w": ("f32", (100,), writers.floats(100))}))
SPLIT = {f"q4/m-0000{number}-of-00003.gguf": GGUF + bytes([number]) for number in (1, 2, 3)}


class Run:
    """One process that asked for many models with a token, and the stand-in that answered."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.hub = Hub(
            {
                "org/sharded": Repository(SHARDED),
                "org/single": Repository(SINGLE),
                "org/resumed": Repository(SINGLE, drop=1),
                "org/gated": Repository(SINGLE, gated=True),
                "org/cut": Repository(SINGLE, cut=1000),
                "org/damaged": Repository(SINGLE, damaged=True),
                "org/holed": Repository({name: raw for name, raw in SHARDED.items() if name != SHARDS[1]}),
                "org/pickled": Repository({**SMALL, "pytorch_model.bin": b"\x80\x04."}),
                "org/ggufs": Repository({"README.md": b"", "q4.gguf": GGUF, "sub/q8.gguf": GGUF}),
                "org/split": Repository({**SPLIT, "q5-00001-of-00002.gguf": GGUF}),
                "org/nothing": Repository({"README.md": b""}),
            }
        )
        names = [
            *self.hub.repositories,
            "org/absent",
            "org/ggufs/q4.gguf",
            "org/ggufs/sub/q8.gguf",
            "org/ggufs/q5.gguf",
            "org/split/q4/m-00002-of-00003.gguf",
            "org/split/q5-00001-of-00002.gguf",
        ]
        with self.hub:
            self.endpoint = self.hub.endpoint
            self.found, self.stderr = resolved(names, environment(home, self.endpoint, HF_TOKEN="secret"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("home"))


def test_download_of_a_folder(run: Run) -> None:
    """Only necessary files are downloaded, all of one commit, and nothing is printed without a terminal."""
    for name, files in (("org/sharded", SHARDED), ("org/single", SINGLE)):
        found = run.found[name]
        assert found["kind"] == "folder"
        assert found["notes"] == [f"Downloading model: {name}"]
        folder = Path(str(found["path"]))
        assert folder.is_relative_to(run.home)
        assert folder.name == COMMIT
        wanted = {name for name in files if name not in ("README.md", "pytorch_model.bin", "modeling_evil.py")}
        assert {path.name for path in folder.iterdir()} == wanted - {"consolidated.safetensors"}
        for path in folder.iterdir():
            assert path.read_bytes() == files[path.name]
    assert "%|" not in run.stderr


def test_download_of_a_gguf_file(run: Run) -> None:
    for name in ("org/ggufs/q4.gguf", "org/ggufs/sub/q8.gguf"):
        assert run.found[name]["kind"] == "gguf"
        assert Path(str(run.found[name]["path"])).read_bytes() == GGUF
        assert run.found[name]["notes"] == [f"Downloading model: {name}"]


def test_download_of_a_split_model(run: Run) -> None:
    """All parts arrive, of one commit, whichever of them is named."""
    name = "org/split/q4/m-00002-of-00003.gguf"
    path = Path(str(run.found[name]["path"]))
    assert run.found[name]["notes"] == [f"Downloading model: {name}"]
    assert path.name == "m-00002-of-00003.gguf"
    assert path.parent.parent.name == COMMIT
    assert {f"q4/{part.name}": part.read_bytes() for part in path.parent.iterdir()} == SPLIT
    assert run.found["org/split/q5-00001-of-00002.gguf"]["error"] == (
        "org/split: the repository has no file q5-00002-of-00002.gguf"
    )


def test_broken_connection_is_resumed(run: Run) -> None:
    assert (Path(str(run.found["org/resumed"]["path"])) / "model.safetensors").read_bytes() == WEIGHTS[0]


def test_token_goes_to_the_endpoint_only(run: Run) -> None:
    tokens = {
        server: {request.token for request in run.hub.requests if request.server == server}
        for server in ("hub", "store")
    }
    assert "Bearer secret" in tokens["hub"]
    assert tokens["store"] == {None}


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("org/gated", "ModelNotFoundError", r"^org/gated: a gated model: accept its terms at http://\S+/org/gated, then set HF_TOKEN"),
        ("org/absent", "ModelNotFoundError", r"^org/absent: neither a local file or folder nor a model on http://\S+; if it is private"),
        ("org/cut", "ModelNotFoundError", r"^org/cut: not in the cache, and cannot be downloaded from http://\S+: .*should be of size"),
        ("org/damaged", "ModelFileError", r"model\.safetensors: damaged in transfer: expected SHA-256 [0-9a-f]{64}, got "),
        ("org/holed", "ModelNotFoundError", r"^org/holed: the repository has no model-00002-of-00002\.safetensors, which its index names"),
        ("org/pickled", "ModelFileError", r"^org/pickled: holds only pickled weights \('pytorch_model\.bin'\), .* never read"),
        ("org/ggufs", "ModelNotFoundError", r"^org/ggufs: holds GGUF files; name one of them: org/ggufs/q4\.gguf$"),
        ("org/nothing", "ModelNotFoundError", r"^org/nothing: holds no config\.json with model\.safetensors, and no GGUF file"),
        ("org/ggufs/q5.gguf", "ModelNotFoundError", r"^org/ggufs: the repository has no file q5\.gguf"),
    ],
)  # fmt: skip
def test_what_cannot_be_had(run: Run, name: str, kind: str, message: str) -> None:
    found = run.found[name]
    assert found.get("type") == kind
    assert "\n" not in str(found["error"])
    assert re.search(message, str(found["error"])), found["error"]


def test_nothing_broken_stays_in_the_cache(run: Run) -> None:
    """Neither a short nor a damaged file is ever visible under its name."""
    for name in ("cut", "damaged", "gated"):
        visible = list((run.home / "hub" / f"models--org--{name}").glob("snapshots/*/model.safetensors"))
        assert visible == []


def test_cache_needs_no_network(run: Run) -> None:
    """Cached files are found although the endpoint is gone; missing ones give one line with advice."""
    split = ["org/split/q4/m-00001-of-00003.gguf", "org/split/q5-00001-of-00002.gguf"]
    names = ["org/sharded", "org/ggufs/q4.gguf", *split, "org/absent", "org/damaged"]
    found, _ = resolved(names, environment(run.home, "http://127.0.0.1:9"))
    assert found[split[0]]["notes"] == [f"Using cached model: {split[0]}"]
    assert "cannot be downloaded" in str(found[split[1]]["error"])  # a part of it is there
    assert found["org/sharded"] == {**run.found["org/sharded"], "notes": ["Using cached model: org/sharded"]}
    assert found["org/ggufs/q4.gguf"]["notes"] == ["Using cached model: org/ggufs/q4.gguf"]
    for name in ("org/absent", "org/damaged"):
        assert re.search(
            rf"^{name}: not in the cache, and cannot be downloaded from http://127\.0\.0\.1:9: .*refused.*; check the network",
            str(found[name]["error"]),
        )


def test_offline(run: Run) -> None:
    names = ["org/sharded", "org/ggufs/sub/q8.gguf", "org/absent", "org/absent/x.gguf"]
    found, _ = resolved(names, environment(run.home, "http://127.0.0.1:9", HF_HUB_OFFLINE="1"))
    assert found["org/sharded"]["path"] == run.found["org/sharded"]["path"]
    assert found["org/ggufs/sub/q8.gguf"]["path"] == run.found["org/ggufs/sub/q8.gguf"]["path"]
    for name in ("org/absent", "org/absent/x.gguf"):
        assert re.search(
            r"^org/absent: not in the cache \(\S+/hub\), and HF_HUB_OFFLINE forbids to download it: unset that, or give",
            str(found[name]["error"]),
        )


def test_a_cache_that_cannot_be_written_to(tmp_path: Path) -> None:
    """A file is where the cache's folder should be; nothing is said of the network, and stderr may be closed."""
    (tmp_path / "home").write_text("a file")
    with Hub({"org/single": Repository(SINGLE)}) as hub:
        env = environment(tmp_path / "home", hub.endpoint, HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
        found, stderr = resolved(["org/single"], env)
        closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", SCRIPT, "org/single"]
        done = subprocess.run(closed, env=env, capture_output=True, text=True, check=True)
    assert stderr == ""
    for error in (str(found["org/single"]["error"]), json.loads(done.stdout)["error"]):
        assert re.search(
            r"^org/single: not in the cache, and cannot be downloaded to it: \S+home\S*: (Not a directory|File exists); "
            "HF_HOME names another folder$",
            error,
        )


def test_progress_bar_on_a_terminal_and_accepted_terms(tmp_path: Path) -> None:
    """stderr is a terminal here, and the token is that of an account which has accepted the terms."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with Hub({"org/gated": Repository(SINGLE, gated=True)}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, "org/gated"],
            env=environment(tmp_path, hub.endpoint, HF_TOKEN="accepted"),
            stdout=subprocess.PIPE,
            stderr=slave,
            check=True,
        )
    os.close(slave)
    shown = os.read(master, 1 << 16)
    os.close(master)
    assert json.loads(done.stdout)["kind"] == "folder"
    assert b"%|" in shown


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "m.gguf", tmp_path / "org" / "model"
    file.write_bytes(GGUF)
    folder.mkdir(parents=True)
    assert resolve(file) == Source("gguf", file, str(file))
    assert resolve(str(folder)) == Source("folder", folder, str(folder))
    monkeypatch.chdir(tmp_path)
    assert resolve("org/model") == Source("folder", Path("org/model"), "org/model")  # a path before a hub id
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/m.gguf").path == file
    monkeypatch.setenv("PYML_MODEL", str(file))
    assert resolve() == Source("gguf", file, str(file))


@pytest.mark.parametrize(
    "name",
    ["absent", "absent.gguf", "models/absent.gguf", "./org/model", "../org/model", "/org/model", "~/org/model", "a//b", "a/b/c"]
    + ["a/..", "a/../b.gguf", "a/b/../c.gguf", "a b/c", "-a/b", "a/b\n", "a\\b/c", "ä/b", "a/b/c.gguf.bin", "https://hub/a/b"],
)  # fmt: skip
def test_neither_path_nor_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelNotFoundError, match="there is no such file or folder, and a hub id would be organisation/name"
    ):
        resolve(name)


def test_refused_paths(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(WEIGHTS[0])
    with pytest.raises(
        ModelFileError, match=r"model\.safetensors: expected a \.gguf file or a model folder; give the folder"
    ):
        resolve(weights)
    with pytest.raises(ModelNotFoundError, match="got an empty name"):
        resolve("")


def test_hub_library_is_not_imported_for_paths(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(GGUF)
    code = "import sys; from pyml_nlp.source import resolve; resolve(sys.argv[1]); sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "m.gguf"], env=environment(tmp_path, ""), check=True)


# ---- names that nothing has


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gemma-3-270m", "gemma-3-270m-q4_k_m.gguf"),  # a default model by the beginning of its name
        ("SmolLM2-135M-Instruct.Q4-1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("lama.gguf", "llama.gguf"),  # a file here
        ("models/qwem.gguf", "models/qwen.gguf"),
        ("gem", None),  # too short to mean one
        ("notes.gguf", None),
        ("nowhere/qwen.gguf", None),
    ],
)
def test_what_was_probably_meant(name: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    for path in ("llama.gguf", "models/qwen.gguf", "notes.txt"):
        (tmp_path / path).touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError) as caught:
        check_name(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: there is no such file or folder")
    assert message.partition("; ")[2] == ("" if meant is None else f"did you mean {meant}?")


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("organisation/name")
    assert is_hub_id("organisation/name/file.gguf")
    assert not any(map(is_hub_id, ("", "file.gguf", "folder/file.gguf", "gemma-3-270m-q4_k_m.gguf", "a b")))
    (tmp_path / "organisation" / "name").mkdir(parents=True)
    assert not is_hub_id("organisation/name")
