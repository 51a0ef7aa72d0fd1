"""Strings to compare tokenizers on: random ones of many kinds, and real text of the machine.

Everything random is drawn with ``random.Random(...).random()`` alone, whose numbers are the same in every version of
Python, so that string ``n`` of a seed is the same everywhere.
"""

from __future__ import annotations

import math
import random
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

_RANGES = [
    (0x0, 0x20), (0x20, 0x7f), (0x80, 0x100), (0x100, 0x250), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530),
    (0x590, 0x600), (0x600, 0x700), (0x900, 0x980), (0xe00, 0xe80), (0x1100, 0x1200), (0x2000, 0x2070),
    (0x2190, 0x2200), (0x2500, 0x2600), (0x2e80, 0x2f00), (0x3000, 0x3100), (0x4e00, 0x9fff), (0xac00, 0xd7a4),
    (0xe000, 0xf8ff), (0xfb00, 0xfb50), (0xfe00, 0xfe10), (0xff00, 0xfff0), (0xfff0, 0x10000),
    (0x10000, 0x10400), (0x1d400, 0x1d800), (0x1f300, 0x1f700), (0x20000, 0x2a6df), (0xe0000, 0xe0080),
    (0x10fff0, 0x110000),
]  # fmt: skip
_SPACES = [
    " ", " ", " ", " ", "\n", "\n", "\t", "\r\n", "\r", "\xa0", "\u2003", "\u3000", "\u200b", "\x0b", "\x0c",
    "\x85", "\u2028",
]  # fmt: skip
_MARKS = [
    "▁", "▁", "Ġ", "Ċ", ".", ",", ";", ":", "!", "?", "'", "\"", "(", ")", "[", "]", "{", "}", "<", ">", "|",
    "/", "\\", "@", "#", "$", "%", "^", "&", "*", "-", "+", "=", "_", "~", "`", "'s", "'S", "'re", "'LL", "n't",
    "<|", "|>", "</", "<0x0A>", "<0xE4>", "##",
]  # fmt: skip
_SPECIAL = [
    "<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "<s>", "</s>", "<unused0>", "<unused99>", "<start_of_turn>",
    "<end_of_turn>", "[multimodal]", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>",
    "<|eot_id|>", "<repo_name>", "<file_sep>", "<think>", "</think>", "<tool_call>", "<h1>", "</table>", "▁▁",
    "<start_of_image>", "<jupyter_code>",
]  # fmt: skip
_WORDS = (
    "the of and to in a is that for it was on are as with his they at be this from "
    "have or by one had not but what all were when we there can an your which their "
    "said if do will each about how up out them then she many some so these would "
    "other into has more her two like him see time could no make than first been its "
    "who now people my made over did down only way find use may water naïve Straße "
    "façade señor été Größe œuvre Москва привет мир Ελλάδα καλημέρα שלום مرحبا "
    "العربية नमस्ते हिन्दी ไทย ភាសា 한국어 안녕하세요 日本語 こんにちは 中文 你好世界 Việt Nguyễn İstanbul "
    "ıIiİ ﬁnance Ｆｕｌｌ é Å क्\u200dष 👍🏽 👩\u200d👩\u200d👧 🇩🇪 🎉 ❤️ HTTPServer camelCase snake_case "
    "__init__ lambda foo.bar() x==y !=≠ 3.14159 2024-11-23 1,234,567 0xDEADBEEF 10^9 "
    "½ Ⅷ ٣٤ ๕"
).split(" ")
_CODE = [
    "def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n\t}\n",
    "<div class=\"a\">\n  <p>text</p>\n</div>\n", "SELECT * FROM t WHERE id >= 10;",
    "{\"key\": [1, 2.5, null, \"\\u00e9\"]}", "# comment\n\n\n", "if x:\n        pass\n    else:\n        y()",
    "https://example.org/a?b=c&d=%20#e", "\\frac{a}{b} \\sum_{i=0}^{n}",
    "fn main() -> Result<(), Box<dyn Error>> {", "$ ls -la ", " grep '^d' >> out.txt\n",
]  # fmt: skip


class Draw:
    """Draws from one random stream."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def one(self, of: Sequence[str]) -> str:
        return of[self.below(len(of))]

    def length(self, longest: int) -> int:
        """From 1 to ``longest``; short ones are more frequent."""
        return max(1, int(math.exp(self._random() * math.log(longest + 1))))

    def character(self) -> str:
        first, end = _RANGES[self.below(len(_RANGES))]
        return chr(first + self.below(end - first))


def _unicode(draw: Draw) -> str:
    return "".join(draw.character() for _ in range(draw.length(60)))


def _script(draw: Draw) -> str:
    first, end = _RANGES[draw.below(len(_RANGES))]
    return "".join(
        chr(first + draw.below(end - first)) if draw.below(5) else draw.one(_SPACES) for _ in range(draw.length(60))
    )


def _any(draw: Draw) -> str:
    points = (draw.below(0x110000) for _ in range(draw.length(40)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _words(draw: Draw) -> str:
    return "".join(
        draw.one(_WORDS) + (" " if draw.below(6) else draw.one(_SPACES + _MARKS)) for _ in range(draw.length(40))
    )


def _whitespace(draw: Draw) -> str:
    return "".join(
        draw.one(_SPACES) * draw.length(70) + (draw.one(_WORDS) if draw.below(2) else "") for _ in range(draw.length(8))
    )


def _numbers(draw: Draw) -> str:
    return "".join(
        str(draw.below(10 ** (1 + draw.below(12)))) + draw.one([" ", ",", ".", "", "-", "e", "%\n"])
        for _ in range(draw.length(15))
    )


def _code(draw: Draw) -> str:
    return "".join(" " * (4 * draw.below(5)) + draw.one(_CODE) for _ in range(draw.length(6)))


def _special(draw: Draw) -> str:
    parts = (_SPECIAL, _SPECIAL, _WORDS, _MARKS, _SPACES)
    return "".join(draw.one(parts[draw.below(len(parts))]) for _ in range(draw.length(20)))


def _ascii(draw: Draw) -> str:
    return "".join(chr(32 + draw.below(95)) for _ in range(draw.length(80)))


def _repeated(draw: Draw) -> str:
    return "".join(
        (draw.character() if draw.below(2) else draw.one(_MARKS)) * draw.length(100) for _ in range(draw.length(4))
    )


KINDS = (_unicode, _script, _any, _words, _whitespace, _numbers, _code, _special, _ascii, _repeated)


def random_string(number: int, pieces: Sequence[str] = ()) -> str:
    """String ``number``; with ``pieces`` (of a vocabulary) every fourth one is made of these."""
    draw = Draw(f"tokenizer parity {number}")
    if pieces and number % 4 == 3:
        return "".join(draw.one(pieces) for _ in range(draw.length(30)))
    return KINDS[number % len(KINDS)](draw)


@cache
def _files() -> list[Path]:
    folders = [Path(sysconfig.get_paths()["stdlib"]), Path("/usr/share/doc"), Path("/usr/share/common-licenses")]
    endings = {".py", ".txt", ".md", ".rst", ".html", ".h", ".po", ".copyright", ""}
    found = (file for folder in folders for file in folder.rglob("*") if file.suffix in endings)
    return sorted(file for file in found if "site-packages" not in file.parts and file.is_file())


def real_strings(count: int) -> Iterator[str]:
    """Arbitrary cuts out of Python's own sources and the documents on this machine."""
    draw = Draw("real text")
    files = _files()
    while count > 0 and files:
        try:
            text = files[draw.below(len(files))].read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for _ in range(min(count, 20) if text else 0):
            start = draw.below(len(text))
            yield text[start : start + draw.length(2000)]
            count -= 1
