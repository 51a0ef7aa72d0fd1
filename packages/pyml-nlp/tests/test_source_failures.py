"""Downloads that fail: one line each, nothing half-written is ever found, and the next try goes on from whole files."""

# ruff: noqa: E501 (tables of one case a line)

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import writers
from hub_stand_in import SCRIPT, Hub, Repository, environment, resolved

from pyml_nlp.formats.safetensors import SafetensorsFolder

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
WEIGHTS = [writers.safetensors({name: ("F32", (1000,), writers.floats(1000))}) for name in "ab"]
SMALL = {"config.json": b'{"model_type": "gpt2"}', "tokenizer.json": b"{}"}
SINGLE = {**SMALL, "model.safetensors": WEIGHTS[0]}
INDEX = json.dumps({"weight_map": dict(zip("ab", SHARDS, strict=True))}).encode()
SHARDED = {**SMALL, "model.safetensors.index.json": INDEX, **dict(zip(SHARDS, WEIGHTS, strict=True))}
WHOLE = {"model.safetensors": WEIGHTS[0]}
GGUF = writers.join(writers.gguf({}, {"w": ("f32", (100,), writers.floats(100))}))

FAILING = {
    "api-401": (Repository(SINGLE, statuses={"api": 401}), r"'401 Unauthorized' for url \S+; set HF_TOKEN to an access token"),
    "api-403": (Repository(SINGLE, statuses={"api": 403}), r"'403 Forbidden' for url \S+; set HF_TOKEN to an access token"),
    "api-404": (Repository(SINGLE, statuses={"api": 404}), r"'404 Not Found' for url \S+; check the network and try again, or"),
    "api-429": (Repository(SINGLE, statuses={"api": 429}), r"'429 Too Many Requests' for url \S+; try again later, or give"),
    "api-500": (Repository(SINGLE, statuses={"api": 500}), r"'500 Internal Server Error' for url \S+; try again later, or give"),
    "small-401": (Repository(SINGLE, statuses={"config.json": 401}), r"'401 Unauthorized' for url \S+config.json'; set HF_TOKEN"),
    "small-404": (Repository(SINGLE, statuses={"config.json": 404}), r"'404 Not Found' for url \S+config.json'; check the network"),
    "large-403": (Repository(SINGLE, statuses={"model.safetensors": 403}), r"403 Forbidden.*; set HF_TOKEN to an access token"),
    "store-403": (Repository(SINGLE, statuses={"store:model.safetensors": 403}), r"'403 Forbidden' for url \S+; set HF_TOKEN"),
    "store-404": (Repository(SINGLE, statuses={"store:model.safetensors": 404}), r"'404 Not Found' for url \S+; check the network"),
    "store-503": (Repository(SINGLE, statuses={"store:model.safetensors": 503}), r"'503 Service Unavailable' for url \S+; try again later"),
    "larger": (Repository(SINGLE, announced=-1), r"should be of size \d+ but has size \d+ .*; check the network and try again"),
    "smaller": (Repository(SINGLE, announced=1), r"should be of size \d+ but has size \d+ .*; check the network and try again"),
    "short": (Repository(SINGLE, cut=1000), r"should be of size \d+ but has size 1000 .*; check the network and try again"),
    "cut-off": (Repository(SINGLE, drop=100), r"peer closed connection .*; check the network and try again, or give a local file"),
    "shard-503": (Repository(SHARDED, statuses={f"store:{SHARDS[1]}": 503}), r"'503 Service Unavailable' .*try again later"),
    "shard-short": (Repository(SHARDED, cut=2000), r"should be of size \d+ but has size 2000 .*; check the network and try again"),
}  # fmt: skip


def visible(home: Path, name: str) -> dict[str, bytes]:
    """The weights that the cache shows under their names."""
    paths = (home / "hub" / f"models--org--{name}").glob("snapshots/*/*.safetensors")
    return {path.name: path.read_bytes() for path in paths}


def test_failed_downloads_and_what_comes_after(tmp_path: Path) -> None:
    """Every failure is one line on nothing but pyml's own account; once the hub is well again, the model loads."""
    names = [f"org/{name}" for name in FAILING]
    with Hub({f"org/{name}": repository for name, (repository, _) in FAILING.items()}) as hub:
        env = environment(tmp_path, hub.endpoint)
        found, stderr = resolved(names, env)
        assert stderr == ""
        for name, (repository, message) in FAILING.items():
            error = str(found[f"org/{name}"].get("error"))
            assert error.startswith(f"org/{name}: not in the cache, and cannot be downloaded from {hub.endpoint}: "), (
                error
            )
            assert re.search(message, error), error
            assert "\n" not in error
            for file, content in visible(tmp_path, name).items():
                assert content == repository.files[file]
        offline, _ = resolved(names, {**env, "HF_HUB_OFFLINE": "1"})
        assert all("HF_HUB_OFFLINE forbids" in str(answer["error"]) for answer in offline.values())
        for repository, _ in FAILING.values():
            repository.statuses.clear()
            repository.announced = repository.drop = 0
            repository.cut = None
        found, _ = resolved(names, env)
        again, _ = resolved(names, {**env, "HF_ENDPOINT": "http://127.0.0.1:9"})
        for name, (repository, _) in FAILING.items():
            answer = found[f"org/{name}"]
            assert answer.get("notes") == [f"Downloading model: org/{name}"]
            assert again[f"org/{name}"] == {**answer, "notes": [f"Using cached model: org/{name}"]}
            SafetensorsFolder(str(answer["path"])).close()
            weights = {file: content for file, content in repository.files.items() if file.endswith(".safetensors")}
            assert visible(tmp_path, name) == weights
        # a shard that had arrived whole is not asked for again
        first = [
            request
            for request in hub.requests
            if request.path.endswith(f"/shard-503/{SHARDS[0]}") and request.server == "store"
        ]
        assert len(first) == 1


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_ends_within_a_download(tmp_path: Path, sent: signal.Signals) -> None:
    """Its leftovers are never taken for the file, whether it could clean up or not."""
    stalled = Repository({**SINGLE, "m.gguf": GGUF}, stall=True)
    with Hub({"org/m": stalled}) as hub:
        env = environment(tmp_path, hub.endpoint)
        for name, file in (("org/m", "model.safetensors"), ("org/m/m.gguf", "m.gguf")):
            stalled.stall = True
            process = subprocess.Popen([sys.executable, "-c", SCRIPT, name], env=env, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not any(request.path == f"/org/m/{file}" for request in hub.requests):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.3)
            os.kill(process.pid, sent)
            assert process.wait(5) != 0
            if sent == signal.SIGINT:
                assert not list((tmp_path / "hub").glob("models--org--m/blobs/*.incomplete"))
            assert not list((tmp_path / "hub").glob(f"models--org--m/snapshots/*/{file}"))
            offline, _ = resolved([name], {**env, "HF_HUB_OFFLINE": "1"})
            assert "HF_HUB_OFFLINE forbids" in str(offline[name]["error"])
            stalled.stall = False
            found, _ = resolved([name], env)
            path = Path(str(found[name]["path"]))
            assert (path / file if path.is_dir() else path).read_bytes() == stalled.files[file]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(tmp_path: Path) -> None:
    """Within a try, so that a large file arrives over a bad line; without a word on stderr."""
    large = writers.safetensors({"a": ("U8", (25_000_000,), bytes(25_000_000))})
    with Hub({"org/m": Repository({**SMALL, "model.safetensors": large}, drop=1)}) as hub:
        found, stderr = resolved(["org/m"], environment(tmp_path, hub.endpoint))
        starts = [request.start for request in hub.requests if request.server == "store"]
    assert stderr == ""
    assert found["org/m"]["kind"] == "folder"
    assert visible(tmp_path, "m") == {"model.safetensors": large}
    assert starts[0] == 0 < starts[1]
    assert len(starts) == 2


def test_a_whole_model_beside_an_index(tmp_path: Path) -> None:
    """Only the files that transformers would load are downloaded, and found in the cache without the index."""
    with Hub({"org/m": Repository({**SHARDED, **WHOLE})}) as hub:
        env = environment(tmp_path, hub.endpoint)
        found, _ = resolved(["org/m"], env)
    cached, _ = resolved(["org/m"], {**env, "HF_HUB_OFFLINE": "1"})
    assert cached["org/m"]["path"] == found["org/m"]["path"]
    assert visible(tmp_path, "m") == WHOLE
    assert not (Path(str(found["org/m"]["path"])) / "model.safetensors.index.json").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, r"^org/m: holds an adapter \(LoRA or the like\), not a model"),
        ({"config.json": b"{}", "onnx/model.onnx": b"x"}, r"^org/m: holds weights for ONNX \('onnx/model\.onnx'\), which are not supported"),
        ({"tokenizer.json": b"{}"}, r"^org/m: holds no config\.json with model\.safetensors, and no GGUF file"),
        ({"mmproj.gguf": b"x"}, r"^org/m: holds no config\.json with model\.safetensors, and no GGUF file"),
        ({"b-00001-of-00002.gguf": b"x", "b-00002-of-00002.gguf": b"x"}, r"name one of them: org/m/b-00001-of-00002\.gguf$"),
    ],
)  # fmt: skip
def test_repositories_without_a_model_that_can_be_read(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with Hub({"org/m": Repository(files)}) as hub:
        found, _ = resolved(["org/m"], environment(tmp_path, hub.endpoint))
    assert re.search(message, str(found["org/m"]["error"])), found
    assert [request.path for request in hub.requests] == ["/api/models/org/m"]
