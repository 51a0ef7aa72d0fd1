"""Read a whole file of bounded size that is no JSON (for JSON: :func:`pyml_nlp.formats.config.read_json`)."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelFileError
from ..formats.reading import ModelFile
from ..text_files import decoded


def read_bytes(path: Path, limit: int) -> bytes:
    """The bytes of the file.

    Raises:
        ModelNotFoundError: there is no such file.
        ModelFileError: it cannot be read, is no regular file, or has more than ``limit`` bytes.
    """
    with ModelFile(path) as file:
        if file.size > limit:
            raise file.error(f"expected at most {limit} bytes, got {file.size}")
        return file.read_bytes(0, file.size)


def read_text(path: Path, limit: int) -> str:
    """The file as UTF-8 text without a byte order mark; errors as of :func:`read_bytes`, and for what is no UTF-8."""
    data = read_bytes(path, limit)
    try:
        return decoded(data)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
