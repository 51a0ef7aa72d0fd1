"""Give added tokens to the ``tokenizers`` library, and make sure that they get the ids that the files say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ModelFileError
from .config_files import AddedToken

if TYPE_CHECKING:
    import tokenizers


def add_tokens(engine: tokenizers.Tokenizer, added: Sequence[AddedToken], special: Sequence[str], what: str) -> None:
    """Add tokens in the order given.

    Args:
        special: texts of tokens with a name (BOS and the like), which are special whatever their entry says, as
            transformers has it; those that are not in the vocabulary are left out.

    Raises:
        ModelFileError: a token would get another id than its own.
    """
    from tokenizers import AddedToken as LibraryToken

    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    engine.add_tokens([LibraryToken(token.text, **{name: getattr(token, name) for name in flags}) for token in added])
    for token in added:
        found = engine.token_to_id(token.text)
        if found != token.id:
            raise ModelFileError(
                f"{what}: added token {token.text[:80]!r}: expected the next free id {found}, got {token.id}"
            )
    named = [text for text in special if text and engine.token_to_id(text) is not None]
    if named:
        engine.add_special_tokens([LibraryToken(text, normalized=False, special=True) for text in named])
