"""``--prompt-cache``: the computed prompt in a file, for the next call that begins alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..generation.completion import Completion
    from ..language_model import LanguageModel


def use_prompt_cache(lm: LanguageModel, path: str, adapter: str | None = None) -> None:
    """Load the file into the prefix cache, for the next prompt with this adapter, if there is such a file.

    Raises:
        CacheFileError: it is damaged, or another model's.
    """
    from pyml_nn import CacheFileError

    from .. import logs

    if Path(path).exists():
        try:
            cache = lm.load_cache(path, adapter=adapter)
        except CacheFileError as error:
            raise CacheFileError(f"{error} (delete the file, or name another one)") from None
        logs.load.info("  Prompt cache: %d tokens from %s", cache.length, path)
        lm.prefix_cache.max_bytes = max(lm.prefix_cache.max_bytes, cache.nbytes)
        lm.prefix_cache.add(cache)


def save_prompt_cache(completion: Completion, path: str) -> None:
    """Write the prompt's keys and values, unless the file has all of them; a text cut short in its prompt has none.

    Raises:
        CacheFileError: the file cannot be written.
    """
    known = completion.reused >= len(completion.prompt) - 1 and Path(path).exists()
    if completion.tokens and not known and not completion.shifted:
        completion.cache.fork(len(completion.prompt)).save(path)
