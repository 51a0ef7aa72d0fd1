"""Whether a grammar can be compiled with little time and memory, and without a crash.

A short text can say a grammar that takes minutes and gigabytes, or so deep a chain of rules that llguidance runs out of
stack, which ends the process. No count of its parts tells all of these from others. So whatever is not plainly small
is compiled in a process of its own first, whose time, memory and stack are limited.
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
from pathlib import Path

from pyml_core import cancel

from .grammar import Grammar, GrammarError

SECONDS = 2
"""Processor time that a grammar may take to compile."""

_WALL_SECONDS = 20.0  # where other processes have the processors
_POLL_SECONDS = 0.05  # between two looks at whether the text is still wanted
_SCRIPT = Path(__file__).with_name("trial_process.py")

_SMALL = 2000  # characters
_REPETITIONS = 10_000  # of the innermost part, if all that are counted are nested
_COUNTS = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}|~\s*(\d+)(?:\s*\.\.\s*(\d+))?")
# Words of schemas and grammars behind which a short text may take much work, and how often they may be there.
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
    """Bytes that a grammar may take to compile."""
    return (96 << 20) + 32 * len(grammar.source)


def is_small(grammar: Grammar) -> bool:
    """Whether a grammar compiles in little time and memory, as can be seen from its text."""
    source = grammar.source
    if len(source) > _SMALL or any(source.count(word) > most for word, most in _WORDS.items()):
        return False
    counts = [max(int(count[:9] or 1) for count in found) for found in _COUNTS.findall(source)]
    return math.prod(max(1, count) for count in counts) <= _REPETITIONS


def try_out(grammar: Grammar, source: str, size: int, special: Mapping[int, str]) -> str:
    """Compile a grammar in a process of its own.

    Args:
        grammar: the user's, for messages.
        source: as llguidance reads it.
        size: tokens of the vocabulary.
        special: texts of those that a grammar may name.

    Returns:
        llguidance's own words against it; an empty text if it has none.

    Raises:
        GrammarError: it takes too much time, memory or stack, or the process cannot be started.
        Cancelled: the token that the thread has entered asks for it.
    """
    import llguidance

    request = {
        "llguidance": str(Path(llguidance.__file__).parent),
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


def _run(request: bytes, kind: str) -> tuple[bytes, int]:
    """What the process writes, and its exit code."""
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
    """Why there was no answer."""
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"expected at most {SECONDS} s of processor time to compile, found more"
    if code == -signal.SIGSEGV:
        return "nested too deeply"
    if code in (1, -signal.SIGABRT):  # of Python's own allocations, of others
        return f"expected at most {memory_limit(grammar) >> 20} MiB of memory to compile, found more"
    return f"trying it out failed: {sys.executable} ended with {code}"
