"""llama.cpp's token ids compared with pyml's, for every pre-tokenizer that pyml knows.

    oracle/bin/python -m tests.oracle.llama_cpp_tokens

The files have a small vocabulary of their own. Texts are in Unicode's form C: pyml puts text into it where the models'
own tokenizers do, llama.cpp never does.
"""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import llama_cpp
import writers
from tokenizer_makers import byte_level_metadata, random_texts

from pyml_nlp.tokenizer.byte_level import PRE_TOKENIZERS
from pyml_nlp.tokenizer.gguf import load_gguf

KINDS = {"token_type": "[i32", "tokens": "[str", "merges": "[str", "eos_token_id": "u32", "bos_token_id": "u32"}
ALPHABET = (
    " \n\t\r'\"aAbBzZ09.,!?#/-_()[]{}«»…。，、一龥가힣あアѐЖжßÀÿǅƻʼ٣²½Ⅷ\u0301\u0903🎉\u200d\u00a0\u3000\u2028\ufeffͿΩ𐐀"
)


def texts() -> list[str]:
    """Texts of words, and of characters that expressions of pre-tokenizers tell apart."""
    mixed = [*random_texts(1500, 9), *random_texts(1500, 10)]
    odd = ["".join(ALPHABET[(7 * start + step * place) % len(ALPHABET)] for place in range(24))
           for start in range(len(ALPHABET)) for step in range(1, 40)]  # fmt: skip
    return [unicodedata.normalize("NFC", text) for text in mixed + odd]


def main() -> None:
    """Print, for every pre-tokenizer, how many texts have other ids, and the first of them."""
    found = texts()
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(PRE_TOKENIZERS):
            metadata = byte_level_metadata(name)
            plain = {key: value if isinstance(value, str | int | list) else value.tolist()
                     for key, value in metadata.items()}  # fmt: skip
            entries: dict[str, tuple[str, Any]] = {"general.architecture": ("str", "llama")}
            entries |= {key: (KINDS.get(key.rsplit(".", 1)[-1], "str"), value) for key, value in plain.items()}
            path = Path(folder) / f"{name}.gguf"
            path.write_bytes(writers.join(writers.gguf(entries, {})))
            llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
            ours = load_gguf(metadata, name)
            different = [
                text for text in found
                if ours.encode(text) != llama.tokenize(text.encode(), add_bos=ours.metadata.prefix != (), special=True)
            ]  # fmt: skip
            print(f"{name}: {len(different)} of {len(found)} texts", repr(different[0]) if different else "")


if __name__ == "__main__":
    main()
