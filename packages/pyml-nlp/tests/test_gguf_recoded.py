"""GGUF types that are recoded when they are read: the weights of the ``gguf`` package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import writers

from pyml_core.dtypes import dequantize, quantize
from pyml_nlp.errors import ModelFileError
from pyml_nlp.formats import gguf_grids
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.formats.gguf_recoded import BLOCK, RECODED, Recoded

ROUNDED = ("IQ2_XS", "IQ2_S", "IQ1_M")


def random_blocks(name: str, count: int, scale: bytes | None = None) -> npt.NDArray[np.uint8]:
    """Random blocks with scales of all magnitudes, or with this one."""
    rng = np.random.default_rng(3)
    (kind,) = (kind for kind in RECODED.values() if kind.name == name)
    blocks = rng.integers(0, 256, (count, kind.nbytes), dtype=np.uint8)
    halves = np.concatenate([
        [0.0, 2.0**-24, 2.0**-14, -1.0, 6e4 if name not in ROUNDED else 60.0],
        rng.standard_normal(count - 5) * 10.0 ** rng.integers(-4, 1, count - 5),
    ]).astype(np.float16).view(np.uint8).reshape(count, 2)  # fmt: skip
    if scale is not None:
        halves[:] = np.frombuffer(scale, np.uint8)
    if name == "IQ1_M":  # a nibble of the scale in the upper half of every second byte
        for at, nibble in ((49, halves[:, 0]), (51, halves[:, 0] >> 4), (53, halves[:, 1]), (55, halves[:, 1] >> 4)):
            blocks[:, at] = blocks[:, at] & 0x0F | nibble << 4
    else:
        at = {"TQ1_0": 52, "TQ2_0": 64}.get(name, 0)
        blocks[:, at : at + 2] = halves
    return blocks


@pytest.mark.parametrize("kind", RECODED.values(), ids=lambda kind: kind.name)
def test_weights_are_those_of_gguf(kind: Recoded) -> None:
    name, nbytes, dtype, recode = kind
    number = gguf.GGMLQuantizationType[name]
    assert RECODED[number.value].name == name
    assert gguf.GGML_QUANT_SIZES[number] == (BLOCK, nbytes)
    blocks = random_blocks(name, 400)
    expected = gguf.dequantize(blocks.reshape(100, -1), number)
    if name in ROUNDED:
        expected = dequantize(quantize(expected, "q8_0"), "q8_0", expected.shape)
    assert np.array_equal(dequantize(recode(blocks), dtype, (100, 1024)), expected)


GRIDS = {
    "IQ1_S": gguf_grids.IQ1_GRID, "IQ2_XXS": gguf_grids.IQ2_XXS_GRID, "IQ2_XS": gguf_grids.IQ2_XS_GRID,
    "IQ2_S": gguf_grids.IQ2_S_GRID, "IQ3_XXS": gguf_grids.IQ3_XXS_GRID, "IQ3_S": gguf_grids.IQ3_S_GRID,
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_those_of_gguf(name: str) -> None:
    oracle = getattr(gguf.quants, name)
    oracle.init_grid()
    assert np.array_equal(GRIDS[name], oracle.grid.reshape(oracle.grid_shape))


@pytest.mark.parametrize("number", RECODED)
def test_a_tensor_of_a_file(number: int, tmp_path: Path) -> None:
    name, _, dtype, recode = RECODED[number]
    blocks = random_blocks(name, 12)
    path = tmp_path / "m.gguf"
    path.write_bytes(writers.join(writers.gguf({}, {"w": (number, (3, 4, 256), blocks.tobytes())})))
    with GGUFFile(path) as file:
        info = file.tensors["w"]
        assert (info.dtype, info.stored, info.shape, info.nbytes) == (dtype, name, (3, 4, 256), blocks.size)
        assert not file.is_stored("w")
        assert np.array_equal(file.read("w").data, recode(blocks))
        part = file.read("w", 1, 2)
        assert part.shape == (1, 4, 256)
        assert np.array_equal(part.data, recode(blocks[4:8]))


@pytest.mark.parametrize("number", RECODED)
@pytest.mark.parametrize("scale", [b"\x00\x7c", b"\x00\xfc", b"\x00\x7e"])
@pytest.mark.filterwarnings("error")
def test_scales_that_are_not_finite(number: int, scale: bytes, tmp_path: Path) -> None:
    name = RECODED[number].name
    path = tmp_path / "m.gguf"
    blocks = random_blocks(name, 12, scale)
    path.write_bytes(writers.join(writers.gguf({}, {"w": (number, (12, 256), blocks.tobytes())})))
    with GGUFFile(path) as file:
        if name in ROUNDED:
            with pytest.raises(ModelFileError, match="tensor 'w': q8_0: expected finite numbers"):
                file.read("w")
        else:
            assert not file.read("w").is_finite()
