"""Give added tokens to the ``tokenizers`` library, which decides about their ids as it does for transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from . import byte_level
from .config_files import AddedToken

if TYPE_CHECKING:
    import tokenizers

_log = logging.getLogger("pyml.tokenizer")


def add_tokens(engine: tokenizers.Tokenizer, added: Sequence[AddedToken], special: Sequence[str], what: str) -> None:
    """Add tokens in the order given.

    A token that is in the vocabulary already, or comes a second time, keeps the id that it has; any other one gets the
    next free id. A warning tells where that is not the id that the files say.

    Args:
        engine: the library's object.
        added: the tokens.
        special: texts of tokens with a name (BOS and the like), which are special whatever their entry says, but are
            found as it says, as transformers has it; those that are not in the vocabulary are left out.
        what: the file, for the warning.
    """
    from tokenizers import AddedToken as LibraryToken

    flags = ("single_word", "lstrip", "rstrip", "normalized")
    named = dict.fromkeys(special)
    engine.add_tokens(
        [
            LibraryToken(
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
        _log.warning("%s: added token %.80r has id %s, not %d%s", what, token.text, found, token.id, others)
    for token in added:
        named.pop(token.text, None)
    rest = [text for text in named if text and engine.token_to_id(text) is not None]
    if rest:
        engine.add_special_tokens([LibraryToken(text, normalized=False, special=True) for text in rest])


def own_texts(added: Mapping[int, tokenizers.AddedToken], vocab: Mapping[str, int]) -> dict[int, str]:
    """Texts of a byte-level tokenizer's added tokens by id, in the alphabet of bytes.

    An added token is found in plain text, so that its characters never stand for bytes, also where all of them could.
    One that the model's own vocabulary has is left out: its characters do.
    """
    return {
        number: byte_level.from_bytes(token.content.encode())
        for number, token in added.items()
        if vocab.get(token.content) != number
    }
