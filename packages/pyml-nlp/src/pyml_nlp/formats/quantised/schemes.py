"""Which matrices of a folder are quantised, and how, by the section of its ``config.json`` about it.

A section says what is quantised in general, and names exceptions. Here the names of the tensors decide: a module that
has the tensors of the scheme is quantised, any other is not. The section has to tell what tensors do not: bits, the
mode of MLX, the version of GPTQ.

Sources: transformers' ``utils/quantization_config.py``; mlx-lm's ``utils.py``; compressed-tensors'
``quantization/quant_config.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pyml_core.errors import quoted
from pyml_nn.errors import show

from ..tensor_files import TensorInfo
from .experts import StackedMatrix, one_of_stack
from .integers import AWQMatrix, BytesMatrix, GPTQMatrix, MLXMatrix, PackedMatrix, mlx_floats
from .matrix import FLOATS, Fail, Found, MXFP4Matrix, QuantisedMatrix, ScaledFloats

F8 = ("f8_e4m3",)
KEYS = ("quantization_config", "compression_config", "quantization")
_UNUSED = (
    "weight_shape", "input_scale", "output_scale", "activation_scale", "input_zero_point", "output_zero_point",
    "input_global_scale", "input_activation_scale", "output_activation_scale", "k_scale", "v_scale",
)  # fmt: skip
"""Ends of names of tensors that do not change the weights: of activations, which pyml quantises in its own way."""

_MAIN = ("qweight", "weight_packed", "weight")
_PARTS = (
    *_MAIN, "scales", "biases", "qzeros", "g_idx", "weight_scale", "weight_scale_inv", "weight_scale_2",
    "weight_global_scale", "weight_zero_point", "weight_g_idx", *_UNUSED,
)  # fmt: skip

Make = Callable[[Found], QuantisedMatrix | None]


class Quantised(NamedTuple):
    """The quantised matrices of a folder.

    Attributes:
        description: of the scheme: ``"AWQ, 4 bits"``.
        matrices: name of a tensor of weights -> how it is stored.
        tensors: descriptions of all tensors of the folder, with one for each matrix in the place of its parts.
        config: the configuration without the section.
    """

    description: str
    matrices: Mapping[str, QuantisedMatrix]
    tensors: Mapping[str, TensorInfo]
    config: dict[str, Any]


def quantised_weights(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], fail: Fail) -> Quantised | None:
    """Find the quantised matrices of a folder; None if it has no such section, or one of an unknown scheme.

    Args:
        config: ``config.json``.
        tensors: all tensors of the folder.
        fail: makes an error of a message.

    Raises:
        ModelFileError: a variant that is not supported, or tensors that contradict each other.
    """
    key = next((key for key in KEYS if isinstance(config.get(key), Mapping)), None)
    if key is None:
        return None
    scheme = _scheme(config[key], "quantization" in config, lambda message: fail(f"config.json: {key}: {message}"))
    if scheme is None:
        return None
    description, ends, make = scheme
    matrices, joined, hidden = dict[str, QuantisedMatrix](), dict[str, list[TensorInfo]](), set[str]()
    for stored in _modules(tensors, fail):
        if not any(end in stored for end in ends):
            continue
        found, names = one_of_stack(stored)
        matrix = make(found)
        if matrix is None:
            continue
        parts = list(found.tensors.values())
        infos = joined.setdefault(parts[0].name, [])
        for index, name in enumerate(names):
            weight, nbytes = f"{name}.weight", sum(part.nbytes for part in parts)
            matrices[weight] = matrix if found is stored else StackedMatrix(matrix, index)
            infos.append(TensorInfo(weight, matrix.dtype, matrix.shape, 0, nbytes, description))
        hidden |= {part.name for part in parts}
    shown: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if name in joined:
            shown |= {one.name: one for one in joined[name]}
        elif name not in hidden and name.rpartition(".")[2] not in _UNUSED:
            shown[name] = info
    plain = {other: value for other, value in config.items() if other not in KEYS}
    return Quantised(description, matrices, shown, plain)


def _modules(tensors: Mapping[str, TensorInfo], fail: Fail) -> Iterator[Found]:
    """Yield the tensors of every module that has a weight and something else that belongs to it."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        module, _, end = name.rpartition(".")
        if end in _PARTS:
            modules.setdefault(module, {})[end] = info
    for module, ends in modules.items():
        if len(ends) > 1 and any(end in ends for end in _MAIN):
            yield Found(module, ends, fail)


Scheme = tuple[str, tuple[str, ...], Make]
"""Description, ends of names of which a quantised module has one, and what makes the matrix (None: it is plain)."""


def _scheme(section: Mapping[str, Any], mlx: bool, fail: Fail) -> Scheme | None:
    method = section.get("quant_method")
    if method in ("gptq", "awq", "fp8", "compressed-tensors"):
        return {"gptq": _gptq, "awq": _awq, "fp8": _fp8, "compressed-tensors": _compressed}[method](section, fail)
    if method is None and mlx and "group_size" in section:
        return _mlx(section, fail)
    return None


def _bits(section: Mapping[str, Any], allowed: tuple[int, ...], scheme: str, fail: Fail, key: str = "bits") -> int:
    bits = section.get(key)
    if type(bits) is not int or bits not in allowed:
        expected = " or ".join(map(str, allowed))
        raise fail(f"{key}: expected {expected} for weights quantised with {scheme}, got {show(bits)}")
    return bits


# ---- MLX


_MODES = {"affine": "", "mxfp4": " (mxfp4)", "nvfp4": " (nvfp4)"}


def _mlx(section: Mapping[str, Any], fail: Fail) -> Scheme:
    def make(found: Found) -> QuantisedMatrix | None:
        own = section.get(found.name)
        values = {**section, **own} if isinstance(own, Mapping) else section
        bits, group, mode = _mlx_numbers(values, fail)
        return MLXMatrix(found, bits, group) if mode == "affine" else mlx_floats(found, mode)

    bits, _, mode = _mlx_numbers(section, fail)
    return f"MLX, {bits} bits{_MODES[mode]}", ("scales",), make


def _mlx_numbers(values: Mapping[str, Any], fail: Fail) -> tuple[int, int, str]:
    mode, group = values.get("mode", "affine"), values.get("group_size")
    if mode not in _MODES:
        raise fail(f"mode: expected {' or '.join(_MODES)} for weights quantised with MLX, got {show(mode)}")
    bits = _bits(values, (2, 3, 4, 5, 6, 8) if mode == "affine" else (4,), "MLX", fail)
    if type(group) is not int or group not in (16, 32, 64, 128):
        raise fail(f"group_size: expected 16, 32, 64 or 128, got {show(group)}")
    return bits, group, mode


# ---- GPTQ, AWQ


def _gptq(section: Mapping[str, Any], fail: Fail) -> Scheme:
    bits = _bits(section, (2, 4, 8), "GPTQ", fail)
    version = section.get("checkpoint_format", "gptq")
    if version not in ("gptq", "gptq_v2"):
        raise fail(f"checkpoint_format: expected gptq or gptq_v2, got {show(version)}")
    if section.get("dynamic"):
        raise fail("dynamic: GPTQ with settings of its own for some layers is not supported")
    in_order = section.get("desc_act") is not True
    less = 1 if version == "gptq" else 0
    sorted_by = "" if in_order else ", columns in order of activations"
    return f"GPTQ, {bits} bits{sorted_by}", ("qweight",), lambda found: GPTQMatrix(found, bits, less, in_order)


def _awq(section: Mapping[str, Any], fail: Fail) -> Scheme:
    _bits(section, (4,), "AWQ", fail, "bits" if "bits" in section else "w_bit")
    version = section.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise fail(f"version: expected gemm for weights quantised with AWQ, got {show(version)}")
    return "AWQ, 4 bits", ("qweight",), AWQMatrix


# ---- float8


def _fp8(section: Mapping[str, Any], fail: Fail) -> Scheme:
    block = section.get("weight_block_size") or (128, 128)
    if not isinstance(block, list | tuple) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise fail(f"weight_block_size: expected two whole numbers, got {show(block)}")

    def make(found: Found) -> QuantisedMatrix | None:
        end = "weight_scale_inv" if "weight_scale_inv" in found else "weight_scale"
        if end not in found:
            return None
        return ScaledFloats(found, found.get("weight", F8), found.get(end, FLOATS, None), (block[0], block[1]))

    return "FP8", ("weight_scale_inv", "weight_scale"), make


# ---- compressed-tensors

_FORMATS = {
    "pack-quantized": ("weight_packed",),
    "int-quantized": ("weight_scale",),
    "float-quantized": ("weight_scale",),
    "naive-quantized": ("weight_scale",),
    "nvfp4-pack-quantized": ("weight_packed",),
    "mxfp4-pack-quantized": ("weight_packed",),
}


def _compressed(section: Mapping[str, Any], fail: Fail) -> Scheme:
    form = section.get("format")
    if form not in _FORMATS:
        raise fail(
            f"format: expected {', '.join(_FORMATS)} for weights quantised with compressed-tensors, got {show(form)}"
        )
    sparsity = section.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise fail("sparsity_config: sparse weights are not supported")
    groups = section.get("config_groups")
    weights = [
        group["weights"]
        for group in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(group, Mapping) and isinstance(group.get("weights"), Mapping)
    ]
    if not weights:
        raise fail("config_groups: expected a group with weights")
    numbers = {(one.get("num_bits"), one.get("type"), repr(one.get("block_structure"))) for one in weights}
    if len(numbers) > 1:
        raise fail("config_groups: expected one kind of weights, got several")
    bits = _bits(weights[0], (4, 8), "compressed-tensors", fail, "num_bits")
    block = weights[0].get("block_structure") or (128, 128)
    if not isinstance(block, list | tuple) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
        raise fail(f"block_structure: expected two whole numbers, got {show(block)}")

    def make(found: Found) -> QuantisedMatrix | None:
        if "weight_g_idx" in found:
            raise fail(f"{quoted(found.name)}: weights whose columns are in order of activations are not supported")
        if form == "pack-quantized":
            return PackedMatrix(found, bits)
        if form == "mxfp4-pack-quantized":
            packed, scale = found.get("weight_packed", ("u8",)), found.get("weight_scale", ("u8", "f8_e8m0"))
            return MXFP4Matrix(found, packed, scale)
        if form == "nvfp4-pack-quantized":
            packed, scale = found.get("weight_packed", ("u8",)), found.get("weight_scale", F8)
            divisor = found.get("weight_global_scale", FLOATS, None)
            return ScaledFloats(found, packed, scale, (1, 16), divisor=divisor)
        weight = found.tensors.get("weight")
        if weight is not None and weight.dtype == "i8":
            return BytesMatrix(found)
        scale = found.get("weight_scale", FLOATS, None)
        return ScaledFloats(found, found.get("weight", F8), scale, (block[0], block[1]))

    kind = "floats of" if weights[0].get("type") == "float" else "integers of"
    return f"compressed-tensors, {kind} {bits} bits ({form})", _FORMATS[form], make
