"""The configuration file: what it sets, what comes before it, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GREEDY = ("--prompt", "the cat in the hat", "--temperature", "0", "--threads", "1", "-q")


def configured(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"PYML_CONFIG": str(path)}


def test_precedence(commands: Any, model: Path, tiny_dirs: dict[str, Path], tmp_path: Path) -> None:
    """The command line, the environment, the command's table, the top of the file."""
    other = tiny_dirs["llama"]
    expected = commands.infer(model, *GREEDY, "--max-tokens", "6").stdout
    fewer = commands.infer(model, *GREEDY, "--max-tokens", "2").stdout
    text = f'model = "{model}"\ntemperature = 0\nthreads = 3\n[infer]\nthreads = 1\nmax-tokens = 6\nquiet = 1\n'
    env = configured(tmp_path / "config.toml", text)
    prompt = GREEDY[:2]
    result = commands.infer(*prompt, env=env)
    assert (result.code, result.stdout, result.stderr) == (0, expected, "")
    assert commands.infer(*prompt, "--max-tokens", "2", env=env).stdout == fewer
    foreign = commands.infer(other, *GREEDY, "--max-tokens", "6").stdout
    assert commands.infer(other, *prompt, env=env).stdout == foreign != expected
    assert commands.infer("--safetensors", other, *prompt, env=env).stdout == foreign
    assert commands.infer(*prompt, env={**env, "PYML_MODEL": str(other)}).stdout == foreign
    assert commands.run("pyml", "infer", *prompt, env=env).stdout == expected


def test_places(commands: Any, model: Path, tmp_path: Path) -> None:
    """PYML_CONFIG, XDG_CONFIG_HOME, the home directory; an empty file switches the others off."""
    expected = commands.infer(model, *GREEDY, "--max-tokens", "3").stdout
    text = f'model = "{model}"\n[infer]\nmax-tokens = 3\n'
    for folder in ("xdg", "home/.config"):
        (tmp_path / folder / "pyml").mkdir(parents=True)
        (tmp_path / folder / "pyml" / "config.toml").write_text(text)
    assert commands.infer(*GREEDY, env={"XDG_CONFIG_HOME": str(tmp_path / "xdg")}).stdout == expected
    home = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": ""}
    assert commands.infer(*GREEDY, env=home).stdout == expected
    other = configured(tmp_path / "other.toml", f'model = "{model}"\n[infer]\nmax-tokens = 2\n')
    shorter = commands.infer(*GREEDY, env={**home, **other}).stdout
    assert shorter == commands.infer(model, *GREEDY, "--max-tokens", "2").stdout
    refused = commands.infer(*GREEDY, env={**home, "PYML_CONFIG": "/dev/null", "PYML_CACHE": str(tmp_path / "no")})
    assert refused.stdout != expected


def test_kinds_of_options(commands: Any, model: Path, tmp_path: Path) -> None:
    """Flags, options that may be repeated, and texts."""
    text = f"""
        model = "{model}"
        [infer]
        json = true
        stop-id = [5, "6"]
        logit-bias = "7=-inf"
        max-tokens = 4
        seed = 3
        [bench]
        p = 4
        n = 0
        r = 1
        o = "json"
    """
    env = configured(tmp_path / "config.toml", text)
    options = ("--stop-id", "5", "--stop-id", "6", "--logit-bias", "7=-inf", "--max-tokens", "4", "--seed", "3")
    expected = json.loads(commands.infer(model, *GREEDY[:2], "-q", *options, "--json").text)
    found = json.loads(commands.infer(*GREEDY[:2], "-q", env=env).text)
    assert [found[key] for key in ("text", "tokens")] == [expected[key] for key in ("text", "tokens")]
    (row,) = json.loads(commands.bench("-q", env=env).text)
    assert row["test"] == "pp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treads = 3", "unknown key 'treads'; did you mean threads?"),
        ("prompt = 'x'", "unknown key 'prompt'; keys at the top are model, dtype, threads, "),
        ("[infr]", "unknown key 'infr'; did you mean infer?"),
        ("[infer]\nmax_tokens = 3", "infer: unknown key 'max_tokens'; did you mean max-tokens?"),
        ("[infer]\nzzz = 3", "infer: unknown key 'zzz'; its options are model, safetensors, "),
        ("[infer]\nstream = 3", "infer.stream: expected true or false, got 3"),
        ("[infer]\nverbose = true", "infer.verbose: expected a whole number, got True"),
        ("[infer]\nprompt = [1]", "infer.prompt: expected a text or a number, got [1]"),
        ("[infer.prompt]", "infer.prompt: expected a text or a number, got a table"),
        (
            "[infer]\nmax-tokens = 'x'",
            "infer.max-tokens: invalid value 'x' for '--max-tokens': expected a whole ",
        ),
        ("[infer]\ntemperature = -1", "infer.temperature: --temperature must be a finite number >= 0.0, got -1"),
        ("threads = 0", "threads: --threads must be > 0, got 0"),
        ("x = \n", "expected TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_errors(text: str, message: str, commands: Any, model: Path, tmp_path: Path) -> None:
    """They name the file and the key."""
    env = configured(tmp_path / "config.toml", text)
    result = commands.infer(model, "--prompt", "the", env=env)
    assert result.code == 2
    assert result.error.startswith(f"Error: {tmp_path}/config.toml: {message}")


def test_errors_of_the_command_line_do_not_name_the_file(commands: Any, model: Path, tmp_path: Path) -> None:
    env = configured(tmp_path / "config.toml", "temperature = 1")
    result = commands.infer(model, "--prompt", "the", "--temperature", "-1", env=env)
    assert result.error == "Error: --temperature must be a finite number >= 0.0, got -1"


def test_files_that_cannot_be_read(commands: Any, model: Path, tmp_path: Path) -> None:
    run = (model, "--prompt", "the", "--max-tokens", "1")
    missing = commands.infer(*run, env={"PYML_CONFIG": "/no/such/file"})
    assert (missing.code, missing.error) == (2, "Error: PYML_CONFIG: /no/such/file: there is no such file")
    folder = commands.infer(*run, env={"PYML_CONFIG": str(tmp_path)})
    assert (folder.code, folder.error) == (2, f"Error: {tmp_path}: cannot be read: Is a directory")
    (tmp_path / "config.toml").write_bytes(b"x = '\xff'")
    binary = commands.infer(*run, env={"PYML_CONFIG": str(tmp_path / "config.toml")})
    assert binary.code == 2
    assert binary.error.startswith(f"Error: {tmp_path}/config.toml: expected TOML: ")
    for flag in ("--help", "--version"):
        assert commands.infer(flag, env={"PYML_CONFIG": "/no/such/file"}).code == 0
