"""Makes bos.json: the ids that transformers' AutoTokenizer adds before and after a text. It does not import pyml.

cd packages/pyml-nlp/tests && python -m goldens.make_bos    # in an environment with transformers and sentencepiece
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import bos_cases
import transformers


def main() -> None:
    """Write the file."""
    transformers.logging.set_verbosity_error()
    goldens: dict[str, dict[str, list[str]]] = {}
    for case in bos_cases.cases():
        group, _, rest = case.key.rpartition(" | {")
        goldens.setdefault(group, {})["{" + rest] = around(case)
    lines = [f" {json.dumps(group)}: {json.dumps(found)}" for group, found in goldens.items()]
    version = json.dumps(transformers.__version__)
    text = ",\n".join([f' "transformers": {version}', *lines])
    bos_cases.GOLDENS.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def around(case: bos_cases.Case) -> list[str]:
    """Tokens before the text, and tokens after it."""
    with tempfile.TemporaryDirectory() as name:
        tokenizer = transformers.AutoTokenizer.from_pretrained(bos_cases.write(case, Path(name)))
    plain = tokenizer.encode(bos_cases.TEXT, add_special_tokens=False)
    whole = tokenizer.encode(bos_cases.TEXT)
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            parts = (whole[:start], whole[start + len(plain) :])
            return [" ".join(tokenizer.convert_ids_to_tokens(part)) for part in parts]
    raise ValueError(f"{case.key}: {whole} is not {plain} with something around it")


if __name__ == "__main__":
    main()
