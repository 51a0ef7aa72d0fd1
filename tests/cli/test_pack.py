"""``pyml pack`` from end to end, and the other commands with a packed model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Commands

pytestmark = pytest.mark.process


def test_a_packed_model_in_every_command(commands: Commands, model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "m.pyml"
    done = commands.run("pyml", "pack", model, packed)
    assert (done.code, done.stdout.decode(), done.stderr) == (0, f"{packed}\n", "")
    greedy = ("--prompt", "a b", "--max-tokens", 8, "--temperature", 0, "--quiet")
    assert commands.infer(packed, *greedy).stdout == commands.infer(model, *greedy).stdout
    facts = json.loads(commands.inspect(packed, "--json").stdout)
    assert facts["format"] == "packed model, from safetensors, dtype auto"
    original = json.loads(commands.inspect(model, "--json").stdout)
    assert {**facts["architecture"]} == original["architecture"]
    assert facts["memory"] == original["memory"]
    assert facts["tokenizer"] == original["tokenizer"]
    lines = commands.inspect(packed, "--tensors").stdout.decode()
    assert "layers.0.attention.qkv.weight" in lines
    checked = commands.run("pyml", "pack", "--check", packed)
    assert (checked.code, checked.stdout.decode()) == (0, f"{packed}: all checksums are right\n")


def test_without_a_name_it_is_listed(commands: Commands, model: Path) -> None:
    done = commands.run("pyml", "pack", model, "--dtype", "f32")
    path = Path(done.stdout.decode().strip())
    assert done.code == 0, done.stderr
    rows = [json.loads(line) for line in commands.run("pyml", "list", "--json").stdout.splitlines()]
    row = next(row for row in rows if row["path"] == str(path))
    assert (row["model"], row["size"], row["runs"]) == (path.name, path.stat().st_size, True)
    assert commands.infer(path.name, "--prompt", "a", "--max-tokens", 1, "--quiet").code == 0
    assert commands.run("pyml", "rm", path.name).code == 0
    assert not path.exists()


@pytest.mark.parametrize("dtype", ["q8_0", "bf16"])
def test_another_dtype_is_refused_in_one_line(commands: Commands, model: Path, tmp_path: Path, dtype: str) -> None:
    packed = tmp_path / "m.pyml"
    commands.run("pyml", "pack", model, packed)
    done = commands.infer(packed, "--prompt", "a", "--dtype", dtype)
    assert done.code == 1
    assert done.stderr == (
        f"Error: {packed}: packed with dtype auto, expected that or auto, got {dtype}: "
        f"pack the original with --dtype {dtype}\n"
    )


def test_damage_is_found_by_a_check(commands: Commands, model: Path, tmp_path: Path) -> None:
    packed = tmp_path / "m.pyml"
    commands.run("pyml", "pack", model, packed)
    data = bytearray(packed.read_bytes())
    data[-100] ^= 1
    packed.unlink()
    packed.write_bytes(data)
    done = commands.run("pyml", "pack", "--check", packed)
    assert done.code == 1
    assert done.stderr.startswith(f"Error: {packed}: damaged: matrix ")
    assert done.stderr.count("\n") == 1
    assert commands.run("pyml", "pack", "--check").code == 2


def test_a_device_that_is_full_leaves_one_line(commands: Commands, model: Path) -> None:
    done = commands.run("pyml", "pack", model, "/dev/full")
    assert done.code == 1
    assert done.stderr.startswith("Error: /dev/full: it exists and is not a packed model")
