"""The model that targets of a user's inputs share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyml_nlp
from tests.helpers import tiny_files, tiny_models

CHAT_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ tools | tojson }}{{ x }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class TinyModelDoor:
    """A target's tiny Llama, written before workers are forked and loaded in each of them."""

    def __init__(self) -> None:
        self.folder = Path()
        self._lm: pyml_nlp.LanguageModel | None = None

    def prepare(self, folder: Path) -> None:
        """Write the model."""
        self.folder = tiny_files.write_hf(tiny_models.MODELS["llama"], folder / "model")
        path = self.folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": CHAT_TEMPLATE}))

    @property
    def lm(self) -> pyml_nlp.LanguageModel:
        """The model, loaded in this process."""
        if self._lm is None:
            self._lm = pyml_nlp.load(self.folder, threads=1)
        return self._lm


def size_of(value: Any) -> int:
    """Bytes of a value as text, about."""
    return len(str(value)) if isinstance(value, str) else len(repr(value))
