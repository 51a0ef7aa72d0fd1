"""Token ids of pyml compared with those that llama.cpp's own tests expect, for its vocabularies of real models.

    python -m tests.oracle.llama_cpp_vocabularies llama_cpp_python-0.3.36/vendor/llama.cpp/models

The folder is that of the source archive of llama-cpp-python, or of llama.cpp: ``ggml-vocab-*.gguf``, each with texts
(``.inp``) and expected ids (``.out``). Exits with 1 if any ids differ, apart from those that the notes explain.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from pathlib import Path

from pyml_core.errors import PymlError
from pyml_nlp.formats.gguf import GGUFFile
from pyml_nlp.tokenizer.gguf import load_gguf

SEPARATOR = "\n__ggml_vocab_test__\n"


def compare(path: Path) -> bool:
    """Print the result for one vocabulary; returns whether ids differ that should not."""
    with GGUFFile(path) as file:
        try:
            tokenizer = load_gguf(file.metadata, path.name)
        except PymlError as error:
            print(f"{path.stem}: refused: {error}")
            return False
        nfc = file.metadata.get("tokenizer.ggml.pre") == "qwen35"  # Qwen's own tokenizers normalise, llama.cpp does not
    inputs, outputs = path.with_name(f"{path.name}.inp"), path.with_name(f"{path.name}.out")
    if not inputs.exists():
        print(f"{path.stem}: loads; it has no texts")
        return False
    *texts, rest = inputs.read_bytes().decode().split(SEPARATOR)
    expected = [[*map(int, line.split())] for line in outputs.read_text().splitlines()]
    texts += [rest] if len(expected) > len(texts) else []
    wrong, normalised = [], 0
    for text, ids in zip(texts, expected, strict=True):
        if tokenizer.encode(text, add_special=False, parse_special=False) != ids:
            if nfc and not unicodedata.is_normalized("NFC", text):
                normalised += 1
            else:
                wrong.append(text)
    note = f", {normalised} not in NFC" if normalised else ""
    print(f"{path.stem}: {len(texts) - len(wrong) - normalised} of {len(texts)} texts{note}", *map(repr, wrong[:1]))
    return bool(wrong)


def main() -> None:
    """Compare all vocabularies of the folder."""
    logging.disable(logging.WARNING)
    paths = sorted(Path(sys.argv[1]).glob("ggml-vocab-*.gguf"))
    wrong = [path for path in paths if compare(path)]
    sys.exit(1 if wrong or not paths else 0)


if __name__ == "__main__":
    main()
