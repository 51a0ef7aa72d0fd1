"""Resolving a model name to files on this machine: a GGUF file, a folder, a hub id, or the default model."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from pyml_core.errors import one_line
from pyml_core.locks import importing

from .default_model import CHAT_NAME, NAME, default_chat_model, default_model, packed_folder
from .errors import ModelFileError, ModelNotFoundError
from .formats.folders import CONFIG, INDEX, SINGLE, gguf_of, other_form, weight_files
from .formats.packed_name import SUFFIX, is_packed

Note = Callable[[str], None]

_log = logging.getLogger("pyml.source")

_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"({_HUB_PART}/{_HUB_PART})(?:/((?:{_HUB_PART}/)*[\w.+-]+\.gguf))?", re.ASCII)
_DEFAULTS = {NAME: default_model, CHAT_NAME: default_chat_model}
_LONGEST = 200  # maximum number of characters of a name in a message
_MOST_NAMES = 1000  # maximum number of files of a folder that are compared with a name
_LEAST_BEGUN = 4  # characters of the beginning of a name that is recognised


@dataclass(frozen=True)
class Source:
    """A model's files on this machine.

    Attributes:
        kind: ``"gguf"``: ``path`` is a GGUF file; ``"folder"``: a folder in Hugging Face layout; ``"packed"``: a packed
            model.
        path: the file or folder.
        name: the model's name in messages: the hub id or the path.
    """

    kind: Literal["gguf", "folder", "packed"]
    path: Path
    name: str


def resolve(model: str | os.PathLike[str] | None = None, note: Note = _log.info) -> Source:
    """Find a model, and download it if necessary.

    A model in huggingface-hub's cache is used without a request to the hub. ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``
    and ``HF_HUB_OFFLINE`` have their effect in huggingface-hub.

    Args:
        model: a ``.gguf`` file; a folder; a packed model; a hub id ``organisation/name``, or
            ``organisation/name/file.gguf`` for one GGUF file of a repository; the file name of a default model, or of a
            packed one in pyml's cache. None: ``PYML_MODEL``, otherwise the embedded default. An existing path takes
            precedence over the other names.
        note: called with the line that says whether a hub model is in the cache or has to be downloaded.

    Raises:
        ModelNotFoundError: the model does not exist or cannot be downloaded; the message has advice.
        ModelFileError: the model's format is not supported.
    """
    if model is None:
        model = os.environ.get("PYML_MODEL") or None
    if model is None:
        path = default_model()
        return Source("gguf", path, path.name)
    text = os.fspath(model)
    found = _existing(text) if text else None
    if found is not None:
        return _local(found, text)
    if text in _DEFAULTS:
        return Source("gguf", _DEFAULTS[text](), text)
    if (packed := _packed(text)) is not None:
        return Source("packed", packed, text)
    match = _hub_id(text)
    with importing:  # start-up: huggingface-hub can take a second, and local models do not need it
        from .hub import Repository
    repository = Repository(match[1], note)
    if match[2] is not None:
        return Source("gguf", repository.gguf(match[2]), text)
    return Source("folder", repository.folder(), text)


def check_name(model: str) -> None:
    """Check that a model is an existing path, or can be the name of one on the hub.

    Raises:
        ModelNotFoundError: it is neither.
    """
    if model not in _DEFAULTS and (not model or (_existing(model) is None and _packed(model) is None)):
        _hub_id(model)


def is_hub_id(model: str) -> bool:
    """Return whether a model's name is the id of one on the hub, and not an existing path or a default model."""
    if not model or model in _DEFAULTS or _existing(model) is not None:
        return False
    return _hub_match(model) is not None


def _hub_match(text: str) -> re.Match[str] | None:
    match = _HUB_ID.fullmatch(text)
    return None if match is None or (match[2] is None and text.endswith((".gguf", SUFFIX))) else match


def _hub_id(text: str) -> re.Match[str]:
    """Return the repository and the file that a hub id names.

    Raises:
        ModelNotFoundError: it is no hub id.
    """
    if not text:
        raise ModelNotFoundError("expected a .gguf file, a model folder or a hub id, got an empty name")
    match = _hub_match(text)
    if match is None:
        shown = one_line(text, _LONGEST)
        raise ModelNotFoundError(
            f"{shown}: there is no such file or folder, and a hub id would be organisation/name or "
            f"organisation/name/file.gguf{_meant(text)}"
        )
    return match


def _meant(text: str) -> str:
    """Return the name that was probably meant, for the end of a message: a default model, or one in the folder."""
    with importing:  # start-up: for messages alone
        from difflib import get_close_matches

    folder, slash, name = text.rpartition("/")
    names = [] if slash else list(_DEFAULTS)
    with suppress(OSError, ValueError), os.scandir(folder or slash or ".") as entries:
        names += [
            one.name for one in islice(entries, _MOST_NAMES) if one.name.endswith((".gguf", SUFFIX)) or one.is_dir()
        ]
    begun = [one for one in names if len(name) >= _LEAST_BEGUN and one.lower().startswith(name.lower())]
    close = [one for one in begun or get_close_matches(name, names, 1, 0.8) if one.isprintable()]
    return f"; did you mean {one_line(folder, _LONGEST)}{slash}{close[0]}?" if close else ""


def _packed(text: str) -> Path | None:
    """Return the packed model of this file name in pyml's cache, or None."""
    if not text.endswith(SUFFIX) or "/" in text or "\0" in text:
        return None
    path = packed_folder() / text
    return path if path.is_file() else None


def _existing(text: str) -> Path | None:
    """Return the file or folder with this name, or None if it does not exist."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # a name that is too long; the home of an unknown user
        return None


def _local(path: Path, name: str) -> Source:
    """Return the source for a local file or folder."""
    if path.is_dir():
        gguf = gguf_of(path)
        return Source("folder", path, name) if gguf is None else Source("gguf", gguf, name)
    if path.suffix in (".safetensors", ".json"):
        folder = path.parent
        weights = weight_files(folder) if (folder / CONFIG).exists() else None
        if weights is not None and path.name in (*weights.names, CONFIG, INDEX):
            return Source("folder", folder, name)
        raise ModelFileError(
            f"{path}: expected a .gguf file or a model folder; give the folder that this file is in, with {CONFIG} and "
            f"{SINGLE}"
        )
    if path.suffix == SUFFIX or is_packed(path):
        return Source("packed", path, name)
    form = other_form([path.name])
    if form is not None:
        raise ModelFileError(f"{path}: {form}")
    return Source("gguf", path, name)
