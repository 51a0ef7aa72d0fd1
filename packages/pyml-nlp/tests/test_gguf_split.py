"""Split GGUF models: all parts are read from any of them; parts that do not belong together are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import writers

from pyml_core.errors import PymlError
from pyml_nlp.errors import ModelFileError, ModelNotFoundError
from pyml_nlp.formats import gguf
from pyml_nlp.formats.gguf import GGUFFile, part_names
from pyml_nlp.formats.gguf_part import GGUFPart

Metadata = dict[str, tuple[str, Any]]
TENSORS = {f"t{number}": ("f32", (2, number + 1), writers.floats(2, number + 1)) for number in range(7)}


def part_path(folder: Path, number: int, count: int) -> Path:
    return folder / f"m-{number:05d}-of-{count:05d}.gguf"


def write(
    folder: Path, count: int = 3, changes: dict[int, Metadata | None] | None = None, first: int = 2
) -> list[Path]:
    """A model of ``count`` parts, ``first`` tensors in the first one, some parts with other metadata or missing."""
    names = list(TENSORS)
    step = -(-(len(names) - first) // (count - 1))
    ends = [0, first, *(first + step * (part + 1) for part in range(count - 2)), len(names)]
    paths = []
    for part in range(count):
        change = (changes or {}).get(part, {})
        if change is None:
            continue
        metadata: Metadata = {"general.name": ("str", "whole")} if part == 0 else {}
        metadata |= {"split.no": ("u16", part), "split.count": ("u16", count)}
        metadata |= {"split.tensors.count": ("i32", len(names))} | change
        tensors = {name: TENSORS[name] for name in names[ends[part] : ends[part + 1]]}
        path = part_path(folder, part + 1, count)
        path.write_bytes(writers.join(writers.gguf({k: v for k, v in metadata.items() if v[0]}, tensors)))
        paths.append(path)
    return paths


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_any_part_gives_the_model(tmp_path: Path, count: int, first: int) -> None:
    alignments: dict[int, Metadata | None] = {1: {"general.alignment": ("u32", 64)}}
    for path in write(tmp_path, count, alignments, first):
        with GGUFFile(path) as file:
            assert file.path == path
            assert [part.path.name for part in file.files] == part_names(path.name)
            assert file.metadata["general.name"] == "whole"
            assert file.names() == list(file.tensors) == list(TENSORS)
            for name, (dtype, shape, raw) in TENSORS.items():
                assert (file.dtype(name), file.shape(name)) == (dtype, shape)
                tensor = file.read(name)
                assert np.array_equal(tensor.to_f32(), np.frombuffer(raw, "<f4").reshape(shape))
                assert file.read(name, 1, 2).data.tobytes() == raw[len(raw) // 2 :]
            places = [(*file.place(name), len(raw)) for name, (_, _, raw) in TENSORS.items()]
            assert file.read_ranges(places).tobytes() == b"".join(raw for _, _, raw in TENSORS.values())
        with pytest.raises(ModelFileError, match="cannot read tensor 't6': Bad file descriptor"):
            file.read("t6")


def test_a_model_of_one_part(tmp_path: Path) -> None:
    """A file that claims to be the only part may have any name."""
    for count in (0, 1):
        path = tmp_path / "whole.gguf"
        metadata: Metadata = {"split.no": ("u16", 0), "split.count": ("u16", count)}
        path.write_bytes(writers.join(writers.gguf(metadata, TENSORS)))
        with GGUFFile(path) as file:
            assert file.names() == list(TENSORS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({1: None}, r"m-00002-of-00003\.gguf: there is no such file; it is part 2 of 3 of a split model$"),
        ({2: None}, r"m-00003-of-00003\.gguf: there is no such file; it is part 3 of 3 of a split model$"),
        ({2: {"split.no": ("u16", 1)}}, r"m-00003-of-00003\.gguf: metadata 'split\.no': expected 2 by .*, got 1$"),
        (
            {1: {"split.count": ("u16", 4)}},
            r"m-00002-of-00003\.gguf: metadata 'split\.count': expected 3 by .*, got 4$",
        ),
        ({1: {"split.count": ("", 0)}}, r"m-00002-of-00003\.gguf: metadata 'split\.count': .* got none$"),
        ({1: {"split.no": ("str", "1")}}, r"m-00002-of-00003\.gguf: metadata 'split\.no': .* got str$"),
        ({1: {"split.tensors.count": ("i32", 9)}}, r"m-00002.*count': expected 9 tensors in all of 3 parts, got 7$"),
        ({1: {"split.tensors.count": ("i32", -1)}}, r"m-00002.*count': expected an integer of at least 0, got -1$"),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, changes: dict[int, Metadata | None], message: str) -> None:
    first, *_ = write(tmp_path, 3, changes)
    missing = None in changes.values()
    with pytest.raises(ModelNotFoundError if missing else ModelFileError, match=message):
        GGUFFile(first)


def test_a_tensor_in_two_parts(tmp_path: Path) -> None:
    first, second, _ = write(tmp_path)
    fields = writers.gguf({"split.no": ("u16", 1), "split.count": ("u16", 3)}, {"t0": TENSORS["t0"]})
    second.write_bytes(writers.join(fields))
    with pytest.raises(
        ModelFileError, match=r"00002-of-00003\.gguf: tensor 't0': .* it is in m-00001-of-00003\.gguf too"
    ):
        GGUFFile(first)


def test_a_part_of_another_name(tmp_path: Path) -> None:
    """Renamed, or all parts joined byte by byte."""
    paths = write(tmp_path)
    renamed = shutil.copy(paths[0], tmp_path / "model.gguf")
    joined = tmp_path / "joined.gguf"
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    swapped = shutil.copy(paths[1], part_path(tmp_path, 1, 3))
    for path, part in ((renamed, 1), (joined, 1), (swapped, 2)):
        with pytest.raises(
            ModelFileError, match=rf"part {part} of 3 of a split model: .* ends with -0000{part}-of-00003"
        ):
            GGUFFile(path)


def test_a_part_that_is_malformed(tmp_path: Path) -> None:
    """Every truncation of a part gives an error that names it, and no file stays open."""
    first, second, _ = write(tmp_path)
    content = second.read_bytes()
    opened: list[GGUFPart] = []

    class Watched(GGUFPart):
        def __init__(self, path: Path) -> None:
            opened.append(self)
            super().__init__(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFPart", Watched)
        for end in range(0, len(content) - 100, 7):
            second.write_bytes(content[:end])
            with pytest.raises(PymlError, match=r"m-00002-of-00003\.gguf: "):
                GGUFFile(first)
    assert len(opened) > 20
    assert {part.fd for part in opened} == {-1}


def test_part_names() -> None:
    names = [f"a-00002-of-00003-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert all(part_names(name) == names for name in names)
    alone = ("m.gguf", "m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-1-of-3.gguf", "m-00001-of-99999.gguf", "")
    for name in alone:
        assert part_names(name) == [name]
