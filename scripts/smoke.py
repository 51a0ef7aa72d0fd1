"""A quick proof that an installation works: kernels, a small model, the command line. Needs no model file.

python scripts/smoke.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import pyml_core
import pyml_nlp
from pyml_nn.models import llama

SIZES = {
    "model_type": "llama", "vocab_size": 199, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip


def main() -> None:
    """Raise if anything does not work."""
    random = np.random.default_rng(1).standard_normal

    weight, x = random((70, 256), np.float32), random((3, 256), np.float32)
    packed = pyml_core.pack(pyml_core.quantize(weight, "q8_0"), "q8_0", weight.shape)
    error = np.abs(pyml_core.matmul(x, packed) - x @ weight.T).max()
    if not error < 1:
        raise SystemExit(f"smoke: a q8_0 product is {error} off")

    config = llama.Config.from_hf(SIZES)
    specs = [spec for spec in llama.Model.specs(config).values() if not spec.optional]
    weights = {spec.hf: random(spec.shape, np.float32) for spec in specs}
    ids = [int(token) for token in np.random.default_rng(2).integers(0, 199, 100)]
    results = []
    for threads, max_tokens in ((1, 100), (3, 7)):
        model = llama.Model(config, weights, threads=threads, max_tokens=max_tokens)
        results += model.forward([(model.new_cache(), ids, [0, 50, 99])])
    if not (np.isfinite(results[0]).all() and np.array_equal(results[0], results[1])):
        raise SystemExit("smoke: logits differ between one thread and three")

    script = Path(sys.executable).with_name("pyml-infer")
    subprocess.run([script, "--help"], check=True, stdout=subprocess.DEVNULL)
    info = pyml_core.cpu_info()
    print(f"smoke: Python {sys.version.split()[0]}, level {info['level']}, {Path(pyml_nlp.__file__).parent}: works")


if __name__ == "__main__":
    main()
