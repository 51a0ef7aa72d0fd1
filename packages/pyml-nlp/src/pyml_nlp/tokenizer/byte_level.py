"""Byte-level BPE: the alphabet of bytes, and how each family of models cuts text into words.

Source of the alphabet: OpenAI's GPT-2, ``encoder.py``, ``bytes_to_unicode``. Sources of the rules: the tokenizer.json
of the models named, under the names that llama.cpp gives them in ``tokenizer.ggml.pre`` (``llama-vocab.cpp``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import pre_tokenizers


def _alphabet() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


ALPHABET = _alphabet()
"""The character that stands for each byte."""

_BYTES = {character: byte for byte, character in enumerate(ALPHABET)}


def to_bytes(piece: str) -> bytes:
    """Bytes of a token; a token with a character outside of the alphabet (an added one) is its own text."""
    try:
        return bytes([_BYTES[character] for character in piece])
    except KeyError:
        return piece.encode()


def from_bytes(data: bytes) -> str:
    """A token in the alphabet."""
    return "".join([ALPHABET[byte] for byte in data])


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut into words before the merges.

    Attributes:
        splits: expressions applied one after the other, what they match standing alone. None: GPT-2's, built into the
            library.
        digits_alone: each digit is a word.
        nfc: text is put into Unicode's normal form C first.
        ignore_merges: a word that is a token is that token, whatever the merges say.
        add_bos: BOS is put before a text unless the file says otherwise.
    """

    splits: tuple[str, ...] | None = None
    digits_alone: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_CAMEL % ('', '')}|\p{{N}}|{_PATHS}|{_SPACES}"
_GPT4O = rf"{_CAMEL % ((_CONTRACTIONS + '?',) * 2)}|\p{{N}}{{1,3}}|{_PATHS}|{_SPACES}"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)

GPT2 = PreTokenizer()
_NEOX = PreTokenizer(nfc=True)
_DIGITS = PreTokenizer(digits_alone=True)
_LLAMA = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_DBRX = PreTokenizer((_LLAMA3,))
_O200K = PreTokenizer((_GPT4O,))
QWEN2 = PreTokenizer((_QWEN2,), nfc=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": GPT2,
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "mpt": _NEOX,
    "olmo": _NEOX,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "command-r": PreTokenizer(digits_alone=True, nfc=True),
    "llama-bpe": _LLAMA,
    "llama3": _LLAMA,
    "llama-v3": _LLAMA,
    "dbrx": _DBRX,
    "smaug-bpe": _DBRX,
    "qwen2": QWEN2,
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "deepseek-v3": PreTokenizer(_DEEPSEEK3),
}
"""By the name in GGUF's ``tokenizer.ggml.pre``."""


def build_pre_tokenizer(rule: PreTokenizer, add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """The rule as the ``tokenizers`` library runs it."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.splits or ()]
    if rule.digits_alone:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=rule.splits is None))
    return pre_tokenizers.Sequence(steps)
