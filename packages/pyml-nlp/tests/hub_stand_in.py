"""A local stand-in for the model hub: as much of its HTTP interface as huggingface-hub asks for, on loopback.

Small files are served by the hub itself; large ones are redirected to a second server, as the real hub does.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".gguf")


@dataclass
class Repository:
    """A repository of the stand-in.

    Attributes:
        files: contents by name.
        gated: files answer 403 unless the token is ``"accepted"``.
        cut: large files end after this many bytes, although their size is announced in full.
        damaged: large files have one other byte than their hash says.
        drop: how many times a large file's connection breaks in the middle before it is served whole.
        statuses: HTTP statuses to answer instead of the file: by a file's name, of a large one
            ``"store:"`` and its name for the second server; ``"api"`` for questions about the repository.
        announced: bytes more than there are that large files' sizes are announced with.
        stall: large files stop in the middle, for a minute.
    """

    files: dict[str, bytes]
    gated: bool = False
    cut: int | None = None
    damaged: bool = False
    drop: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    announced: int = 0
    stall: bool = False


@dataclass
class Request:
    """A request that the stand-in has answered."""

    server: str
    method: str
    path: str
    token: str | None
    start: int = 0  # of the bytes that are asked for


@dataclass
class Hub:
    """The two servers; a context manager."""

    repositories: dict[str, Repository]
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._servers = [self._serve("hub"), self._serve("store")]
        self.endpoint, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _serve(self, name: str) -> ThreadingHTTPServer:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                token = self.headers.get("Authorization")
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
                hub.requests.append(Request(name, self.command, path, token, start))
                if name == "store":
                    self._store(path, start)
                elif path.startswith("/api/models/"):
                    self._api(path.removeprefix("/api/models/"))
                else:
                    self._file(path.removeprefix("/"), token)

            do_HEAD = do_GET  # noqa: N815 (the base class wants this name)

            def answer(self, status: int, headers: dict[str, str], body: bytes = b"", size: int | None = None) -> None:
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(body) if size is None else size))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def refuse(self, status: int, code: str) -> None:
                self.answer(status, {"X-Error-Code": code, "X-Error-Message": code})

            def _api(self, path: str) -> None:
                identifier = "/".join(path.split("/")[:2])
                if identifier not in hub.repositories:
                    self.refuse(401, "RepoNotFound")  # the real hub's answer to anonymous users
                    return
                if status := hub.repositories[identifier].statuses.get("api"):
                    self.answer(status, {})
                    return
                files = hub.repositories[identifier].files
                if "/tree/" in path:
                    found: object = [_tree_entry(file, content) for file, content in files.items()]
                else:
                    siblings = [{"rfilename": file} for file in files]
                    found = {"id": identifier, "modelId": identifier, "sha": COMMIT, "siblings": siblings}
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

            def _file(self, path: str, token: str | None) -> None:
                identifier, _, rest = path.partition("/resolve/")
                file = rest.partition("/")[2]
                if identifier not in hub.repositories:
                    self.refuse(401, "RepoNotFound")
                    return
                repository = hub.repositories[identifier]
                if repository.gated and token != "Bearer accepted":
                    self.refuse(403, "GatedRepo")
                elif file in repository.statuses:
                    self.answer(repository.statuses[file], {})
                elif file not in repository.files:
                    self.refuse(404, "EntryNotFound")
                elif file.endswith(LARGE):
                    content = repository.files[file]
                    self.answer(
                        302,
                        {
                            "Location": f"{hub.store}/{identifier}/{file}",
                            "X-Repo-Commit": COMMIT,
                            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                            "X-Linked-Size": str(len(content) + repository.announced),
                        },
                    )
                else:
                    content = repository.files[file]
                    self.answer(200, {"ETag": f'"{_git_hash(content)}"', "X-Repo-Commit": COMMIT}, content)

            def _store(self, path: str, start: int) -> None:
                organisation, name, file = path.removeprefix("/").split("/", 2)
                repository = hub.repositories[f"{organisation}/{name}"]
                if status := repository.statuses.get(f"store:{file}"):
                    self.answer(status, {})
                    return
                content = repository.files[file]
                if repository.damaged:
                    content = content[:-1] + bytes([content[-1] ^ 1])
                headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
                content = content[start:]
                if repository.cut is not None:
                    content = content[: repository.cut]
                if repository.stall:
                    self.answer(200, headers, content[: len(content) // 2], len(content))
                    time.sleep(60)
                elif repository.drop:
                    repository.drop -= 1
                    self.answer(200, headers, content[: len(content) // 2], len(content))
                    self.close_connection = True
                else:
                    self.answer(206 if start else 200, headers, content)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree_entry(file: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": file, "size": len(content), "oid": _git_hash(content)}
    if file.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


# ---- processes that ask it

SCRIPT = """
import json, sys
from pyml_core.errors import PymlError
from pyml_nlp.source import resolve

for name in sys.argv[1:]:
    notes = []
    try:
        found = resolve(name, notes.append)
        print(json.dumps({"kind": found.kind, "path": str(found.path), "notes": notes}))
    except PymlError as error:
        print(json.dumps({"error": str(error), "type": type(error).__name__, "notes": notes}))
"""


def environment(home: Path, endpoint: str, **more: str) -> dict[str, str]:
    """This process's environment without anything of the hub's, and with these settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**kept, **settings, **more}


def resolved(names: list[str], env: dict[str, str]) -> tuple[dict[str, dict[str, object]], str]:
    """Resolve these names in a new process. Returns the results, and its stderr."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], env=env, capture_output=True, text=True, check=True)
    return dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True)), done.stderr
