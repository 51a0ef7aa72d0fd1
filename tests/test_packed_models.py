"""Packed models: the bits of the original, refused files, one copy of the weights for all processes."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyml_nlp
from pyml_core import cpu
from pyml_core.errors import PymlError
from pyml_nlp import packing
from pyml_nlp.default_model import default_model
from pyml_nlp.formats.packed import ALIGNMENT, PROLOGUE, PackedFile, header_hash
from pyml_nlp.jobs.identity import check_model, identify
from pyml_nn.weights import spec
from tests.helpers import tiny_files, tiny_models

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
FOLDERS = sorted(tiny_models.MODELS)
GGUFS = sorted(name for name, model in tiny_models.MODELS.items() if model.gguf)


def logits(lm: pyml_nlp.LanguageModel) -> Any:
    (rows,) = lm.model.forward([(lm.new_cache(64), IDS, list(range(len(IDS))))])
    return rows


def check_equal(original: Path, packed: Path, dtype: str = "auto") -> None:
    """The packed model is the original in everything that can be seen."""
    with pyml_nlp.load(original, dtype=dtype, threads=1) as lm, pyml_nlp.load(packed, threads=1) as same:
        assert np.array_equal(logits(lm).view(np.uint32), logits(same).view(np.uint32))
        assert same.model.fingerprint == lm.model.fingerprint
        assert same.model.cache_origin == lm.model.cache_origin
        assert same.model.n_params == lm.model.n_params
        assert same.model.weight_bytes == lm.model.weight_bytes
        assert same.model.screened == lm.model.screened
        assert same.tokenizer.special_ids == lm.tokenizer.special_ids
        for name in ("kind", "vocab_size", "bos_id", "eos_ids", "prefix", "suffix", "named_tokens", "chat_templates"):
            assert getattr(same.tokenizer.metadata, name) == getattr(lm.tokenizer.metadata, name)
        assert same.tokenizer.fingerprint == lm.tokenizer.fingerprint
        assert same.generation_options == lm.generation_options
        text = "Ab c\n<1> é"
        assert same.tokenizer.encode(text) == lm.tokenizer.encode(text)
        assert same.tokenizer.decode(IDS) == lm.tokenizer.decode(IDS)
        one, other = (each.generate_text("a b", max_tokens=8, temperature=0) for each in (lm, same))
        assert one == other


@pytest.mark.parametrize("name", FOLDERS)
def test_a_packed_folder_has_the_same_bits(name: str, tmp_path: Path) -> None:
    folder = tiny_files.write_hf(tiny_models.MODELS[name], tmp_path / name)
    check_equal(folder, pyml_nlp.pack(folder, tmp_path / "m.pyml"))


@pytest.mark.parametrize("name", GGUFS)
def test_a_packed_gguf_file_has_the_same_bits(name: str, tmp_path: Path) -> None:
    path = tiny_files.write_gguf(tiny_models.MODELS[name], tmp_path / "m.gguf")
    check_equal(path, pyml_nlp.pack(path, tmp_path / "m.pyml"))


@pytest.mark.parametrize(
    "kind",
    ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_1", "q3_k", "q4_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4"],
)
def test_every_block_type_keeps_its_bits(kind: str, tmp_path: Path) -> None:
    path = tiny_files.write_gguf(tiny_models.QUANTIZED, tmp_path / "m.gguf", kind)
    check_equal(path, pyml_nlp.pack(path, tmp_path / "m.pyml"))


@pytest.mark.model
def test_the_demo_model_keeps_its_bits(tmp_path: Path) -> None:
    """K-quants, a screened head of 262 144 rows, a tokenizer of as many pieces."""
    check_equal(default_model(), pyml_nlp.pack(None, tmp_path / "m.pyml"))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0", "q4_0"])
def test_a_packed_model_is_of_its_dtype(dtype: str, tmp_path: Path) -> None:
    folder = tiny_files.write_hf(tiny_models.MODELS["llama"], tmp_path / "llama")
    packed = pyml_nlp.pack(folder, tmp_path / "m.pyml", dtype=dtype)
    check_equal(folder, packed, dtype)
    other = "q4_0" if dtype != "q4_0" else "q8_0"
    with pytest.raises(PymlError, match=rf"m\.pyml: packed with dtype {dtype}, expected that or auto, got {other}: "):
        pyml_nlp.load(packed, dtype=other)


@pytest.fixture
def screened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A model whose head is screened, and the same packed."""
    monkeypatch.setattr(spec, "SCREENED_ROWS", 16)
    folder = tiny_files.write_hf(tiny_models.MODELS["llama"], tmp_path / "llama")
    return folder, pyml_nlp.pack(folder, tmp_path / "m.pyml")


def test_a_screened_head_keeps_its_statistics(screened: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, packed = screened
    check_equal(folder, packed)
    with pyml_nlp.load(folder, threads=1) as lm, pyml_nlp.load(packed, threads=1) as same:
        assert lm.model.screened
        one, other = (each.model.program.screening[0].params["row_stats"] for each in (lm, same))
        assert one.tobytes() == other.tobytes()
        assert not other.flags.writeable  # of the file
    other_level = "scalar" if cpu.level() != "scalar" else "avx2"
    monkeypatch.setattr(cpu, "level", lambda: other_level)
    with PackedFile(packed) as file:
        head = file.weights(_specs(packed)).matrix("head.weight")
    assert head.split
    assert head.row_stats is None  # of another level: computed anew


def _specs(packed: Path) -> Any:
    from pyml_nlp.loading import describe

    with PackedFile(packed) as file:
        description = describe(file)
    return description.architecture.Model.specs(description.config)


def test_a_packed_head_need_not_be_screened(screened: tuple[Path, Path]) -> None:
    folder, packed = screened
    with pyml_nlp.load(folder, threads=1, screen=False) as lm, pyml_nlp.load(packed, threads=1, screen=False) as same:
        assert not same.model.screened
        assert np.array_equal(logits(lm), logits(same))


# ---- the file


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    original = tiny_files.write_hf(tiny_models.MODELS["llama"], folder / "llama")
    (original / "LICENSE").write_text("Do as you like.\n")
    return pyml_nlp.pack(original, folder / "m.pyml")


def test_the_file_is_the_whole_model(packed: Path) -> None:
    with PackedFile(packed) as file:
        assert file.section("text LICENSE") == b"Do as you like.\n"
        assert all(entry.offset % ALIGNMENT == 0 for entry in file.entries)
    assert not stat.S_IMODE(packed.stat().st_mode) & 0o222
    assert pyml_nlp.model_info(packed).architecture == "llama"


def test_matrices_are_pages_of_the_file(packed: Path) -> None:
    with pyml_nlp.load(packed, threads=1) as lm:
        table = lm.model.program.operations[0].params["table"].data
        assert not table.flags.writeable
        assert table.ctypes.data % 64 == 0
        assert any(
            str(packed) in line and " r--s " in line for line in Path("/proc/self/maps").read_text().splitlines()
        )


def test_packing_again_replaces_the_file_that_others_use(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pyml"
    folder = packed.parent / "llama"
    pyml_nlp.pack(folder, path)
    with pyml_nlp.load(path, threads=1) as lm:
        before = logits(lm)
        inode = path.stat().st_ino
        pyml_nlp.pack(folder, path)
        assert path.stat().st_ino != inode
        assert np.array_equal(logits(lm), before)


def test_other_files_are_not_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PymlError, match=r"notes\.txt: it exists and is not a packed model; give another name"):
        pyml_nlp.pack(packed.parent / "llama", tmp_path / "notes.txt")
    with pytest.raises(PymlError, match=r"m\.pyml: it is packed already; give the original"):
        pyml_nlp.pack(packed, tmp_path / "n.pyml")
    with pytest.raises(PymlError, match=r"n\.pyml: cannot be written: No such file or directory"):
        pyml_nlp.pack(packed.parent / "llama", tmp_path / "none" / "n.pyml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_pipe_is_neither_waited_for_nor_replaced(packed: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(PymlError, match=r"pipe: it exists and is not a packed model"):
        pyml_nlp.pack(packed.parent / "llama", pipe)
    with pytest.raises(PymlError, match="expected a regular file, got a folder, device or pipe"):
        pyml_nlp.load(pipe)


def test_a_full_disk_leaves_no_file(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyml_nlp.formats import packed_writer

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_writer, "_write", full)
    with pytest.raises(PymlError, match=r"n\.pyml: cannot be written: No space left on device$"):
        pyml_nlp.pack(packed.parent / "llama", tmp_path / "n.pyml")
    assert not list(tmp_path.iterdir())


def test_without_a_path_it_is_in_the_cache(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyml_nlp.cached_models import cached_models, remove

    monkeypatch.setenv("PYML_CACHE", str(tmp_path))
    path = pyml_nlp.pack(packed.parent / "llama", dtype="q4_0")
    assert path == tmp_path / "packed" / "llama-q4_0.pyml"
    with pyml_nlp.load("llama-q4_0.pyml", threads=1) as lm:
        assert lm.name == "llama-q4_0.pyml"
    assert "llama-q4_0.pyml" in [model.source.name for model in cached_models()]
    remove("llama-q4_0.pyml")
    assert not path.exists()


def test_checksums_of_matrices_are_compared_on_request(packed: Path, tmp_path: Path) -> None:
    packing.check(packed)
    data = bytearray(packed.read_bytes())
    with PackedFile(packed) as file:
        entry = next(entry for entry in file.entries if entry.kind == "matrix")
    data[entry.offset + 5] ^= 1
    path = tmp_path / "m.pyml"
    path.write_bytes(data)
    pyml_nlp.load(path, threads=1).close()
    with pytest.raises(PymlError, match=rf"m\.pyml: damaged: matrix '?{re.escape(entry.name)}'?: expected hash "):
        packing.check(path)


def test_a_job_knows_it_by_its_bytes(packed: Path, tmp_path: Path) -> None:
    known = identify(packed)
    assert [file.name for file in known.files] == ["packed model"]
    copy = tmp_path / "copy.pyml"
    copy.write_bytes(packed.read_bytes())
    check_model(copy, known, whole=True)
    other = pyml_nlp.pack(packed.parent / "llama", tmp_path / "other.pyml", dtype="q4_0")
    with pytest.raises(PymlError, match=r"other\.pyml: another model: "):
        check_model(other, known, whole=False)


# ---- refused files


def rewritten(packed: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write the file with another header, whose hash is right."""
    data = packed.read_bytes()
    magic, version, layout, _, length = PROLOGUE.unpack_from(data)
    header = json.loads(data[ALIGNMENT : ALIGNMENT + length])
    change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    rest = data[-(-(ALIGNMENT + length) // ALIGNMENT) * ALIGNMENT :]
    gap = bytes(-len(text) % ALIGNMENT)
    prologue = PROLOGUE.pack(magic, version, layout, ALIGNMENT + len(text) + len(gap) + len(rest), len(text))
    fixed = prologue + struct.pack("<Q", header_hash(prologue, text))
    path.write_bytes(fixed + bytes(ALIGNMENT - len(fixed)) + text + gap + rest)
    return path


def _matrix(index: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["matrices"][0][index] = value

    return change


def _weights(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header["weights"][key] = value

    return change


def _pop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        del header[key]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_matrix(0, "odd"), "odd: unknown tensor"),
        (_matrix(1, "q9"), "q9"),
        (_matrix(1, ["q8_0"]), "header: matrices: expected name, type, shape, split and hash"),
        (_matrix(2, [1 << 40, 1 << 40]), "expected a shape of whole numbers from 1"),
        (_matrix(2, [0, 32]), "expected a shape of whole numbers from 1"),
        (_matrix(2, [-16, 32]), "expected a shape of whole numbers from 1"),
        (_matrix(2, [1 << 20, 1 << 20]), "truncated: expected bytes"),
        (_matrix(3, 1), "header: matrices: expected name"),
        (_matrix(4, "zz"), "expected a hash of 16 digits"),
        (_weights("fingerprint", "x"), "fingerprint: expected 32 hexadecimal digits"),
        (_weights("config_digest", "0" * 32), "packed by a version of pyml that reads this configuration differently"),
        (_weights("n_params", -1), "n_params: expected a whole number"),
        (_weights("dtype", 5), "dtype: expected a text"),
        (_pop("matrices"), "matrices: expected a list, got 'null'"),
        (_pop("config"), "config: expected an object"),
        (lambda header: header["matrices"].append(header["matrices"][0]), "truncated|expected"),
        (lambda header: header["matrices"].pop(), "bytes by its tables, got"),
        (lambda header: header["config"].update(num_hidden_layers=1), "unknown tensor"),
        (lambda header: header["config"].update(auto_map={"AutoModel": "x.Y"}), "."),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_in_one_line(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = rewritten(packed, tmp_path / "m.pyml", change)
    with pytest.raises(PymlError, match=message) as caught:
        pyml_nlp.load(path, threads=1)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("start", "new", "message"),
    [
        (8, struct.pack("<I", 2), "packed by another version of pyml: expected format 1 with layout 1, got 2 with 1; "),
        (12, struct.pack("<I", 9), "got 1 with 9; pack the original again with: pyml pack"),
        (16, struct.pack("<Q", 1 << 60), "truncated or incomplete: expected a file of 1152921504606846976 bytes"),
        (24, struct.pack("<Q", 1 << 60), "expected a header of at most"),
        (32, bytes(8), "damaged: expected a header of hash 0000000000000000"),
        (80, b"\xff", "damaged: expected a header of hash"),
    ],
)
def test_damage_at_the_beginning(packed: Path, tmp_path: Path, start: int, new: bytes, message: str) -> None:
    data = packed.read_bytes()
    path = tmp_path / "m.pyml"
    path.write_bytes(data[:start] + new + data[start + len(new) :])
    with pytest.raises(PymlError, match=re.escape(message)):
        pyml_nlp.load(path)


@pytest.mark.parametrize("kept", [0, 7, 8, 40, 63, 64, 500, -1, -64])
def test_a_shorter_file_is_refused(packed: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.pyml"
    path.write_bytes(packed.read_bytes()[:kept])
    with pytest.raises(PymlError, match=r"m\.pyml: (truncated|expected a packed model)"):
        pyml_nlp.load(path)


@pytest.mark.parametrize("kind", ["array", "section"])
def test_small_parts_are_compared_at_every_load(packed: Path, tmp_path: Path, kind: str) -> None:
    data = bytearray(packed.read_bytes())
    with PackedFile(packed) as file:
        entry = next(entry for entry in file.entries if entry.kind == kind)
    data[entry.offset] ^= 1
    path = tmp_path / "m.pyml"
    path.write_bytes(data)
    with pytest.raises(PymlError, match=rf"m\.pyml: damaged: {kind} "):
        pyml_nlp.load(path)


# ---- processes


def test_processes_share_the_pages(packed: Path) -> None:
    """Of two processes with the model, each has half of the pages that both have read."""

    def proportional() -> tuple[int, int]:
        """Private bytes and shared bytes of the mapping."""
        text = Path("/proc/self/smaps").read_text()
        part = text[text.index(str(packed)) :]
        return tuple(int(re.search(rf"^{key}:\s+(\d+)", part, re.M)[1]) for key in ("Private_Dirty", "Rss"))  # type: ignore[index, return-value]

    with pyml_nlp.load(packed, threads=1) as lm:
        logits(lm)
        private, resident = proportional()
        assert private == 0
        assert resident > 0
        child = os.fork()
        if child == 0:
            os._exit(0 if proportional()[0] == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
