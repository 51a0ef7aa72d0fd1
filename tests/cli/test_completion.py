"""Completion in the shell, as docs/start/install.md sets it up."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("pyml", "pyml ch", "plain,chat"),
        ("pyml", "pyml infer --temp", "plain,--temperature"),
        ("pyml-infer", "pyml-infer --temp", "plain,--temperature"),
        ("pyml-bench", "pyml-bench --dtype q8", "plain,q8_0"),
        ("pyml-infer", "pyml-infer mod", "file,mod"),
        ("pyml", "pyml chat --load ch", "file,ch"),
    ],
)
def test_bash(command: str, words: str, expected: str, commands: Any) -> None:
    variable = f"_{command.upper().replace('-', '_')}_COMPLETE"
    env = {variable: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = commands.run(command, env=env)
    assert (result.code, result.text, result.stderr) == (0, f"{expected}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, commands: Any) -> None:
    result = commands.run("pyml", env={"_PYML_COMPLETE": f"{shell}_source"})
    assert result.code == 0
    assert f"_PYML_COMPLETE={shell}_complete" in result.text
