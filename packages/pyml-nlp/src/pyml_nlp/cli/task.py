"""What ``pyml-infer`` was asked for, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .chat import ChatOptions

if TYPE_CHECKING:
    from ..language_model import LanguageModel
    from ..options.generation import GenerationOptions
    from .batch_file import Item


@dataclass(frozen=True)
class Task:
    """What to generate and how to print it.

    Attributes:
        items: the prompt, or those of a batch file.
        options: how each text is generated.
        chat: how to make chats of prompts; None: they are texts to continue.
        output: a file for the texts of a batch.
        resume: go on with that file.
        max_batch_size: maximum number of texts that run at a time; None: the default.
        prompt_cache: a file with the keys and values of the prompt.
        draft_model: what to load as a draft model.
        speculate: draft from the text itself.
    """

    items: Sequence[Item]
    options: GenerationOptions
    timeout: float | None
    stream: bool
    as_json: bool
    echo: bool
    chat: ChatOptions | None
    output: str | None
    resume: bool
    max_batch_size: int | None
    prompt_cache: str | None
    draft_model: str | None
    speculate: bool
    threads: int | None

    def ids(self, lm: LanguageModel, prompt: str) -> list[int]:
        """What the model is given for a prompt."""
        return lm.ids(prompt) if self.chat is None else self.chat.ids(lm, prompt)

    def load_draft_model(self) -> LanguageModel | None:
        """The draft model, if one was asked for."""
        from .. import load

        return None if self.draft_model is None else load(self.draft_model, threads=self.threads)

    def log_start(self, lm: LanguageModel, length: int, lines: Sequence[str] = ()) -> None:
        """Tell what is about to be done."""
        from .. import logs

        layout = lm.kv_layout
        logs.root.info(
            "  KV cache: %.1f MB (%dlayers x %dheads x %dseq x %ddim x %s x 2)",
            layout.bytes_for(length) / 1e6, layout.n_layers, layout.n_kv_heads, length, layout.head_dim, layout.dtype,
        )  # fmt: skip
        if self.timeout is not None:
            logs.root.info("  Timeout: %.1fs", self.timeout)
        for line in lines:
            logs.root.info("  %s", line)
        logs.root.info("---")

    def log_end(self, *lines: str) -> None:
        """Tell what was done."""
        from .. import logs

        logs.root.info("---")
        for line in lines:
            logs.root.info("  %s", line)
