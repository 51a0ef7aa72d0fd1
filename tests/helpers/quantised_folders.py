"""Tiny models whose folders are quantised as other tools do it, and the weights that their formulas give.

The packers are written here from the formats' descriptions, one number at a time where that is clearer, and share no
code with the readers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.helpers.tiny_files import write_hf
from tests.helpers.tiny_models import QUANTIZED, TinyModel

Arrays = dict[str, npt.NDArray[Any]]
F32Array = npt.NDArray[Any]


class Scheme(NamedTuple):
    """A way to quantise a folder.

    Attributes:
        section: the configuration's section.
        key: its key.
        pack: random tensors of a matrix, by the ends of their names, and its weights, from its shape.
        block_type: the type that pyml packs it in with dtype auto.
        every: whether embeddings are quantised as well.
    """

    section: Mapping[str, Any]
    key: str
    pack: Callable[[np.random.Generator, tuple[int, int]], tuple[Arrays, F32Array]]
    block_type: str
    every: bool = False


def scales(rng: np.random.Generator, *shape: int) -> F32Array:
    """Scales that bfloat16 and float16 hold."""
    numbers = rng.uniform(0.002, 0.02, shape).astype(np.float32)
    return (numbers.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def bf16(values: F32Array) -> npt.NDArray[Any]:
    """As ml_dtypes' bfloat16, which safetensors writes."""
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)


def words(codes: npt.NDArray[Any], bits: int, dtype: type = np.int32) -> npt.NDArray[Any]:
    """Pack rows of codes into words of 32 bits, the lowest bits first, across words if 32 is no multiple."""
    rows = []
    for row in codes.tolist():
        number = sum(int(code) << (bits * i) for i, code in enumerate(row))
        nbytes = -(-len(row) * bits // 32) * 4
        rows.append(np.frombuffer(number.to_bytes(nbytes, "little"), np.uint32))
    return np.array(rows).astype(np.uint32).view(dtype)


def spread(numbers: F32Array, columns: int) -> F32Array:
    """Repeat the numbers of groups for their columns."""
    return np.repeat(numbers, columns // numbers.shape[1], axis=1)


def mlx(bits: int, group: int, half: bool = False) -> Callable[..., tuple[Arrays, F32Array]]:
    """``mlx.core.quantize``: w = s q + b."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        rows, columns = shape
        codes = rng.integers(0, 1 << bits, shape)
        scale = scales(rng, rows, columns // group) * 16 / (1 << bits)
        bias = -scales(rng, rows, columns // group) * 8
        weight = codes.astype(np.float32) * spread(scale, columns) + spread(bias, columns)
        as_stored = (lambda x: x.astype(np.float16)) if half else bf16
        return {
            "weight": words(codes, bits, np.uint32), "scales": as_stored(scale), "biases": as_stored(bias),
        }, weight  # fmt: skip

    return pack


def packed(bits: int, group: int, zeros: bool) -> Callable[..., tuple[Arrays, F32Array]]:
    """compressed-tensors' pack-quantized: w = (q - z) s, the zero points packed along the rows."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        rows, columns = shape
        codes, scale = rng.integers(0, 1 << bits, shape), scales(rng, rows, columns // group) * 16 / (1 << bits)
        zero = np.full(scale.shape, 1 << (bits - 1))
        arrays = {
            "weight_packed": words(codes, bits), "weight_scale": bf16(scale), "weight_shape": np.array(shape, np.int64),
        }  # fmt: skip
        if zeros:
            zero = rng.integers(0, 1 << bits, scale.shape)
            arrays["weight_zero_point"] = np.ascontiguousarray(words(zero.T, bits).T)
        return arrays, (codes - spread(zero, columns)).astype(np.float32) * spread(scale, columns)

    return pack


def gptq(bits: int, group: int, less: int, act_order: bool = False) -> Callable[..., tuple[Arrays, F32Array]]:
    """GPTQ: w = (q - z) s, packed along the columns of w."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        rows, columns = shape
        codes = rng.integers(0, 1 << bits, shape)
        groups = columns // group
        scale, zero = scales(rng, rows, groups) * 16 / (1 << bits), rng.integers(less, 1 << bits, (rows, groups))
        index = np.arange(columns, dtype=np.int32) // group
        if act_order:
            index = rng.permutation(index)
        arrays = {
            "qweight": np.ascontiguousarray(words(codes, bits).T), "qzeros": words((zero - less).T, bits),
            "scales": np.ascontiguousarray(scale.astype(np.float16).T), "g_idx": index,
        }  # fmt: skip
        return arrays, (codes - zero[:, index]).astype(np.float32) * scale[:, index]

    return pack


def awq(group: int) -> Callable[..., tuple[Arrays, F32Array]]:
    """AutoAWQ's gemm: words along the rows of w, in the order of its ``AWQ_REVERSE_ORDER``."""

    def in_words(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        order = [0, 2, 4, 6, 1, 3, 5, 7]  # position i of a word holds this column
        eights = codes.reshape(len(codes), -1, 8)[:, :, order]
        return words(eights.reshape(len(codes), -1), 4)

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        rows, columns = shape
        codes, scale = rng.integers(0, 16, shape), scales(rng, rows, columns // group)
        zero = rng.integers(0, 16, scale.shape)
        arrays = {
            "qweight": in_words(codes.T), "qzeros": in_words(zero.T),
            "scales": np.ascontiguousarray(scale.astype(np.float16).T),
        }  # fmt: skip
        return arrays, (codes - spread(zero, columns)).astype(np.float32) * spread(scale, columns)

    return pack


def float8(end: str, block: tuple[int, int] | None) -> Callable[..., tuple[Arrays, F32Array]]:
    """FP8: float8 e4m3 times the scale of a block, of a row (None), or of the matrix (0, 0)."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        import ml_dtypes

        rows, columns = shape
        numbers = (rng.standard_normal(shape) * 4).astype(ml_dtypes.float8_e4m3fn)
        high, wide = (1, columns) if block is None else block if block != (0, 0) else (rows, columns)
        scale = scales(rng, -(-rows // high), -(-columns // wide))
        spread_scale = np.repeat(np.repeat(scale, high, axis=0)[:rows], wide, axis=1)[:, :columns]
        stored = scale.reshape(()) if block == (0, 0) else scale
        return {"weight": numbers, end: stored}, numbers.astype(np.float32) * spread_scale

    return pack


def int8(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
    """compressed-tensors' int-quantized: int8 times the scale of a row."""
    codes, scale = rng.integers(-128, 128, shape).astype(np.int8), scales(rng, shape[0], 1) / 16
    return {"weight": codes, "weight_scale": bf16(scale)}, codes.astype(np.float32) * scale


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def float4(form: str) -> Callable[..., tuple[Arrays, F32Array]]:
    """Numbers of e2m1 in groups: mxfp4 (e8m0 for 32) or nvfp4 (e4m3 for 16, over a global scale)."""

    def pack(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
        import ml_dtypes

        rows, columns = shape
        codes = rng.integers(0, 16, shape)
        values = np.where(codes > 7, -E2M1[codes % 8], E2M1[codes % 8])
        both = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        if form == "mxfp4":
            exponents = rng.integers(118, 124, (rows, columns // 32)).astype(np.uint8)
            scale = np.exp2(exponents.astype(np.float32) - 127)
            return {"weight_packed": both, "weight_scale": exponents}, values * spread(scale, columns)
        stored = rng.uniform(1, 448, (rows, columns // 16)).astype(ml_dtypes.float8_e4m3fn)
        whole = np.array([32768.0], np.float32)
        weight = values * spread(stored.astype(np.float32) / whole, columns)
        return {"weight_packed": both, "weight_scale": stored, "weight_global_scale": whole}, weight

    return pack


def mlx_float4(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Arrays, F32Array]:
    """MLX's mode mxfp4: the same numbers in words."""
    arrays, weight = float4("mxfp4")(rng, shape)
    return {"weight": arrays["weight_packed"].view(np.uint32), "scales": arrays["weight_scale"]}, weight


def _compressed(form: str, bits: int, kind: str = "int") -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "strategy": "group", "group_size": 64, "symmetric": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": group},
    }  # fmt: skip


def _mlx(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"group_size": group, "bits": bits, **more}


def _gptq(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": False, **more}


_AWQ = {"quant_method": "awq", "bits": 4, "version": "gemm", "zero_point": True}
_Q, _M = "quantization_config", "quantization"

SCHEMES: dict[str, Scheme] = {
    "mlx-4-64": Scheme(_mlx(4, 64), _M, mlx(4, 64), "q4_a64", every=True),
    "mlx-4-32": Scheme(_mlx(4, 32), _M, mlx(4, 32), "q4_a32", every=True),
    "mlx-4-128-f16": Scheme(_mlx(4, 128), _M, mlx(4, 128, half=True), "q4_a128", every=True),
    "mlx-8-64": Scheme(_mlx(8, 64), _M, mlx(8, 64), "q8_a64", every=True),
    "mlx-8-32": Scheme(_mlx(8, 32), _M, mlx(8, 32), "q8_a32", every=True),
    "mlx-6-64": Scheme(_mlx(6, 64), _M, mlx(6, 64), "q8_a64", every=True),
    "mlx-3-64": Scheme(_mlx(3, 64), _M, mlx(3, 64), "q4_a64", every=True),
    "mlx-mxfp4": Scheme(_mlx(4, 32, mode="mxfp4"), _M, mlx_float4, "mxfp4", every=True),
    "w4a16-32": Scheme(_compressed("pack-quantized", 4), _Q, packed(4, 32, False), "q4_a32"),
    "w4a16-128": Scheme(_compressed("pack-quantized", 4), _Q, packed(4, 128, False), "q4_a128"),
    "w4a16-zeros": Scheme(_compressed("pack-quantized", 4), _Q, packed(4, 64, True), "q4_a64"),
    "w8a16": Scheme(_compressed("pack-quantized", 8), _Q, packed(8, 128, False), "q8_a64"),
    "int8": Scheme(_compressed("int-quantized", 8), _Q, int8, "q8_a64"),
    "ct-float8": Scheme(_compressed("float-quantized", 8, "float"), _Q, float8("weight_scale", None), "q8_0"),
    "ct-mxfp4": Scheme(_compressed("mxfp4-pack-quantized", 4, "float"), _Q, float4("mxfp4"), "mxfp4"),
    "ct-nvfp4": Scheme(_compressed("nvfp4-pack-quantized", 4, "float"), _Q, float4("nvfp4"), "q8_0"),
    "gptq-4": Scheme(_gptq(4, 128), _Q, gptq(4, 128, 1), "q4_a128"),
    "gptq-4-v2": Scheme(_gptq(4, 32, checkpoint_format="gptq_v2"), _Q, gptq(4, 32, 0), "q4_a32"),
    "gptq-8": Scheme(_gptq(8, 64), _Q, gptq(8, 64, 1), "q8_a64"),
    "gptq-order": Scheme(_gptq(4, 64, desc_act=True), _Q, gptq(4, 64, 1, act_order=True), "q8_0"),
    "awq": Scheme(_AWQ | {"group_size": 64}, _Q, awq(64), "q4_a64"),
    "fp8-blocks": Scheme(
        {"quant_method": "fp8", "weight_block_size": [128, 128]}, _Q, float8("weight_scale_inv", (128, 128)), "q8_0"
    ),
    "fp8-whole": Scheme({"quant_method": "fp8"}, _Q, float8("weight_scale", (0, 0)), "q8_0"),
}  # fmt: skip


@cache
def _tensors(name: str) -> tuple[Arrays, Arrays]:
    scheme, rng = SCHEMES[name], np.random.default_rng(5)
    stored: Arrays = {}
    weights: Arrays = {}
    for full, array in QUANTIZED.weights().items():
        stored[full] = weights[full] = array
        if array.ndim == 2 and (scheme.every or ".layers." in full):
            del stored[full]
            arrays, weights[full] = scheme.pack(rng, (array.shape[0], array.shape[1]))
            stored |= {f"{full.removesuffix('.weight')}.{end}": part for end, part in arrays.items()}
    return stored, weights


def tensors(name: str) -> tuple[Arrays, Arrays]:
    """Make the tensors of the tiny Llama of wide rows, quantised by a scheme, and its weights as float32."""
    stored, weights = _tensors(name)
    return dict(stored), dict(weights)


def write(name: str, folder: Path, stored: Arrays | None = None) -> Arrays:
    """Write the folder of such a model, perhaps with other tensors; return its weights."""
    from safetensors.numpy import save_file

    write_hf(QUANTIZED, folder)
    made, weights = tensors(name)
    save_file(made if stored is None else stored, folder / "model.safetensors", {"format": "pt"})
    change_config(folder, {SCHEMES[name].key: SCHEMES[name].section})
    return weights


def change_config(folder: Path, changes: Mapping[str, Any]) -> None:
    """Change keys of the configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(changes)))


def mlx_experts(model: TinyModel, folder: Path, group: int = 32) -> Arrays:
    """Write a mixture of experts as mlx-lm does, its experts stacked and everything in 4 bits; return its weights."""
    from safetensors.numpy import save_file

    write_hf(model, folder)
    rng, pack = np.random.default_rng(6), mlx(4, group)
    stored: dict[str, list[npt.NDArray[Any]]] = {}
    weights: Arrays = {}
    for full, array in model.weights().items():
        weights[full] = array
        name = full
        if array.ndim == 2:
            arrays, weights[full] = pack(rng, (array.shape[0], array.shape[1]))
            name = re.sub(r"experts\.\d+\.(\w+)\.weight$", lambda match: _switch(match[1]), full)
            for end, part in arrays.items():
                stored.setdefault(f"{name.removesuffix('.weight')}.{end}", []).append(part)
        else:
            stored[name] = [array]
    save_file(
        {name: np.stack(parts) if "switch_mlp" in name else parts[0] for name, parts in stored.items()},
        folder / "model.safetensors",
    )
    change_config(folder, {"quantization": _mlx(4, group)})
    return weights


def _switch(name: str) -> str:
    renamed = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}.get(name, name)
    return f"switch_mlp.{renamed}.weight"
