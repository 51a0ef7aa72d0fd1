"""Byte-level BPE: its alphabet, and the rules by which each model family splits text into words.

Source of the alphabet: OpenAI's GPT-2, ``encoder.py``, ``bytes_to_unicode``. Sources of the rules: the tokenizer.json
of the models named, under the names that llama.cpp gives them in ``tokenizer.ggml.pre`` (``llama-vocab.cpp``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers

from . import regex_check


def _alphabet() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


ALPHABET = _alphabet()
"""The character that stands for each byte, by byte value."""

_BYTES = {character: byte for byte, character in enumerate(ALPHABET)}


def to_bytes(piece: str) -> bytes:
    """Return the bytes of a token. A token with a character outside the alphabet (an added one) is plain text."""
    try:
        return bytes([_BYTES[character] for character in piece])
    except KeyError:
        return piece.encode()


def from_bytes(data: bytes) -> str:
    """Return bytes as a token, in the alphabet."""
    return "".join([ALPHABET[byte] for byte in data])


@dataclass(frozen=True)
class PreTokenizer:
    """Rules that split text into words before merging.

    Attributes:
        splits: regular expressions, applied in sequence; each match becomes a word. None: GPT-2's, built into the
            library.
        digits_alone: each digit is a word.
        nfc: normalise text to Unicode's form C first.
        ignore_merges: a word that equals a token becomes that token, regardless of the merges.
        add_bos: put BOS before a text unless the file says otherwise.
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
_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
# Cased letters of all scripts in the Unicode version that the first DeepSeek models were trained with.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED}]+",
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    _CJK,
    r"\p{N}+",
)
_DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_FALCON = (r"[\p{P}$+<=>^~|`]+", _GPT2, "[0-9][0-9][0-9]")
_BLOOM = (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",)
_SEED_CODER = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_BAILING_MOE = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_MINICPM5 = (r"\p{N}{1,3}", _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+"))

GPT2 = PreTokenizer()
_NEOX = PreTokenizer(nfc=True)
_DIGITS = PreTokenizer(digits_alone=True)
_LLAMA = PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)
_DBRX = PreTokenizer((_LLAMA3,))
_GLM = PreTokenizer((_LLAMA3,), ignore_merges=True)
_QWEN = PreTokenizer((_QWEN2,))
_DEEPSEEK = PreTokenizer(_DEEPSEEK3)
_O200K = PreTokenizer((_GPT4O,))
_BAILING = PreTokenizer((_BAILING_MOE,))
_PORO = PreTokenizer(_BLOOM)
QWEN2 = PreTokenizer((_QWEN2,), nfc=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": GPT2,
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "jais": GPT2,
    "jina-de": GPT2,
    "jina-es": GPT2,
    "jina-v2-de": GPT2,
    "jina-v2-es": GPT2,
    "modern-bert": GPT2,
    "a.x-4.0": GPT2,
    "exaone4": GPT2,
    "gigachat": GPT2,
    "granite-docling": GPT2,
    "mellum": GPT2,
    "trillion": GPT2,
    "mpt": _NEOX,
    "olmo": _NEOX,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "minerva-7b": _DIGITS,
    "mellum2": _DIGITS,
    "command-r": PreTokenizer(digits_alone=True, nfc=True),
    "llama-bpe": _LLAMA,
    "llama3": _LLAMA,
    "llama-v3": _LLAMA,
    "falcon3": _LLAMA,
    "falcon-h1": _LLAMA,
    "lfm2": _LLAMA,
    "midm-2.0": _LLAMA,
    "pixtral": _LLAMA,
    "jina-v5-nano": _LLAMA,
    "dbrx": _DBRX,
    "smaug-bpe": _DBRX,
    "chatglm-bpe": _DBRX,
    "glm4": _GLM,
    "glm5": _GLM,
    "minicpm5": PreTokenizer(_MINICPM5, ignore_merges=True),
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "kormo": QWEN2,
    "megrez": QWEN2,
    "f2llmv2": QWEN2,
    "grok-2": _QWEN,
    "hunyuan": _QWEN,
    "solar-open": _QWEN,
    "stablelm2": _QWEN,
    "bailingmoe": _BAILING,
    "bailingmoe2": _BAILING,
    "llada-moe": _BAILING,
    "ufakzeka": PreTokenizer((_QWEN2.removeprefix(f"{_CONTRACTIONS}|"),)),
    "seed-coder": PreTokenizer((_SEED_CODER,)),
    "qwen35": PreTokenizer((_QWEN35,), nfc=True),
    "tekken": PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True),
    "gpt-4o": _O200K,
    "llama4": _O200K,
    "kanana2": _O200K,
    "minimax-m2": _O200K,
    "talkie": _O200K,
    "falcon": PreTokenizer(_FALCON),
    "bloom": _PORO,
    "gpt3-finnish": _PORO,
    "poro-chat": _PORO,
    "viking": PreTokenizer(_BLOOM, digits_alone=True),
    "deepseek-llm": PreTokenizer(_DEEPSEEK_LLM),
    "deepseek-coder": PreTokenizer(_DEEPSEEK_CODER, digits_alone=True),
    "deepseek-v3": _DEEPSEEK,
    "hunyuan-dense": _DEEPSEEK,
    "hy_v4": _DEEPSEEK,
    "joyai-llm": _DEEPSEEK,
}
"""Rules by their name in GGUF's ``tokenizer.ggml.pre``."""


def build_pre_tokenizer(rule: PreTokenizer, add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Return the rules as an object of the ``tokenizers`` library."""
    linear = [regex_check.check(pattern).pattern for pattern in rule.splits or ()]
    steps: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in linear]
    if rule.digits_alone:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=rule.splits is None))
    return pre_tokenizers.Sequence(steps)
