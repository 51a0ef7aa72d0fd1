"""Where files are to go: places that an ordinary user cannot write to, odd homes, full disks. One line each."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import drop_privileges, fill_disk

TEXT = ("--prompt", "the cat", "--max-tokens", "8", "--temperature", "0", "-q")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that nothing can be written to, with a file that can be read."""
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "file.json").write_text("what was there")
    (folder / "file.json").chmod(0o400)
    folder.chmod(0o500)
    yield folder
    folder.chmod(0o700)


@pytest.fixture(scope="module")
def text(commands: Any, model: Path) -> str:
    """The model's output."""
    return str(commands.infer(model, *TEXT).text)


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Two prompts."""
    (tmp_path / "prompts.txt").write_text("the cat\nthe hat\n")
    return tmp_path / "prompts.txt"


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("locked/new", "Permission denied"), ("missing/new", "No such file or directory"),
        ("locked/file.json/new", "Not a directory"), ("folder", "Is a directory"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--trace-out", "--prompt-cache", "--output"])
def test_places_are_tried_before_any_work(
    option: str, place: str, reason: str, commands: Any, locked: Path, batch: Path, tmp_path: Path
) -> None:
    """There is not even a model here."""
    path = tmp_path / (f"{place}.json" if option == "--trace-out" else place)
    if place == "folder":
        path.mkdir()
    prompt = ("--batch-file", batch) if option == "--output" else ("--prompt", "x")
    result = commands.infer("no-such-model.gguf", *prompt, option, path, prepare=drop_privileges)
    if place == "folder" and option != "--trace-out":
        assert result.code == 1  # the path is read later; the missing model is the first error
    else:
        what = {"--trace-out": "the trace cannot be written", "--prompt-cache": "cannot save the KV cache"}
        said = what.get(option, "cannot be written")
        assert (result.code, result.error) == (1, f"Error: {path}: {said}: {reason}")
    assert [entry.name for entry in locked.iterdir()] == ["file.json"]


@pytest.mark.parametrize("option", ["--prompt-cache", "--output"])
def test_a_folder_in_place_of_a_file(option: str, commands: Any, model: Path, batch: Path, tmp_path: Path) -> None:
    prompt = ("--batch-file", batch) if option == "--output" else ("--prompt", "x")
    result = commands.infer(model, *prompt, option, tmp_path, "-q")
    assert (result.code, result.stdout) == (1, b"")
    assert str(tmp_path) in result.error
    if option == "--output":
        for place, reason in (
            (tmp_path, "cannot be written: Is a directory"),
            (Path("/dev/full"), "expected a regular file to go on with"),  # it could be read for ever
        ):
            resumed = commands.infer(model, *prompt, option, place, "--resume", "-q")
            assert (resumed.code, resumed.error) == (1, f"Error: {place}: {reason}")


def test_a_file_that_is_not_to_be_written_to_stays(commands: Any, model: Path, locked: Path, text: str) -> None:
    locked.chmod(0o700)
    for arguments in (("--trace-out", locked / "file.json"), ("--prompt-cache", locked / "file.json")):
        result = commands.infer(model, *TEXT, *arguments, prepare=drop_privileges)
        assert (result.code, result.stdout) == (1, b"")
        assert str(locked / "file.json") in result.error
    assert (locked / "file.json").read_text() == "what was there"


def test_a_prompt_cache_that_can_only_be_read(commands: Any, model: Path, locked: Path, text: str) -> None:
    """It is used, as long as it need not be written anew."""
    locked.chmod(0o700)
    cache = locked / "prompt.cache"
    assert commands.infer(model, *TEXT, "--prompt-cache", cache).text == text
    cache.chmod(0o400)
    locked.chmod(0o500)
    again = commands.infer(model, *TEXT, "--prompt-cache", cache, prepare=drop_privileges)
    assert (again.code, again.text, again.stderr) == (0, text, "")
    longer = commands.infer(
        model, *TEXT[2:], "--prompt", "the cat sat", "--prompt-cache", cache, prepare=drop_privileges
    )
    assert (longer.code, longer.error) == (1, f"Error: {cache}: cannot save the KV cache: Permission denied")
    assert longer.text  # which was there before


def test_the_folder_of_an_audit(commands: Any, model: Path, locked: Path) -> None:
    result = commands.run("pyml-audit", model, "--quick", "-q", cwd=locked, prepare=drop_privileges)
    assert (result.code, result.stdout) == (1, b"")
    assert result.error.endswith(": the report cannot be written: Permission denied")


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": "{locked}"}, {"HOME": "/nonexistent"}, {"HOME": ""}, {"HOME": "relative"}, {"PYML_CACHE": "{locked}"},
        {"PYML_CACHE": "/dev/null"}, {"PYML_CACHE": "~nobody-of-this-name/x"}, {"XDG_CACHE_HOME": "{locked}"},
        {"TMPDIR": "/nonexistent"}, {"TMPDIR": "{locked}"}, {"HF_HOME": "{locked}"},
    ],
)  # fmt: skip
def test_homes_and_caches_are_nothing_to_a_model_of_ones_own(
    environment: dict[str, str], commands: Any, model: Path, locked: Path, text: str
) -> None:
    found = {key: value.format(locked=locked) for key, value in environment.items()}
    result = commands.infer(model, *TEXT, env=found, prepare=drop_privileges)
    assert (result.code, result.text, result.stderr) == (0, text, "")


@pytest.mark.parametrize("mask", [0o077, 0o022])
def test_the_umask(mask: int, commands: Any, model: Path, batch: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("trace.json", "prompt.cache", "results.jsonl")]
    before = os.umask(mask)
    try:
        commands.infer(model, *TEXT, "--trace-out", files[0], "--prompt-cache", files[1])
        commands.infer(model, "--batch-file", batch, "--max-tokens", "2", "--output", files[2], "-q")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o666 & ~mask] * 3


# ---- full disks and other ends


@pytest.mark.parametrize("name", ["trace.json", "trace.csv", "prompt.cache"])
@pytest.mark.parametrize("before", [None, b"what was there before"])
def test_a_full_disk(name: str, before: bytes | None, commands: Any, model: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    option = "--prompt-cache" if name == "prompt.cache" else "--trace-out"
    if before is not None and option == "--prompt-cache":
        assert commands.infer(model, *TEXT, option, path).code == 0  # of another prompt
        before = path.read_bytes()
    elif before is not None:
        path.write_bytes(before)
    prompt = ("--prompt", "in the hat " * 4, *TEXT[2:])
    result = commands.infer(model, *prompt, option, path, prepare=fill_disk)
    assert result.code == 1
    assert result.error.startswith(f"Error: {path}: ")
    assert result.error.endswith(": File too large")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == (
        {} if before is None else {name: before}
    )


def test_sigterm_while_an_audit_measures(commands: Any, model: Path, tmp_path: Path) -> None:
    """It ends at once, without its folder, and without the one of its cold runs."""
    (tmp_path / "tmp").mkdir()
    command = (model, "--repetitions", "1000", "--output", tmp_path / "new" / "report")
    with commands.start("pyml-audit", *command, env={"TMPDIR": str(tmp_path / "tmp")}) as process:
        for _ in range(3):
            process.stderr.readline()  # the last one comes while cold runs go on
        assert (tmp_path / "new" / "report").is_dir()
        assert [entry.name.startswith("pyml-audit-") for entry in (tmp_path / "tmp").iterdir()] == [True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == -signal.SIGTERM
    assert [entry.name for entry in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []
