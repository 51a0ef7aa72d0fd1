"""The checked vocabulary in a GGUF file's metadata: tokens by id, their types, and ids by role."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyml_core.errors import quoted

from ..errors import ModelFileError
from .base import MAX_TOKEN_LENGTH, MAX_TOKENS, TokenizerMetadata
from .config_files import MAX_CHAT_TEMPLATE, TURN_ENDS
from .model_proto import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from .vocabulary_checks import split_merges

_log = logging.getLogger("pyml.tokenizer")

KEY = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_ROLES = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask")  # as spelled in the keys
_OF_IMAGES = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}


class Vocabulary:
    """The values of the keys ``tokenizer.*``, checked.

    Every method raises :class:`ModelFileError`, naming the key, if a value is malformed.

    Args:
        metadata: keys and values as :class:`pyml_nlp.formats.gguf.GGUFFile` returns them.
        label: the file, for messages.

    Attributes:
        tokens: texts by id, as in the file; an empty text is replaced by a placeholder.
        types: types of the tokens, :data:`pyml_nlp.tokenizer.model_proto.NORMAL` and so on.
        roles: ids by role (``bos``, ``unknown``, ...), without the roles that no token has.
    """

    def __init__(self, metadata: Mapping[str, Any], label: str) -> None:
        self._metadata = metadata
        self.label = label
        self.tokens = self._tokens()
        self.types = self._types()
        self.roles = {role: number for role in _ROLES if (number := self._role(role)) is not None}

    def fail(self, key: str, message: str) -> ModelFileError:
        """Return the error for a key, which is given without ``tokenizer.ggml.``."""
        return ModelFileError(f"{self.label}: {KEY}{key}: {message}")

    def warn(self, key: str, message: str) -> None:
        """Log a warning about a key, which is given without ``tokenizer.ggml.``."""
        _log.warning("%s: %s%s: %s", self.label, KEY, key, message)

    def _strings(self, key: str) -> list[str]:
        value = self._metadata.get(KEY + key)
        if not isinstance(value, list) or not set(map(type, value)) <= {str}:
            raise self.fail(key, f"expected an array of strings, got {describe(value)}")
        return value

    def _tokens(self) -> list[str]:
        tokens = self._strings("tokens")
        if not 0 < len(tokens) <= MAX_TOKENS:
            raise self.fail("tokens", f"expected 1 to {MAX_TOKENS} tokens, got {len(tokens)}")
        longest = max(map(len, tokens))
        if longest > MAX_TOKEN_LENGTH:
            number = next(number for number, text in enumerate(tokens) if len(text) == longest)
            raise self.fail("tokens", f"token {number}: expected at most {MAX_TOKEN_LENGTH} characters, got {longest}")
        if "" in tokens:  # llama.cpp's placeholder
            tokens = [text or f"[EMPTY_{number}]" for number, text in enumerate(tokens)]
        return tokens

    def numbers(self, key: str, kinds: str, expected: str) -> npt.NDArray[Any] | None:
        """Return an array with one number for each token; None if the key is missing."""
        value = self._metadata.get(KEY + key)
        if value is None:
            return None
        array = np.asarray(value) if isinstance(value, list | np.ndarray) else np.empty(0)
        if array.ndim != 1 or array.dtype.kind not in kinds or array.dtype.itemsize < 4:
            raise self.fail(key, f"expected an array of {expected}, got {describe(value)}")
        if len(array) != len(self.tokens):
            raise self.fail(key, f"expected one for each of {len(self.tokens)} tokens, got {len(array)}")
        return array

    def _types(self) -> npt.NDArray[np.uint8]:
        found = self.numbers("token_type", "iu", "integers")
        if found is None:
            found = np.full(len(self.tokens), NORMAL)
        elif found.min() < 0 or found.max() > BYTE:
            raise self.fail("token_type", f"expected 0 to {BYTE}, got {found.min()} to {found.max()}")
        types = np.where(found == 0, NORMAL, found).astype(np.uint8)  # 0: undefined
        # GGUF files of Gemma call marks of images user-defined, which would print them. tokenizer.json: special.
        for number in map(int, np.flatnonzero(types == USER_DEFINED)):
            if self.tokens[number] in _OF_IMAGES:
                types[number] = CONTROL
        return types

    def has(self, key: str) -> bool:
        """Return whether the key is present."""
        return self._metadata.get(KEY + key) is not None

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean, or ``default`` if the key is missing."""
        value = self._metadata.get(KEY + key)
        if value is None:
            return default
        if not isinstance(value, bool | np.bool_):
            raise self.fail(key, f"expected a bool, got {describe(value)}")
        return bool(value)

    def _role(self, role: str) -> int | None:
        key = f"{role}_token_id"
        value = self._metadata.get(KEY + key)
        if value is None:
            return None
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise self.fail(key, f"expected an integer, got {describe(value)}")
        if not 0 <= value < len(self.tokens):  # some files use -1 or the vocabulary's size for a missing token
            self.warn(key, f"{value} is outside of the vocabulary of {len(self.tokens)} tokens: ignored")
            return None
        return int(value)

    def text(self, key: str) -> str | None:
        """Return the text under a full key; None if it is missing."""
        value = self._metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > MAX_CHAT_TEMPLATE:
            raise ModelFileError(
                f"{self.label}: {key}: expected text of at most {MAX_CHAT_TEMPLATE} characters, got {describe(value)}"
            )
        return value

    def merges(self) -> list[tuple[str, str]]:
        """Return the pairs to merge, in order of priority."""
        return split_merges(self._strings("merges"), f"{self.label}: {KEY}merges")

    def ids_of(self, *types: int) -> list[int]:
        """Return the ids of the tokens of these types, ascending."""
        return [*map(int, np.flatnonzero(np.isin(self.types, types)))]

    def repeated(self, pieces: Sequence[str]) -> list[int]:
        """Return the ids of tokens whose piece belongs to another token, the one that text is encoded as.

        That one is special if any of them is, otherwise it is the last one, as in llama.cpp's map from texts to ids.

        Args:
            pieces: the tokens' pieces in the tokenizer's model, by id.
        """
        ids = dict(zip(pieces, range(len(pieces)), strict=True))
        ids |= {pieces[number]: number for number in self.ids_of(CONTROL, UNKNOWN)}
        found = [number for number, piece in enumerate(pieces) if ids[piece] != number]
        if found:
            text = pieces[found[0]]
            count = "1 token has" if len(found) == 1 else f"{len(found)} tokens have"
            self.warn(
                "tokens",
                f"{count} the text of another one, such as {found[0]}, {quoted(text)}: it is read as {ids[text]}",
            )
        return found

    def tokenizer_metadata(self, kind: str, add_bos: bool, default_ids: Mapping[str, int]) -> TokenizerMetadata:
        """Return the tokenizer's metadata: BOS, EOS, and the ids around a text."""
        roles: dict[str, int | None] = {role: self.roles.get(role) for role in ("bos", "eos", "eot", "eom")}
        for role, default_id in default_ids.items():
            if roles[role] is None and default_id < len(self.tokens):
                roles[role] = default_id
        prefix_and_suffix: list[tuple[int, ...]] = []
        for role, default in (("bos", add_bos), ("eos", False)):
            number = roles[role]
            wanted = self.flag(f"add_{role}_token", default)
            if wanted and number is None:
                raise self.fail(f"add_{role}_token", f"expected {KEY}{role}_token_id too, got none")
            prefix_and_suffix.append((number,) if wanted and number is not None else ())
        special = self.ids_of(CONTROL, UNKNOWN)
        ends = {roles[role] for role in ("eos", "eot", "eom")}
        ends.update(number for number in special if self.tokens[number] in TURN_ENDS)
        named = {name: {**self.roles, **roles}.get(role) for name, role in _NAMES.items()}
        return TokenizerMetadata(
            kind=kind,
            vocab_size=len(self.tokens),
            bos_id=roles["bos"],
            eos_ids=tuple(sorted(number for number in ends if number is not None)),
            special_ids=special,
            prefix=prefix_and_suffix[0],
            suffix=prefix_and_suffix[1],
            named_tokens={f"{name}_token": self.tokens[n] for name, n in named.items() if n is not None},
            chat_templates=self._chat_templates(),
        )

    def _chat_templates(self) -> dict[str, str]:
        """Return the chat templates by name: the file's default, and its named ones."""
        found = {}
        for key in self._metadata:
            if key == _TEMPLATE or key.startswith(_TEMPLATE + "."):
                text = self.text(key)
                if text is not None:
                    found[key.removeprefix(_TEMPLATE).lstrip(".") or "default"] = text
        return found


def describe(value: Any) -> str:
    """Return a metadata value as a short text for a message."""
    if isinstance(value, list | tuple | np.ndarray):
        kinds = sorted({type(element).__name__ for element in value[:1000]})
        return f"{len(value)} of {' and '.join(kinds) or 'nothing'}"
    return "none" if value is None else quoted(value)
