"""Adding tokens to a ``tokenizers`` object, which assigns their ids as it does for transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import tokenizers

from . import byte_level
from .config_files import AddedToken

_log = logging.getLogger("pyml.tokenizer")


def add_tokens(engine: tokenizers.Tokenizer, added: Sequence[AddedToken], special: Sequence[str], label: str) -> None:
    """Add tokens in the given order.

    A token that is in the vocabulary already, or that is repeated, keeps its id; any other token gets the next free
    id. A warning is logged if that differs from the id in the files.

    Args:
        engine: the library's object.
        added: the tokens.
        special: texts of tokens with a name (BOS and the like). They are special regardless of their entry, which
            only says how they are matched, as in transformers. Texts outside the vocabulary are ignored.
        label: the file, for the warning.
    """
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    named = dict.fromkeys(special)
    engine.add_tokens(
        [
            tokenizers.AddedToken(
                token.text,
                special=token.special or token.text in named,
                **{name: getattr(token, name) for name in flags},
            )
            for token in added
        ]
    )
    moved = [(token, found) for token in added if (found := engine.token_to_id(token.text)) != token.id]
    if moved:
        token, found = moved[0]
        others = f", and so on for {len(moved) - 1} more" if len(moved) > 1 else ""
        _log.warning("%s: added token %.80r has id %s, not %d%s", label, token.text, found, token.id, others)
    for token in added:
        named.pop(token.text, None)
    rest = [text for text in named if text and engine.token_to_id(text) is not None]
    if rest:
        engine.add_special_tokens([tokenizers.AddedToken(text, normalized=False, special=True) for text in rest])


def own_texts(added: Mapping[int, tokenizers.AddedToken], vocab: Mapping[str, int]) -> dict[int, str]:
    """Return a byte-level tokenizer's added tokens by id, spelled in the alphabet of bytes.

    An added token is matched in plain text, so its characters never stand for bytes, even if all of them could.
    Tokens of the model's own vocabulary are left out: their characters do stand for bytes.
    """
    return {
        number: byte_level.from_bytes(token.content.encode())
        for number, token in added.items()
        if vocab.get(token.content) != number
    }
