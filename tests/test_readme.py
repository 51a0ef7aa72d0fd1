"""Every example of the READMEs and of the documentation's pages runs as it stands, and prints what the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pyml_nlp.default_model import CHAT_NAME, CHAT_PACKAGE, CHAT_VERSION, NAME
from tests.helpers.fetch import fetch_minilm
from tests.helpers.markdown import Command, blocks, commands, masked, sessions

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    *(f"packages/pyml-{name}/README.md" for name in ("core", "nn", "nlp")),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
    *(
        str(path.relative_to(ROOT))
        for folder in ("start", "concepts", "reference", "project")
        for path in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
FRAGMENTS = {"docs/adding-a-model.md", "docs/adding-a-kernel.md", "docs/server-clients.md", "docs/ray.md"}
"""Pages whose blocks are parts of files that a contributor writes, or run in the environments of clients and of Ray."""

RUNNER = """
import contextlib, io, json, sys
results = []
for session in json.loads(sys.argv[1]):
    names = {"__name__": "__main__"}
    for line, text in session:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile("\\n" * line + text, sys.argv[2], "exec"), names)
        results.append(output.getvalue())
print(json.dumps(results))
"""

NOT_RUN = ("openai-community/gpt2", "pyml audit", "pyml pull", "pyml rm")
"""Downloads, and minutes of measurements."""

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": SCHEMA}}
FILES = {
    "texts.txt": "One text.\nAnother one.\n",
    "notes.jsonl": '{"id": 7, "text": "One text."}\n"Another one."\n',
    "tasks.jsonl": '{"prompt": "One, two,"}\n{"prompt": "Red, green,", "max_tokens": 2}\n',
    "prompts.txt": "One, two,\nRed, green,\n",
    "questions.txt": "Hello\nWho are you?\n",
    "p.json": json.dumps(SCHEMA),
    "person.json": json.dumps(SCHEMA),
    "tools.json": json.dumps([TOOL]),
    "list.lark": 'start: item ("," item)*\nitem: "milk" | "bread"\n',
    **dict.fromkeys(("doc.txt", "manual.txt", "text.txt", "wiki.test.raw"), "The cat sat on the mat. " * 12),
}


@pytest.fixture
def folder(tmp_path: Path, gemma_gguf: Path, smollm2_gguf: Path) -> Path:
    """A folder with the files that the examples name."""
    (tmp_path / "gemma-3-270m.gguf").symlink_to(gemma_gguf)
    for name in (smollm2_gguf.name, "model.gguf", "instruct.gguf", "small.gguf", "large.gguf"):
        (tmp_path / name).symlink_to(smollm2_gguf)
    (tmp_path / "all-MiniLM-L6-v2").symlink_to(fetch_minilm())
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def environment(folder: Path, gemma_gguf: Path, smollm2_gguf: Path) -> dict[str, str]:
    """What a user has after scripts/setup.sh: the default models and the commands; no network and no settings."""
    site = folder / "site"
    info = site / f"{CHAT_PACKAGE.replace('-', '_')}-{CHAT_VERSION}.dist-info"
    for path in (info, site / CHAT_PACKAGE.replace("-", "_"), folder / "cache"):
        path.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {CHAT_PACKAGE}\nVersion: {CHAT_VERSION}\n")
    (site / CHAT_PACKAGE.replace("-", "_") / CHAT_NAME).symlink_to(smollm2_gguf)
    (folder / "cache" / NAME).symlink_to(gemma_gguf)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYML_", "HF_"))}
    if level := os.environ.get("PYML_CPU_LEVEL"):
        kept["PYML_CPU_LEVEL"] = level
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "PYML_CACHE": str(folder / "cache"),
        "PYML_CONFIG": "/dev/null",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
    }


WITH_PYTHON = [page for page in PAGES if page not in FRAGMENTS and sessions((ROOT / page).read_text())]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_runs(page: str, folder: Path, environment: dict[str, str]) -> None:
    """The page's sessions run in one process; a block that a text block follows prints that text."""
    text = (ROOT / page).read_text()
    if re.search("structured|openai", page) and find_spec("llguidance") is None:
        pytest.skip("llguidance is not installed")
    if "matplotlib" in text and find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    found = sessions(text)
    given = json.dumps([[(block.line, block.text) for block in session] for session in found])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, given, page],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for block, output in zip([block for session in found for block in session], json.loads(done.stdout), strict=True):
        if block.output is not None:
            assert masked(output) == masked(block.output), f"{page}:{block.line}"
    for name in re.findall(r"[\w-]+\.(?:json|png)\b", "".join(block.text for session in found for block in session)):
        assert (folder / name).stat().st_size > 1000


def shown(page: str) -> list[Command]:
    """The commands of a page: those of its console blocks, and the last one of a shell block that an output follows."""
    found: list[Command] = []
    for block in blocks((ROOT / page).read_text()):
        if block.language == "console":
            found += commands(block)
        elif block.language == "sh" and block.output is not None:
            found.append(Command(block.text.strip().rpartition(" && ")[2].removeprefix(".venv/bin/"), block.output))
    return found


WITH_COMMANDS = [page for page in PAGES if shown(page)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page: str, folder: Path, environment: dict[str, str]) -> None:
    """In order, in one folder, with few tokens. A command that lines follow prints these; one that fails, its error."""
    for command in shown(page):
        if any(part in command.text for part in NOT_RUN):
            continue
        short = command.text.replace("-p 512 -n 64", "-p 16 -n 2 -r 1")
        if short.startswith("pyml serve"):  # until it has loaded, and is told to end
            short = f"timeout --preserve-status 6 {short.partition('#')[0]} --port 0 --log off"
        if not command.output:
            short = re.sub(r"(pyml-infer|pyml chat)\b(?!.*--max-tokens)", r"\1 --max-tokens 4", short)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", short],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        fails = command.output.startswith("Error: ")
        assert (done.returncode in (1, 2)) is fails, f"{page}: {command.text}: {done.stderr}"
        assert done.returncode == 0 or fails, f"{page}: {command.text}: {done.stderr}"
        printed = masked(f"{done.stdout}\n{done.stderr}").splitlines()
        for line in filter(None, masked(command.output).splitlines()):
            pattern = ".*".join(map(re.escape, line.split("...")))
            assert any(re.fullmatch(pattern, other) for other in printed), f"{page}: {command.text}: {line}: {printed}"


def test_pages_have_examples() -> None:
    guides = {"generation", "sampling", "structured-output", "chat", "tracing", "start/tour", "start/first-text"}
    assert {f"docs/{name}.md" for name in guides} <= set(WITH_PYTHON)
    assert {f"packages/pyml-{name}/README.md" for name in ("core", "nn", "nlp")} | {"README.md"} <= set(WITH_PYTHON)
    tour = sessions((ROOT / "docs/start/tour.md").read_text())
    assert len(tour) == 1
    assert [block.line for block in tour[0] if block.output is None] == [tour[0][2].line]
