"""The tiny random models built in memory, as Hugging Face folders, and as GGUF files under llama.cpp's conventions.

``python -m tests.helpers.tiny_files FOLDER`` writes every tiny model as a Hugging Face folder and, where the format has
the architecture, as a GGUF file.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.helpers import tokenizer_files
from tests.helpers.tiny_models import MODELS, VOCAB, TinyModel

F32Array = npt.NDArray[np.float32]


def build(model: TinyModel, weights: Mapping[str, F32Array] | None = None, **options: Any) -> Any:
    """The model in pyml (pyml_nn only), with its own weights or the given ones; ``options`` go to ``Model``."""
    from pyml_nn.models import architecture_of
    from pyml_nn.weights import ArrayWeights

    module = architecture_of(model.config, "config.json")
    return module.Model(module.Config.from_hf(model.config), ArrayWeights(weights or model.weights()), **options)


def write_hf(model: TinyModel, folder: Path) -> Path:
    """Write the model as a Hugging Face folder: config.json, model.safetensors (f32) and tokenizer files."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=1))
    weights = model.weights()
    if "vision_config" in model.config:  # of these a text model has no use
        width = model.config["vision_config"]["hidden_size"]
        weights["vision_tower.vision_model.post_layernorm.weight"] = np.ones(width, np.float32)
        weights["multi_modal_projector.mm_soft_emb_norm.weight"] = np.zeros(width, np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if model.family.pieces:
        tokenizer_files.write_sentencepiece(folder, tokenizer_files.tiny_pieces(VOCAB))
    else:
        tokenizer_files.write_byte_level(folder, tokenizer_files.tiny_byte_level(VOCAB))
    return folder


# ---- GGUF


def write_gguf(
    model: TinyModel, path: Path, dtype: str = "f32", more: Callable[[Any], None] | None = None, **options: Any
) -> Path:
    """Write the model as a GGUF file with the ``gguf`` package, under llama.cpp's conventions.

    These are: q and k rows of ``llama`` permuted for interleaved RoPE, 1 added to Gemma's norms, GPT-2's matrices
    transposed, Llama 3's RoPE scaling as a tensor of frequency factors. Matrices are stored as ``dtype``, all else as
    f32; a K-quant or IQ4 matrix gets random blocks in place of the model's values: the package cannot make those.
    ``more`` adds metadata. Options are those of the package's writer, which can write split models.
    """
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, gguf_architecture(model), **options)
    write_metadata(writer, model)
    if more is not None:
        more(writer)
    for name, array in _gguf_tensors(model):
        if array.ndim == 1 or dtype == "f32" or "position" in name:
            writer.add_tensor(name, array)
            continue
        kind = gguf.GGMLQuantizationType[dtype.upper()]
        if dtype.upper() in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"):
            data = gguf.quants.quantize(array, kind)
        else:
            data = _random_blocks(dtype, array.shape, zlib.crc32(name.encode()))
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_architecture(model: TinyModel) -> str:
    """The name of the model's architecture in GGUF files."""
    return model.family.architecture or str(model.text["model_type"])


def _gguf_tensors(model: TinyModel) -> Iterator[tuple[str, F32Array]]:
    family, config = model.family, model.config
    table = family.gguf_names
    experts: dict[str, list[F32Array]] = {}
    for full_name, array in model.weights().items():
        name, kind = full_name.removeprefix(model.prefix).rsplit(".", 1)
        layer = ""
        if name.startswith(family.layers):
            number, name = name.removeprefix(family.layers).split(".", 1)
            layer = f"blk.{number}."
        converted = family.convert(model, name, array)
        if ".experts." in name:
            experts.setdefault(f"{layer}{table[name.rsplit('.', 1)[1]]}.{kind}", []).append(converted)
            continue
        yield f"{layer}{table[name]}.{kind}", converted
    for stacked, arrays in experts.items():
        yield stacked, np.stack(arrays)
    scaling: Mapping[str, Any] = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, scaling)
    for length in ("long", "short"):
        if f"{length}_factor" in scaling:
            yield f"rope_factors_{length}.weight", np.array(scaling[f"{length}_factor"], np.float32)


def _llama3_factors(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> F32Array:
    """Divisors of the frequencies. Source: llama.cpp's convert_hf_to_gguf.py, class LlamaModel."""
    half = config["head_dim"] // 2
    wavelength = 2 * np.pi * config["rope_theta"] ** (np.arange(half) / half)
    turns = scaling["original_max_position_embeddings"] / wavelength
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / scaling["factor"] + smooth), np.float32)


def write_metadata(writer: Any, model: TinyModel) -> None:
    """Write the metadata of a model: its sizes and tokenizer."""
    writer.add_block_count(model.n_layers)
    model.family.metadata(writer, model)
    if model.family.pieces:
        tokenizer_files.add_pieces(writer, tokenizer_files.tiny_pieces(VOCAB))
    else:
        tokenizer_files.add_byte_level(writer, tokenizer_files.tiny_byte_level(VOCAB))


# Offsets of the 16-bit scales (d, and dmin or m) in a stored block; everything else in it may be any bits.
_SCALES = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,),
           "iq4_xs": (0,), "iq3_s": (0,), "iq3_xxs": (0,), "iq2_xxs": (0,), "iq2_xs": (0,), "iq2_s": (0,),
           "iq1_s": (0,), "tq1_0": (52,), "tq2_0": (64,)}  # fmt: skip
_SMALL = {"iq4_nl": 4, "iq1_s": 30, "tq1_0": 500, "tq2_0": 500}  # factors of scales where codes are small


def _random_blocks(dtype: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.uint8]:
    """Finite random blocks of a type, as an array of (rows, bytes a row)."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype.upper()]]
    random = np.random.RandomState(seed)
    count = int(np.prod(shape)) // block
    blocks = random.randint(0, 256, (count, size)).astype(np.uint8)
    for offset in _SCALES[dtype.lower()]:
        # Codes times sub-scales reach a few hundred to two thousand: weights stay near 0.1.
        scale = random.uniform(0.5e-4, 2e-4, count) * _SMALL.get(dtype.lower(), 1)
        blocks[:, offset : offset + 2] = scale.astype(np.float16).view(np.uint8).reshape(count, 2)
    return blocks.reshape(shape[0], -1)


def main(folder: Path) -> None:
    """Write every tiny model below ``folder``."""
    for model in MODELS.values():
        print(write_hf(model, folder / model.name))
        if model.gguf:
            print(write_gguf(model, folder / f"{model.name}.gguf"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
