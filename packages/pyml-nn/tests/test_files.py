"""Atomic files: complete or not at all after any error, with and without ``O_TMPFILE``."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyml_nn.files import LEFTOVERS, NewFile, new_file

OLD, NEW = b"the old contents", b"the new contents " * 10_000


@pytest.fixture(params=["unnamed", "hidden", "refused"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Unnamed files; a system without them; a file system without them."""
    if request.param == "hidden":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif request.param == "refused":
        real = os.open

        def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *arguments, **options)

        monkeypatch.setattr(os, "open", refuse)
    return str(request.param)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, data: bytes = NEW) -> None:
    with new_file(path) as file:
        file.write(data)


def fail(path: Path, error: type[BaseException]) -> None:
    with new_file(path) as file:
        file.write(NEW)
        raise error


def test_a_new_file(tmp_path: Path, umask: None) -> None:
    with new_file(str(tmp_path / "new")) as file:
        file.write(NEW)
        file.flush()
        assert "new" not in names(tmp_path)
        file.seek(5)
        file.write(b"IS")
    assert (tmp_path / "new").read_bytes() == NEW[:5] + b"IS" + NEW[7:]
    assert names(tmp_path) == ["new"]
    assert mode(tmp_path / "new") == 0o640


def test_an_old_file_keeps_its_permissions(tmp_path: Path, umask: None) -> None:
    for bits in (0o600, 0o664, 0o755):
        (tmp_path / "old").write_bytes(OLD)
        (tmp_path / "old").chmod(bits)
        write(tmp_path / "old")
        assert ((tmp_path / "old").read_bytes(), mode(tmp_path / "old")) == (NEW, bits)
    assert names(tmp_path) == ["old"]


def test_readers_of_the_old_file_continue_with_it(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    with (tmp_path / "old").open("rb") as reader:
        write(tmp_path / "old")
        assert reader.read() == OLD


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_nothing_remains_of_a_block_that_fails(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    for name in ("old", "new"):
        with pytest.raises(error):
            fail(tmp_path / name, error)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == OLD


def test_a_file_that_appears_meanwhile_is_replaced(tmp_path: Path) -> None:
    with new_file(tmp_path / "file") as file:
        file.write(NEW)
        (tmp_path / "file").write_bytes(OLD)
    assert (tmp_path / "file").read_bytes() == NEW
    assert names(tmp_path) == ["file"]


def test_a_file_that_goes_meanwhile_is_there_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with new_file(tmp_path / "file") as file:
        file.write(NEW)
        (tmp_path / "file").unlink()
    assert (tmp_path / "file").read_bytes() == NEW
    assert names(tmp_path) == ["file"]


def test_two_writers_at_once(tmp_path: Path) -> None:
    first, second = NewFile(tmp_path / "file"), NewFile(tmp_path / "file")
    for writer, data in ((first, OLD), (second, NEW)):
        writer.file.write(data)
        writer.place()
        writer.close()
        assert (tmp_path / "file").read_bytes() == data
    assert names(tmp_path) == ["file"]


def test_links_stay(tmp_path: Path) -> None:
    """Also a link to a file that does not exist yet."""
    (tmp_path / "folder").mkdir()
    for name in ("old", "new"):
        link = tmp_path / f"link to {name}"
        link.symlink_to(tmp_path / "folder" / name)
        if name == "old":
            (tmp_path / "folder" / name).write_bytes(OLD)
        write(link)
        assert link.is_symlink()
        assert (tmp_path / "folder" / name).read_bytes() == NEW
    assert names(tmp_path / "folder") == ["new", "old"]


def test_devices_and_pipes_are_written_to_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", OLD)
    assert os.read(reader, 1000) == OLD
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]
    write(Path("/dev/null"))
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "Is a directory"), ("missing/file", "No such file or directory"), ("file/file", "Not a directory"),
        ("n" * 300, "File name too long"), ("a\0b", "Invalid argument"), ("loop", "Too many levels of symbolic links"),
    ],
)  # fmt: skip
def test_places_where_no_file_can_be(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = names(tmp_path)
    with pytest.raises(OSError, match=message):
        write(tmp_path / path)
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == OLD


# ---- in a separate process

SCRIPT = """
import os, sys
from pyml_nn.files import new_file
if sys.argv[2] != "unnamed":
    del os.O_TMPFILE
try:
    with new_file(sys.argv[1]) as file:
        file.write(bytes(100_000))
        file.flush()
        print("half", flush=True)
        sys.stdin.read()
        file.write(bytes(100_000))
except OSError as error:
    print(error.strerror)
"""


def start(path: Path, kind: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(path), kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_killed(number: signal.Signals, kind: str, tmp_path: Path) -> None:
    """The old file stays; without unnamed files, a file that matches ``LEFTOVERS`` remains."""
    (tmp_path / "old").write_bytes(OLD)
    with start(tmp_path / "old", kind) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(number)
        assert process.wait() == -number
    assert (tmp_path / "old").read_bytes() == OLD
    remains = [name for name in names(tmp_path) if name != "old"]
    assert len(remains) == (kind != "unnamed")
    assert all(Path(name).match(LEFTOVERS) for name in remains)


def test_a_full_disk(kind: str, tmp_path: Path) -> None:
    """A limit on the size of files has the effect of a full disk."""
    import resource

    (tmp_path / "old").write_bytes(OLD)
    for name in ("old", "new"):
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))  # noqa: E731
        with start(tmp_path / name, kind, preexec_fn=limit) as process:
            out, _ = process.communicate("")
        assert out == "half\nFile too large\n"
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_bytes() == OLD
