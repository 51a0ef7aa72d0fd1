"""llama.cpp on the GGUF files of the tiny models, compared with the goldens: these files follow its conventions.

    oracle/bin/python -m tests.oracle.llama_cpp_tiny

transformers does not read all of them (make_goldens.py says which). Differences of 1e-3 are llama.cpp's table of GELU;
those of Phi 3 are its own: it passes over that model's window, and takes LongRoPE's long factors at every position of a
long context.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from tests.helpers import tiny_files, tiny_models

HERE = Path(__file__).parent

F32 = 0  # the type of the KV cache, as GGML numbers it


def main() -> None:
    """Print the largest difference of every model."""
    with tempfile.TemporaryDirectory() as folder:
        for model in tiny_models.MODELS.values():
            if not model.gguf:
                continue
            path = tiny_files.write_gguf(model, Path(folder) / f"{model.name}.gguf")
            llama = llama_cpp.Llama(
                str(path), logits_all=True, verbose=False, n_ctx=128, n_batch=128, n_threads=1, type_k=F32, type_v=F32
            )
            llama.eval(model.prompt)
            logits = np.array(llama.scores[: len(model.prompt)], np.float32)
            golden = np.load(HERE.parent / "goldens" / "tiny" / f"{model.name}.npz")
            difference = abs(logits[golden["positions"]] - golden["logits"]).max(axis=1)
            late = difference[golden["positions"] >= model.long_from]
            print(f"{model.name}: {difference.max():.1e}", f"(long positions {late.max():.1e})" if late.size else "")


if __name__ == "__main__":
    main()
