"""GPT-2's exact 124M shape and real vocabulary with random weights, as a Hugging Face folder in the test cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.helpers import fetch
from tests.helpers.hf_files import Entry, new_folder, write_safetensors


def gpt2_folder() -> Path:
    """GPT-2's exact 124M shape and vocabulary, random bf16 weights: wide enough apart that attention is not uniform."""
    with new_folder("gpt2-124m-random-v1") as (final, folder):
        if folder is None:
            return final
        config = {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": 50257,
            "n_positions": 1024,
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-05,
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "resid_pdrop": 0.1,
            "initializer_range": 0.02,
            "summary_type": "cls_index",
            "summary_use_proj": True,
            "summary_activation": None,
            "summary_first_dropout": 0.1,
            "summary_proj_to_labels": True,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        for asset in (fetch.GPT2_VOCAB, fetch.GPT2_MERGES):
            path = fetch.fetch(asset)
            shutil.copyfile(path, folder / path.name)
        write_safetensors(folder / "model.safetensors", _gpt2_entries())
    return final


def _gpt2_entries() -> Iterator[Entry]:
    random = np.random.RandomState(124)  # frozen by NumPy; read in the order of the file

    def entry(name: str, shape: tuple[int, ...], spread: float, centre: float = 0.0) -> Entry:
        return Entry(name, "BF16", shape, lambda: _bf16(centre + spread * random.standard_normal(shape)))

    yield entry("wte.weight", (50257, 768), 0.1)
    yield entry("wpe.weight", (1024, 768), 0.05)
    for i in range(12):
        for name, k, n, spread in (
            ("attn.c_attn", 768, 2304, 0.045),
            ("attn.c_proj", 768, 768, 0.03),
            ("mlp.c_fc", 768, 3072, 0.04),
            ("mlp.c_proj", 3072, 768, 0.02),
        ):
            yield entry(f"h.{i}.{name}.weight", (k, n), spread)
            yield entry(f"h.{i}.{name}.bias", (n,), 0.02)
        for name in ("ln_1", "ln_2"):
            yield entry(f"h.{i}.{name}.weight", (768,), 0.1, 1.0)
            yield entry(f"h.{i}.{name}.bias", (768,), 0.05)
    yield entry("ln_f.weight", (768,), 0.1, 1.0)
    yield entry("ln_f.bias", (768,), 0.05)


def _bf16(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Round to bfloat16 (nearest, ties to even), as its bits."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


if __name__ == "__main__":
    print(gpt2_folder())
