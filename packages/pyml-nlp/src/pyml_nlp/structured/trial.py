"""Trial compilation of grammars: in a separate process, with limits for time, memory and stack.

A short text can describe a grammar that takes minutes and gigabytes, or a chain of rules so deep that llguidance
overflows its stack, which ends the process. Counting parts does not detect all of these. So every grammar that is not
obviously small is first compiled in a separate process with limits.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from pyml_core import cancel

from .grammar import Grammar, GrammarError

SECONDS = 2
"""Processor time in seconds that compiling a grammar may take."""

_WALL_SECONDS = 20.0  # longer, because other processes may use the processors
_POLL_SECONDS = 0.05  # between two checks for cancellation
_SCRIPT = Path(__file__).with_name("trial_process.py")

_SMALL = 2000  # characters
_REPETITIONS = 10_000  # maximum number of repetitions of the innermost part, if all counted repetitions are nested
_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
# Words that can make a short text take much work, and the number of occurrences up to which it is small.
_WORDS = {
    '"$ref"': 12,
    '"pattern"': 8,
    '"allOf"': 0,
    '"patternProperties"': 0,
    '"multipleOf"': 0,
    '"minProperties"': 0,
    '"maxProperties"': 0,
    "%json": 0,
    "%lark": 0,
    "%regex": 0,
    "&": 8,
}


def memory_limit(grammar: Grammar) -> int:
    """Return the number of bytes that compiling a grammar may take."""
    return (96 << 20) + 32 * len(grammar.source)


def is_small(grammar: Grammar) -> bool:
    """Return whether a grammar's text shows that it compiles in little time and memory."""
    source = grammar.source
    if len(source) > _SMALL or any(source.count(word) > most for word, most in _WORDS.items()):
        return False
    counts = [max(int(count[:9] or 1) for count in found) for found in _COUNTS.findall(source)]
    return math.prod(max(1, count) for count in counts) <= _REPETITIONS


def try_out(grammar: Grammar, source: str, size: int, special: Mapping[int, str]) -> str:
    """Compile a grammar in a separate process.

    Args:
        grammar: the user's grammar, for messages and limits.
        source: llguidance's input.
        size: number of tokens of the vocabulary.
        special: texts of the tokens that a grammar may name.

    Returns:
        llguidance's error message; empty if the grammar compiles.

    Raises:
        GrammarError: it takes too much time, memory or stack, or the process cannot be started.
        Cancelled: the token that the thread has entered was cancelled.
    """
    request = {
        "llguidance": _folder_of("llguidance"),
        "source": source,
        "seconds": SECONDS,
        "nbytes": memory_limit(grammar),
        "size": size if grammar.kind == "grammar" else 0,
        "special": dict(special) if grammar.kind == "grammar" else {},
    }
    answer, code = _run(json.dumps(request).encode(), grammar.kind)
    if not answer:
        raise GrammarError(f"{grammar.kind}: {_reason(grammar, code)}")
    refused: str = json.loads(answer)["error"]
    return refused


def _folder_of(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None  # the vocabulary has imported it
    assert spec.origin is not None
    return str(Path(spec.origin).parent)


def _run(request: bytes, kind: str) -> tuple[bytes, int]:
    """Return the output of the process, and its exit code."""
    command = [sys.executable, "-P", "-S", "-B", str(_SCRIPT)]
    try:
        with os.fdopen(os.memfd_create("pyml-grammar"), "w+b") as given:
            given.write(request)
            given.seek(0)
            process = subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise GrammarError(f"{kind}: cannot be tried out with {sys.executable}: {error.strerror}") from None
    with process:
        try:
            for _ in range(math.ceil(_WALL_SECONDS / _POLL_SECONDS)):
                try:
                    return process.communicate(timeout=_POLL_SECONDS)[0], process.returncode
                except subprocess.TimeoutExpired:
                    cancel.check()
        finally:
            process.kill()
            process.wait()
    raise GrammarError(f"{kind}: expected to compile within {_WALL_SECONDS:g} s, found that it does not")


def _reason(grammar: Grammar, code: int) -> str:
    """Return the reason for a missing answer."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"expected at most {SECONDS} s of processor time to compile, found more"
    if code == -signal.SIGSEGV:
        return "nested too deeply"
    if code in (1, -signal.SIGABRT):  # allocations of Python, and of other code
        return f"expected at most {memory_limit(grammar) >> 20} MiB of memory to compile, found more"
    return f"trying it out failed: {sys.executable} ended with {code}"
