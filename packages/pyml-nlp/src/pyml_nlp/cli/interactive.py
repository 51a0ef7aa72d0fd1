"""A chat on the terminal, or with a pipe: ``pyml chat`` and ``pyml-infer --interactive``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..logs import tell
from .editor import Editor, history_file
from .interrupts import ending_in_order
from .lines import Piped, ReadLine, messages
from .options import is_terminal
from .session import Leave, Session

if TYPE_CHECKING:
    from ..chat.messages import Message
    from ..language_model import LanguageModel
    from .output import Output
    from .task import Job


def converse(
    lm: LanguageModel,
    job: Job,
    output: Output,
    talkative: bool,
    history: bool = True,
    earlier: Sequence[Message] = (),
) -> int:
    """Chat until the input ends; returns the exit code.

    Args:
        lm: the model.
        job: how answers are generated.
        output: stdout.
        talkative: whether more than answers and errors is printed.
        history: keep what is typed on a terminal in a file.
        earlier: messages to go on with.

    Raises:
        ChatTemplateError: the model has no chat template, or ``earlier`` are no messages.
    """
    chat = job.chat
    conversation = lm.conversation() if chat is None else lm.conversation(chat.system, chat.options)
    if earlier:
        conversation.restore(earlier)
    lm.chat_template  # noqa: B018 (an error if there is none)
    session = Session(conversation, job, lm.context_length, output, talkative)
    session.note(f"A chat with a context of {lm.context_length} tokens. /help shows the commands, Ctrl-D leaves.")
    read = _reader(session, output.terminal and is_terminal(sys.stdin), history, talkative)
    try:
        with ending_in_order():
            for text in messages(read, lambda: session.note("(Ctrl-D or /quit leaves)")):
                try:
                    session.take(text)
                except KeyboardInterrupt:  # before an answer began, or after it: the chat goes on
                    session.note("")
    except Leave:
        pass
    return 0


def _reader(session: Session, terminal: bool, history: bool, talkative: bool) -> ReadLine:
    if not terminal:
        return Piped(talkative).read
    path: Path | None = None
    try:
        path = history_file() if history else None
        return Editor(session.commands, path).read
    except (OSError, RuntimeError) as error:  # a folder that cannot be written; no home directory
        tell(f"Warning: {path or 'history'}: the history is not kept: {getattr(error, 'strerror', None) or error}")
        return Editor(session.commands, None).read
