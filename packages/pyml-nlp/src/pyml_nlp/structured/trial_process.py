"""Compiles one grammar in a separate process with limits for time and memory.

Run as a script, without pyml, by :mod:`.trial`: the request is JSON on standard input, the answer is JSON on standard
output. If there is no answer, the exit code says which limit was reached.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import types
from pathlib import Path
from typing import Any

STACK = 32 << 20
"""Bytes of stack. Each link in a chain of rules or references takes a part of it."""


class ByteTokens:
    """A vocabulary of bytes, after placeholders for the model's own tokens.

    Args:
        size: number of the model's tokens.
        special: texts of the tokens that a grammar may name.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, size: int, special: dict[int, str]) -> None:
        self.size = size
        self.tokens = [b""] * size + [bytes([byte]) for byte in range(256)] + [b"</s>"]
        self.eos_token_id = size + 256
        for number, text in special.items():
            self.tokens[number] = text.encode()
        self.special_token_ids = [*special, self.eos_token_id]

    def __call__(self, text: str | bytes) -> list[int]:
        """Encode a text."""
        return [self.size + byte for byte in (text.encode() if isinstance(text, str) else text)]


def compile_error(request: dict[str, Any]) -> str:
    """Return llguidance's error message for a grammar; empty if it compiles."""
    library = _library(request["llguidance"])
    tokens = ByteTokens(request["size"], {int(number): text for number, text in request["special"].items()})
    tree = library.LLTokenizer(tokens, len(tokens.tokens), [tokens.eos_token_id])
    limits = library.LLParserLimits(verbose_errors=False)
    matcher = library.LLMatcher(tree, request["source"], log_level=0, limits=limits)
    if not matcher.is_error():  # the first step of a text
        matcher.compute_bitmask()
        matcher.compute_ff_tokens()
    error: str = matcher.get_error()
    return error


def _library(folder: str) -> Any:
    """Return only llguidance's native module: the package imports modules that take longer than most grammars."""
    package = types.ModuleType("llguidance")
    package.__path__ = [folder]
    sys.modules["llguidance"] = package
    import llguidance._lib  # by the stand-in for its package

    return llguidance._lib


def _limit(seconds: int, nbytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data and stack
    most = pages * resource.getpagesize() + STACK + nbytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Answer the request on standard input."""
    request = json.loads(sys.stdin.buffer.read())
    _limit(request["seconds"], request["nbytes"])

    answers: list[str] = []

    def answer() -> None:
        try:
            answers.append(compile_error(request))
        except MemoryError:
            pass  # reported by the exit code
        except BaseException as error:  # including a panic
            answers.append(str(error) or type(error).__name__)

    threading.stack_size(STACK)
    thread = threading.Thread(target=answer)
    thread.start()
    thread.join()
    if not answers:
        sys.exit(1)
    sys.stdout.write(json.dumps({"error": answers[0]}))


if __name__ == "__main__":
    main()
