"""Reading whole files of bounded size that are not JSON (for JSON: :func:`pyml_nlp.formats.config.read_json`)."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelFileError
from ..formats.reading import ModelFile
from ..text_files import decoded


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the bytes of a file.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: the file cannot be read, is not a regular file, or has more than ``limit`` bytes.
    """
    with ModelFile(path) as file:
        if file.size > limit:
            raise file.error(f"expected at most {limit} bytes, got {file.size}")
        return file.read_bytes(0, file.size)


def read_text(path: Path, limit: int) -> str:
    """Return a UTF-8 file as text, without a byte order mark.

    Raises:
        ModelNotFoundError: the file does not exist.
        ModelFileError: see :func:`read_bytes`, or the file is not valid UTF-8.
    """
    data = read_bytes(path, limit)
    try:
        return decoded(data)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
