"""The work of ``pyml-infer``: texts to generate, and how to print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..batch_items import Item
    from ..chat import Message
    from ..generation.iterator import Generation
    from ..language_model import LanguageModel
    from ..options import ChatOptions, GenerationOptions
    from .arguments import RunArguments


@dataclass(frozen=True)
class Chat:
    """How prompts become chats.

    Attributes:
        system: a system message to begin with.
        options: how the template is rendered.
    """

    system: str | None
    options: ChatOptions

    def messages(self, prompt: str) -> list[Message]:
        """A chat in which the user says the prompt."""
        spoken: list[Message] = [{"role": "user", "content": prompt}]
        return spoken if self.system is None else [{"role": "system", "content": self.system}, *spoken]


@dataclass(frozen=True)
class Job:
    """Texts to generate, as the arguments of a language model's methods.

    Attributes:
        items: the prompt, or those of a batch file.
        options: how each text is generated.
        chat: how prompts become chats; None: they are texts to continue.
        run: timeout and speculation.
        max_batch_size: maximum number of texts that run at a time; None: the default.
    """

    items: Sequence[Item]
    options: GenerationOptions
    chat: Chat | None
    run: RunArguments
    max_batch_size: int | None = None

    def start(self, lm: LanguageModel, prompt: str) -> Generation:
        """Generate the text of one prompt."""
        if self.chat is None:
            return lm.generate(prompt, self.options, **self.run)
        return lm.chat(self.chat.messages(prompt), self.options, chat_options=self.chat.options, **self.run)

    def ids(self, lm: LanguageModel, item: Item) -> list[int]:
        """The token ids of a prompt, or of messages, which make a chat in any case."""
        if item.messages is not None:
            return lm.chat_ids(item.messages, None if self.chat is None else self.chat.options)
        if self.chat is None:
            return lm.ids(item.prompt)
        return lm.chat_ids(self.chat.messages(item.prompt), self.chat.options)


@dataclass(frozen=True)
class Task:
    """How texts are printed, and where.

    Attributes:
        stream: print a text as it is generated.
        as_json: print a JSON object for each text.
        echo: print the prompt before the text.
        output: a file for the texts of a batch.
        resume: go on with that file.
        prompt_cache: a file with the keys and values of the prompt.
        talkative: whether more than errors is told on stderr.
        n: texts of the prompt to print.
        best_of: texts of the prompt to choose them from; None: they are all.
    """

    stream: bool
    as_json: bool
    echo: bool
    output: str | None
    resume: bool
    prompt_cache: str | None
    talkative: bool
    n: int = 1
    best_of: int | None = None

    @property
    def several(self) -> bool:
        """Whether several texts of the prompt are generated."""
        return self.n > 1 or self.best_of is not None


def log_start(lm: LanguageModel, job: Job, length: int, lines: Sequence[str] = ()) -> None:
    """Log the work that begins.

    Args:
        lm: the model.
        job: the texts to generate.
        length: positions of the longest sequence.
        lines: further lines.
    """
    from .. import logs

    layout = lm.kv_layout
    logs.root.info(
        "  KV cache: %.1f MB (%dlayers x %dheads x %dseq x %ddim x %s x 2)",
        layout.bytes_for(length) / 1e6, layout.n_layers, layout.n_kv_heads, length, layout.head_dim, layout.dtype,
    )  # fmt: skip
    timeout = job.run["timeout"]
    if timeout is not None:
        logs.root.info("  Timeout: %.1fs", timeout)
    for line in lines:
        logs.root.info("  %s", line)


def speed(tokens: int, seconds: float) -> str:
    """``24 tokens in 0.31 s (77.4 tokens/s)``."""
    return f"{tokens} token{'s' * (tokens != 1)} in {seconds:.2f} s ({tokens / max(seconds, 1e-9):.1f} tokens/s)"


def ending(generation: Generation, options: GenerationOptions) -> list[str]:
    """What ended a text, where it ended before the model's end or the maximum number of tokens."""
    if generation.finish_reason == "timeout":
        return ["stopped at the timeout"]
    if generation.finish_reason == "length" and len(generation.tokens) < options.max_tokens:
        return ["the context is full"]
    return []


def log_end(*parts: str) -> None:
    """Log the work that has ended."""
    from .. import logs

    logs.command.info("%s", ", ".join(parts))
