"""Models and chats for the tests of chats."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pyml_nlp.language_model import LanguageModel

GREEDY = ("--temperature", "0", "--threads", "1", "--max-tokens", "6")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' and m.content == 'never' %}{{ raise_exception('Not that') }}"
    "{% endif %}[{{ m.role }}{{ mood }}]{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def with_template(folder: Path, copy: Path, template: str = TEMPLATE) -> Path:
    """A copy of a model's folder, with a chat template."""
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(template)
    return copy


def answer(lm: LanguageModel, messages: Any, **options: Any) -> str:
    """The greedy answer of six tokens."""
    generation = lm.chat(messages, max_tokens=6, temperature=0, **options)
    return "".join(step.text for step in generation)


def conversation(lm: LanguageModel, *messages: str, system: str | None = None) -> list[str]:
    """The answers, each of a whole new run."""
    said: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
    for message in messages:
        said.append({"role": "user", "content": message})
        lm.prefix_cache.clear()
        said.append({"role": "assistant", "content": answer(lm, said)})
    return [message["content"] for message in said if message["role"] == "assistant"]
