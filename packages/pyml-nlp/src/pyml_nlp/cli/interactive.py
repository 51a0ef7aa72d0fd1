"""``pyml-infer --interactive``: a chat on the terminal, or with a pipe. Only answers go to stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..logs import tell
from .interrupts import interruptible
from .main import tell_error
from .output import Output

if TYPE_CHECKING:
    from ..chat import Conversation
    from ..language_model import LanguageModel
    from .task import Job

HELP = """\
  /system TEXT   give the model a system message (nothing: show it); the chat goes on
  /clear         forget the chat but for the system message
  /save FILE     write the messages as JSON
  /help          this text
  /quit          leave, like Ctrl-D
A line that ends in \\ goes on in the next one; \"\"\" begins and ends a text of several lines.
Ctrl-C stops an answer. A message that begins with / is written with two of them."""

_FENCE = '"""'


class Leave(Exception):
    """The user wants to leave."""


def converse(lm: LanguageModel, job: Job, output: Output, talkative: bool) -> int:
    """Chat until the input ends; returns the exit code.

    Args:
        lm: the model.
        job: how answers are generated.
        output: stdout.
        talkative: whether more than answers and errors is printed.
    """
    chat = job.chat
    conversation = lm.conversation() if chat is None else lm.conversation(chat.system, chat.options)
    session = Session(conversation, job, output, talkative)
    session.note("Interactive chat. /help shows the commands, Ctrl-D or /quit leaves.")
    try:
        for text in messages(output.terminal, talkative):
            try:
                session.take(text)
            except KeyboardInterrupt:  # before an answer began, or after it: the chat goes on
                session.note("")
    except Leave:
        pass
    session.note("Goodbye!")
    return 0


class Session:
    """Handles each text that is typed: a command, or a message to the model."""

    def __init__(
        self,
        conversation: Conversation,
        job: Job,
        output: Output,
        talkative: bool,
    ) -> None:
        self._conversation = conversation
        self._job = job
        self._output = output
        self._talkative = talkative

    def note(self, line: str) -> None:
        """Tell something on stderr, unless that is not wanted."""
        if self._talkative:
            self._say(line)

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
        conversation = self._conversation
        if name in ("/quit", "/exit"):
            raise Leave
        if name == "/help":
            self._say(HELP)
        elif name == "/clear":
            conversation.reset(conversation.system)
            self.note("[The chat is cleared]")
        elif name == "/system" and rest:
            conversation.system = rest
            self.note("[The system message is set]")
        elif name == "/system":
            self._say(conversation.system or "[There is no system message]")
        elif name == "/save" and rest:
            self._save(Path(rest).expanduser())
        else:
            usage = "expected /save FILE" if name == "/save" else f"there is no command {name}; /help shows them all"
            self._error(usage)

    def _save(self, path: Path) -> None:
        from pyml_nn.files import new_file

        messages = self._conversation.messages
        try:
            with new_file(path) as file:
                file.write((json.dumps(messages, ensure_ascii=False, indent=2) + "\n").encode())
        except (OSError, ValueError) as error:
            self._error(f"{path}: the chat cannot be written: {getattr(error, 'strerror', None) or error}")
        else:
            self.note(f"[{len(messages)} messages written to {path}]")

    def answer(self, text: str) -> None:
        """Let the model answer, printing as it goes. Ctrl-C stops it; the text so far stays."""
        from pyml_core.errors import Cancelled, OutOfMemoryError
        from pyml_nn import ContextOverflowError

        from ..errors import ChatTemplateError
        from ..tokenizer import TextError

        job, start = self._job, time.perf_counter()
        try:
            answer = self._conversation.send(text, job.options, **job.run)
        except ContextOverflowError as error:
            self._error(f"the chat is too long: {error}; /clear begins a new one")
            return
        except (ChatTemplateError, TextError, OutOfMemoryError, Cancelled) as error:  # it goes on without this message
            self._error(str(error))
            return
        with interruptible(answer.cancel, twice_ends=False) as interrupted:
            for step in answer:
                self._output.write(step.text)
        self._output.write("\n")
        seconds = time.perf_counter() - start
        count = len(answer.tokens)
        notes = [f"{count} tokens in {seconds:.2f}s ({count / seconds:.1f} tok/s)"]
        if interrupted:
            notes.append("stopped")
        elif answer.finish_reason == "timeout":
            notes.append("stopped at the timeout")
        elif answer.finish_reason == "length" and count >= job.options.max_tokens:
            notes.append("cut off by --max-tokens")
        elif answer.finish_reason == "length":
            notes.append("the context is full: /clear begins a new chat")
        self.note(f"  [{', '.join(notes)}]")

    def _say(self, text: str) -> None:
        tell(text)

    def _error(self, message: str) -> None:
        tell_error(message)


# ---- input


def messages(terminal: bool, talkative: bool) -> Iterator[str]:
    """Texts as they are typed or piped: a line, lines that end in a backslash and the next one, or a fenced text."""
    lines = _typed(talkative) if terminal and _is_terminal() else _piped(talkative)
    for line in lines:
        opened = line.lstrip().startswith(_FENCE)
        if opened:
            yield _fenced(line.lstrip()[len(_FENCE) :], lines)
            continue
        parts = [line]
        while parts[-1].endswith("\\"):
            parts[-1] = parts[-1][:-1]
            following = next(lines, None)
            if following is None:
                break
            parts.append(following)
        yield "\n".join(parts)


def _fenced(first: str, lines: Iterator[str]) -> str:
    parts = [first] if first.strip() else []
    if parts and first.rstrip().endswith(_FENCE):
        return first.rstrip()[: -len(_FENCE)]
    for line in lines:
        if line.rstrip().endswith(_FENCE):
            last = line.rstrip()[: -len(_FENCE)]
            return "\n".join([*parts, last] if last else parts)
        parts.append(line)
    return "\n".join(parts)


def _is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _typed(talkative: bool) -> Iterator[str]:
    """Lines from a terminal, with editing and history."""
    import readline  # input() uses it from now on

    readline.set_auto_history(True)
    while True:
        try:
            yield input("> ")
        except EOFError:
            tell("")
            return
        except KeyboardInterrupt:
            tell("\n(Ctrl-D or /quit leaves)" if talkative else "")


def _piped(talkative: bool) -> Iterator[str]:
    """Lines from a pipe or file, or from a terminal while stdout is not one; UTF-8 whatever the locale."""
    import click

    from ..text_files import MAX_BYTES, without_mark

    first = True
    while sys.stdin is not None:
        if talkative and sys.stdin.isatty():
            tell("> ", "")
        line = sys.stdin.buffer.readline(MAX_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_BYTES:
            raise click.UsageError(f"stdin: expected lines of at most {MAX_BYTES} bytes, got more")
        try:
            text = (without_mark(line) if first else line).decode()
        except UnicodeDecodeError as error:
            byte = f"{error.object[error.start]:#04x}"
            raise click.UsageError(
                f"stdin: expected UTF-8, got byte {byte} at offset {error.start} of a line"
            ) from None
        except ValueError as error:
            raise click.UsageError(f"stdin: {error}") from None
        first = False
        yield text.removesuffix("\n").removesuffix("\r")
