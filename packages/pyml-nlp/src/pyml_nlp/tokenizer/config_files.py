"""Tokenizer settings in the small files of a Hugging Face folder: special tokens, BOS and EOS, the chat template.

tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json, generation_config.json,
chat_template.jinja, additional_chat_templates and chat_template.json; each may be missing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyml_core.errors import quoted

from ..errors import ModelFileError
from ..formats.config import read_optional
from .base import MAX_TOKEN_LENGTH, MAX_TOKENS
from .bounded import read_text

_log = logging.getLogger("pyml.tokenizer")

MAX_CHAT_TEMPLATE = 1 << 20
"""Maximum number of characters of a chat template."""

TURN_ENDS = frozenset(("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"))
"""Control tokens that end a turn in a chat. They end a text too, even if the files do not list them."""

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the text before any other step."""

    id: int
    text: str
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class ConfigFiles:
    """The small files of one folder.

    Raises:
        ModelFileError: a file is not a JSON object, has a value of the wrong type, or requires running code from the
            folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = read_optional(folder, "tokenizer_config.json")
        special_map = read_optional(folder, "special_tokens_map.json")
        self._token_files = (("tokenizer_config.json", self.tokenizer), ("special_tokens_map.json", special_map))
        if self.flag("split_special_tokens", False):
            raise ModelFileError(f"{folder / 'tokenizer_config.json'}: split_special_tokens: expected false, got true")
        self._configs = {name: read_optional(folder, name) for name in ("config.json", "generation_config.json")}

    @property
    def model_type(self) -> str | None:
        """The ``model_type`` of config.json; None if it is missing or not a string."""
        found = self._configs["config.json"].get("model_type")
        return found if isinstance(found, str) else None

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean of tokenizer_config.json, or ``default`` if it is missing or null."""
        value = self.tokenizer.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelFileError(
                f"{self.folder / 'tokenizer_config.json'}: {name}: expected true or false, got {quoted(value)}"
            )
        return value

    def named_token(self, name: str) -> str | None:
        """Return the text of a named token such as ``bos_token``; None if the files do not name it."""
        for file, content in self._token_files:
            if content.get(name) is not None:
                return self._token_text(content[name], f"{self.folder / file}: {name}")
        return None

    def named_tokens(self) -> dict[str, str]:
        """Return the texts of all named tokens, by name."""
        found = {name: self.named_token(name) for name in _NAMED}
        return {name: text for name, text in found.items() if text is not None}

    def special_tokens(self) -> list[str]:
        """Return the texts of all tokens that are named or listed as special, without repetition."""
        found: list[str] = []
        for file, content in self._token_files:
            values = [(name, content[name]) for name in _NAMED if content.get(name) is not None]
            for name in _LISTED:
                listed = content.get(name) or []
                if isinstance(listed, dict):
                    listed = list(listed.values())
                if not isinstance(listed, list):
                    raise ModelFileError(f"{self.folder / file}: {name}: expected a list, got {type(listed).__name__}")
                values += [(name, value) for value in listed]
            found += [self._token_text(value, f"{self.folder / file}: {name}") for name, value in values]
        return list(dict.fromkeys(found))

    @staticmethod
    def _token_text(value: Any, label: str) -> str:
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str) or len(text) > MAX_TOKEN_LENGTH:
            raise ModelFileError(f"{label}: expected the text of a token, got {quoted(value)}")
        return text

    def added_tokens(self, known: Collection[str] = ()) -> list[AddedToken]:
        """Return the tokens of added_tokens.json and of tokenizer_config.json's ``added_tokens_decoder``, by id.

        Args:
            known: texts to leave out of added_tokens.json, which has no flags, only ids.
        """
        found: dict[int, AddedToken] = {}
        path = self.folder / "added_tokens.json"
        for text, number in read_optional(self.folder, "added_tokens.json").items():
            _added_id(number, f"{path}: {quoted(text)}")
            if text not in known:
                found[number] = AddedToken(number, text)
        path = self.folder / "tokenizer_config.json"
        listed = self.tokenizer.get("added_tokens_decoder") or {}
        if not isinstance(listed, dict):
            raise ModelFileError(f"{path}: added_tokens_decoder: expected an object, got {type(listed).__name__}")
        for key, entry in listed.items():
            if not isinstance(entry, dict):
                raise ModelFileError(
                    f"{path}: added_tokens_decoder: {quoted(key)}: expected an object, got {quoted(entry)}"
                )
            number = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else key
            found[_added_id(number, f"{path}: added_tokens_decoder")] = parse_added_token(
                {**entry, "id": number}, str(path)
            )
        return [found[number] for number in sorted(found)]

    def bos_id(self, vocab: Mapping[str, int]) -> int | None:
        """Return the token that begins a text: tokenizer_config.json's, else that of the model's config.json."""
        text = self.named_token("bos_token")
        if text is not None:
            return vocab.get(text)
        size = max(vocab.values()) + 1
        numbers = self._model_ids("bos_token_id", size)
        return numbers[0] if numbers else None

    def eos_ids(self, vocab: Mapping[str, int]) -> tuple[int, ...]:
        """Return the ids of the tokens that end a text, ascending.

        They come from the tokenizer, config.json and generation_config.json, and include the tokens that end a turn
        in a chat template.
        """
        text = self.named_token("eos_token")
        named = {vocab[text]} if text is not None and text in vocab else set()
        sources = self.chat_templates().values()
        named.update(vocab[end] for end in TURN_ENDS if end in vocab and any(end in source for source in sources))
        return tuple(sorted(named.union(self._model_ids("eos_token_id", max(vocab.values()) + 1))))

    def _model_ids(self, name: str, vocab_size: int) -> list[int]:
        found: list[int] = []
        for file, content in self._configs.items():
            value = content.get(name)
            for number in value if isinstance(value, list) else [] if value is None else [value]:
                no_token = type(number) is int and number == -1  # some converters write -1 for a missing token
                if not no_token and _token_id(number, f"{self.folder / file}: {name}") < vocab_size:
                    found.append(number)
                else:  # or an unchanged default, as in many small models: no text can have this token
                    _log.warning(
                        "%s: %s %d is outside of the vocabulary of %d tokens: ignored", file, name, number, vocab_size
                    )
        return found

    def prefix_and_suffix(
        self, vocab: Mapping[str, int], default: tuple[int | None, int | None]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids before and after a text: BOS and EOS, where ``add_bos_token`` and ``add_eos_token`` are true.

        Args:
            vocab: ids by token.
            default: BOS and EOS for files that do not name them. A name that is null disables its default.
        """
        path = self.folder / "tokenizer_config.json"
        ids: list[tuple[int, ...]] = []
        for name, number in zip(("bos_token", "eos_token"), default, strict=True):
            text = self.named_token(name)
            if text is not None:
                number = vocab.get(text)
            elif name in self.tokenizer:
                number = None
            if not self.flag(f"add_{name}", False) or (text is None and number is None):
                ids.append(())
            elif number is None:
                raise ModelFileError(f"{path}: add_{name}: the token {quoted(text)} is not in the vocabulary")
            else:
                ids.append((number,))
        return ids[0], ids[1]

    def chat_templates(self) -> dict[str, str]:
        """Return the chat templates by name. Most folders have one, ``default``.

        The first source that exists is used: chat_template.jinja with additional_chat_templates,
        tokenizer_config.json, chat_template.json.
        """
        paths = {"default": self.folder / "chat_template.jinja"} | {
            path.stem: path for path in sorted((self.folder / "additional_chat_templates").glob("*.jinja"))
        }
        found = {
            name: _bounded(read_text(path, 4 * MAX_CHAT_TEMPLATE), path)
            for name, path in paths.items()
            if path.exists()
        }
        if found:
            return found
        for file, content in (
            ("tokenizer_config.json", self.tokenizer),
            ("chat_template.json", read_optional(self.folder, "chat_template.json")),
        ):
            value = content.get("chat_template")
            if value is not None:
                return self._templates(value, self.folder / file)
        return {}

    @staticmethod
    def _templates(value: Any, path: Path) -> dict[str, str]:
        """Return one template, or each of a list of named templates, by name."""
        found = {}
        for entry in value if isinstance(value, list) else [{"name": "default", "template": value}]:
            match entry:
                case {"name": str(name), "template": str(template)}:
                    found[name] = _bounded(template, path)
                case {"name": "default", "template": other}:
                    raise ModelFileError(f"{path}: chat_template: expected text, got {type(other).__name__}")
                case _:
                    raise ModelFileError(f"{path}: chat_template: expected a name and a template, got {quoted(entry)}")
        return found


def _bounded(template: str, path: Path) -> str:
    if len(template) > MAX_CHAT_TEMPLATE:
        raise ModelFileError(
            f"{path}: chat template: expected at most {MAX_CHAT_TEMPLATE} characters, got {len(template)}"
        )
    return template


def _token_id(value: Any, label: str) -> int:
    if type(value) is not int or not 0 <= value < MAX_TOKENS:
        raise ModelFileError(f"{label}: expected a token id, got {quoted(value)}")
    return value


def _added_id(value: Any, label: str) -> int:
    """Check the id of an added token, which may be beyond any vocabulary: see :mod:`.added`."""
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ModelFileError(f"{label}: expected a token id, got {quoted(value)}")
    return value


def parse_added_token(entry: Any, label: str) -> AddedToken:
    """Parse an entry of ``added_tokens`` or ``added_tokens_decoder``.

    Raises:
        ModelFileError: the id, the text or a flag has the wrong type.
    """
    if not isinstance(entry, dict):
        raise ModelFileError(f"{label}: added token: expected an object, got {quoted(entry)}")
    text = entry.get("content")
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TOKEN_LENGTH:
        raise ModelFileError(
            f"{label}: added token: expected a text of 1 to {MAX_TOKEN_LENGTH} characters, got {quoted(text)}"
        )
    number = _added_id(entry.get("id"), f"{label}: added token {quoted(text)}")
    special = entry.get("special", False)
    flags = {name: entry.get(name, False) for name in ("single_word", "lstrip", "rstrip")}
    flags["special"] = special
    flags["normalized"] = entry.get("normalized", not special)
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ModelFileError(
                f"{label}: added token {quoted(text)}: {name}: expected true or false, got {quoted(value)}"
            )
    return AddedToken(number, text, **flags)
