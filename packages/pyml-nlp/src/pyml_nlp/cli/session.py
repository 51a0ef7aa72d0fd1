"""What is typed in a chat: commands, and messages to the model. Only answers go to stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyml_core.errors import PymlError

from ..logs import tell
from .colour import DIM, coloured
from .editor import quiet_keyboard
from .interrupts import interruptible
from .main import tell_error
from .task import speed

if TYPE_CHECKING:
    from ..chat import Conversation
    from ..chat.messages import Message
    from ..generation.iterator import Generation
    from .output import Output
    from .task import Job

HELP = """\
  /retry            another answer to the last message
  /system [TEXT]    give the model a system message; without TEXT: show it
  /set [NAME VALUE] change an option of the answers, such as temperature 0.5; without NAME: show them
  /tokens           how full the context is
  /clear            forget the chat but for the system message
  /save FILE        write the messages as JSON
  /load FILE        go on with messages that were saved
  /help             this text
  /quit             leave, like Ctrl-D
A line that ends in \\ goes on in the next one; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer. A message that begins with / is written with two of them."""

OPTIONS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "frequency_penalty",
    "presence_penalty", "seed", "max_tokens", "stop",
)  # fmt: skip
"""Options that ``/set`` changes."""


class Leave(Exception):
    """The user wants to leave."""


class Session:
    """Handles each text that is typed: a command, or a message to the model.

    Args:
        conversation: the chat.
        job: how answers are generated.
        context_length: maximum number of positions of the chat.
        output: stdout.
        talkative: whether more than answers and errors is printed.
    """

    def __init__(
        self, conversation: Conversation, job: Job, context_length: int, output: Output, talkative: bool
    ) -> None:
        self._conversation = conversation
        self._context_length = context_length
        self._job = job
        self._output = output
        self._talkative = talkative
        self._retries = 0
        self._commands: dict[str, Callable[[str], None]] = {
            "/retry": self._retry,
            "/system": self._system,
            "/set": self._set,
            "/tokens": self._tokens,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/help": lambda _: self._say(HELP),
            "/quit": self._quit,
            "/exit": self._quit,
        }

    @property
    def commands(self) -> list[str]:
        """The names of all commands."""
        return list(self._commands)

    def note(self, line: str) -> None:
        """Tell something on stderr, unless that is not wanted."""
        if self._talkative:
            self._say(coloured(line, DIM, sys.stderr) if line else line)

    def take(self, text: str) -> None:
        """Do a command, or let the model answer.

        Raises:
            Leave: the user wants to.
        """
        if not text.strip():
            return
        if text.startswith("//"):
            self.answer(text[1:])
        elif text.startswith("/"):
            name, _, rest = text.partition(" ")
            self._command(name.strip(), rest.strip())
        else:
            self.answer(text)

    def _command(self, name: str, rest: str) -> None:
        command = self._commands.get(name)
        if command is not None:
            command(rest)
            return
        from difflib import get_close_matches

        close = get_close_matches(name, self._commands, 1)
        hint = f"did you mean {close[0]}?" if close else "/help shows them all"
        self._error(f"there is no command {name}; {hint}")

    # ---- commands

    def _quit(self, rest: str) -> None:
        raise Leave

    def _clear(self, rest: str) -> None:
        self._conversation.reset(self._conversation.system)
        self.note("[The chat is cleared]")

    def _system(self, rest: str) -> None:
        if rest:
            self._conversation.system = rest
            self.note("[The system message is set]")
        else:
            self._say(self._conversation.system or "[There is no system message]")

    def _tokens(self, rest: str) -> None:
        conversation = self._conversation
        self._say(
            f"[{len(conversation.messages)} messages, {conversation.n_tokens} of {self._context_length} tokens of the "
            "context]"
        )

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        name = name.replace("-", "_")
        if not name:
            self._say("\n".join(f"  {name} {self._value(name)}" for name in OPTIONS))
        elif name not in OPTIONS:
            from difflib import get_close_matches

            close = get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(OPTIONS)}"
            self._error(f"/set {name}: {hint}")
        elif not value.strip():
            self._say(f"  {name} {self._value(name)}")
        else:
            from ..errors import ArgumentError

            try:
                parsed = json.loads(value)
            except ValueError:
                parsed = value.strip()
            try:
                self._job = replace(self._job, options=self._job.options.replace(**{name: parsed}))
            except ArgumentError as error:
                self._error(f"/set {name}: {error.problem}")
            else:
                self.note(f"[{name} {self._value(name)}]")

    def _value(self, name: str) -> str:
        options = self._job.options
        value = getattr(options if hasattr(options, name) else options.sampling, name)
        return "off" if value is None else json.dumps(value, ensure_ascii=False)

    def _save(self, rest: str) -> None:
        from pyml_nn.files import new_file

        if not rest:
            self._error("expected /save FILE")
            return
        path, messages = Path(rest).expanduser(), self._conversation.messages
        try:
            with new_file(path) as file:
                file.write((json.dumps(messages, ensure_ascii=False, indent=2) + "\n").encode())
        except (OSError, ValueError) as error:
            self._error(f"{path}: the chat cannot be written: {getattr(error, 'strerror', None) or error}")
        else:
            self.note(f"[{len(messages)} messages written to {path}]")

    def _load(self, rest: str) -> None:
        if not rest:
            self._error("expected /load FILE")
            return
        try:
            self._conversation.restore(read_chat(Path(rest).expanduser()))
        except PymlError as error:
            self._error(str(error))
        else:
            self.note(f"[{len(self._conversation.messages)} messages read from {rest}]")

    def _retry(self, rest: str) -> None:
        messages = self._conversation.messages
        last = self._conversation.take_back()
        if last is None:
            self._error("there is no message to answer again")
            return
        self._retries += 1  # the same message and seed would give the same answer
        if not self._generate(last, self._retries):
            self._conversation.restore(messages)

    # ---- answers

    def answer(self, text: str) -> None:
        """Let the model answer, printing as it goes. Ctrl-C stops it; the text so far stays."""
        self._retries = 0
        self._generate({"role": "user", "content": text}, 0)

    def _generate(self, message: Message, sample: int) -> bool:
        """Whether an answer was begun; errors are told."""
        from pyml_core.errors import Cancelled, OutOfMemoryError
        from pyml_nn import ContextOverflowError

        from ..errors import ChatTemplateError
        from ..tokenizer import TextError

        job, start = self._job, time.perf_counter()
        try:
            answer = self._conversation.send(message, job.options.replace(sample_index=sample), **job.run)
        except ContextOverflowError as error:
            self._error(f"the chat is too long: {error}; /clear begins a new one")
            return False
        except (ChatTemplateError, TextError, OutOfMemoryError, Cancelled) as error:  # it goes on without this message
            self._error(str(error))
            return False
        with interruptible(answer.cancel, twice_ends=False) as interrupted, quiet_keyboard():
            for step in answer:
                self._output.write(step.text)
        self._output.write("\n")
        count = len(answer.tokens)
        self.note(f"[{', '.join([speed(count, time.perf_counter() - start), *self._end(answer, bool(interrupted))])}]")
        return True

    def _end(self, answer: Generation, interrupted: bool) -> list[str]:
        if interrupted:
            return ["stopped"]
        if answer.finish_reason == "timeout":
            return ["stopped at the timeout"]
        if answer.finish_reason != "length":
            return []
        if len(answer.tokens) >= self._job.options.max_tokens:
            return ["cut off by max_tokens"]
        return ["the context is full: /clear begins a new chat"]

    def _say(self, text: str) -> None:
        tell(text)

    def _error(self, message: str) -> None:
        tell_error(message)


def read_chat(path: Path) -> list[Message]:
    """The messages of a file.

    Raises:
        PymlError: the file cannot be read, or is no JSON list of messages.
    """
    from ..text_files import parse_json, read_text

    text = read_text(str(path))
    try:
        messages = parse_json(text)
    except ValueError as error:
        raise PymlError(f"{path}: expected a JSON list of messages: {error}") from None
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise PymlError(f"{path}: expected a JSON list of messages, each an object")
    return messages
