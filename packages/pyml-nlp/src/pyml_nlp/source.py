"""Resolving a model name to files on this machine: a GGUF file, a folder, a hub id, or the default model."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pyml_core.errors import PymlError
from pyml_core.locks import importing

from .default_model import default_model
from .errors import ModelFileError, ModelNotFoundError
from .formats.folders import CONFIG, INDEX, SINGLE, gguf_models, gguf_of, other_form, weight_files
from .formats.gguf import part_names

Note = Callable[[str], None]

_log = logging.getLogger("pyml.source")

_HUB_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"({_HUB_PART}/{_HUB_PART})(?:/((?:{_HUB_PART}/)*[\w.+-]+\.gguf))?", re.ASCII)
_LONGEST = 200  # maximum number of characters of a name in a message
_SHA256 = re.compile(r"[0-9a-f]{64}")

_SMALL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
]
"""All files that a model needs in addition to its weights. They are downloaded first: weights imply the rest."""


@dataclass(frozen=True)
class Source:
    """A model's files on this machine.

    Attributes:
        kind: ``"gguf"``: ``path`` is a GGUF file; ``"folder"``: a folder in Hugging Face layout.
        path: the file or folder.
        name: the model's name in messages: the hub id or the path.
    """

    kind: Literal["gguf", "folder"]
    path: Path
    name: str


def resolve(model: str | os.PathLike[str] | None = None, note: Note = _log.info) -> Source:
    """Find a model, and download it if necessary.

    A model in huggingface-hub's cache is used without a request to the hub. ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``
    and ``HF_HUB_OFFLINE`` have the same effect as in huggingface-hub.

    Args:
        model: a ``.gguf`` file; a folder; a hub id ``organisation/name``, or ``organisation/name/file.gguf`` for one
            GGUF file of a repository. None: ``PYML_MODEL``, otherwise the embedded default. An existing path takes
            precedence over a hub id.
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
    if not text:
        raise ModelNotFoundError("expected a .gguf file, a model folder or a hub id, got an empty name")
    found = _existing(text)
    if found is not None:
        return _local(found, text)
    match = _HUB_ID.fullmatch(text)
    if match is None or (match[2] is None and text.endswith(".gguf")):
        shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        raise ModelNotFoundError(
            f"{shown}: there is no such file or folder, and a hub id would be organisation/name or "
            "organisation/name/file.gguf"
        )
    if match[2] is not None:
        return Source("gguf", _Hub(match[1], note).gguf(match[2]), text)
    return Source("folder", _Hub(match[1], note).folder(), text)


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
    form = other_form([path.name])
    if form is not None:
        raise ModelFileError(f"{path}: {form}")
    return Source("gguf", path, name)


class _Hub:
    """One repository of the hub. huggingface-hub is only imported here, because the import can take a second."""

    def __init__(self, repository: str, note: Note) -> None:
        self._id = repository
        self._note = note

    def folder(self) -> Path:
        """Return the folder of the repository's files, all of one commit, from the cache or downloaded.

        Files are downloaded one after the other in this thread, so that Ctrl-C stops the download at once. Partial
        files are removed, complete ones are kept for the next attempt.
        """
        with importing:
            from huggingface_hub import HfApi, snapshot_download
            from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            cached = Path(snapshot_download(self._id, allow_patterns=_SMALL_FILES, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        else:
            weights = weight_files(cached)
            if (cached / CONFIG).exists() and weights and all((cached / name).exists() for name in weights.names):
                self._note(f"Using cached model: {self._id}")
                return cached
        self._check_online()
        self._note(f"Downloading model: {self._id}")
        with self._download():
            names = [file.rfilename for file in HfApi().model_info(self._id).siblings or []]
            self._check_usable(names)
            small = [*_SMALL_FILES, *([] if SINGLE in names else [INDEX])]
            folder = self._file(CONFIG).parent  # named after the commit that all other files are taken from
            for name in names:
                if name != CONFIG and any(fnmatchcase(name, pattern) for pattern in small):
                    self._file(name, folder.name)
            weights = weight_files(folder)
            for name in [SINGLE] if weights is None else weights.names:
                if name not in names:
                    raise ModelNotFoundError(f"{self._id}: the repository has no {name}, which its index names")
                _check_hash(self._file(name, folder.name, bars=True))
        return folder

    def gguf(self, name: str) -> Path:
        """Return one GGUF file of the repository, from the cache or downloaded.

        All parts of a split model are downloaded into the same folder.
        """
        with importing:
            from huggingface_hub import try_to_load_from_cache

        folder, slash, base = name.rpartition("/")
        parts = part_names(base)
        cached = try_to_load_from_cache(self._id, name)
        if isinstance(cached, str) and all(Path(cached).with_name(part).exists() for part in parts):
            self._note(f"Using cached model: {self._id}/{name}")
            return Path(cached)
        self._check_online()
        self._note(f"Downloading model: {self._id}/{name}")
        with self._download():
            path, commit = Path(), None
            for part in parts:
                path = self._file(folder + slash + part, commit, bars=True)
                _check_hash(path)
                commit = path.parents[name.count("/")].name  # the snapshot's folder is named after the commit
        return path.with_name(base)

    def _file(self, name: str, commit: str | None = None, bars: bool = False) -> Path:
        """Return one file of a commit (None: of the main branch), from the cache or downloaded."""
        with importing:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            with contextlib.nullcontext() if bars else _no_progress_bars():
                return Path(hf_hub_download(self._id, name, revision=commit))
        except LocalEntryNotFoundError:  # also an EntryNotFoundError, but caused by a missing connection
            raise
        except EntryNotFoundError:
            raise ModelNotFoundError(f"{self._id}: the repository has no file {name}") from None

    def _check_usable(self, names: list[str]) -> None:
        """Check before a download that the repository has a configuration and safetensors; otherwise raise advice."""
        if CONFIG in names and (SINGLE in names or INDEX in names):
            return
        if models := gguf_models(names):
            raise ModelNotFoundError(f"{self._id}: holds GGUF files; name one of them: {self._id}/{models[0]}")
        form = other_form(names)
        if form is not None:
            raise ModelFileError(f"{self._id}: holds {form}")
        raise ModelNotFoundError(f"{self._id}: holds no {CONFIG} with {SINGLE}, and no GGUF file")

    def _check_online(self) -> None:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise ModelNotFoundError(
                f"{self._id}: not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to download it: "
                "unset that, or give a local file or folder"
            )

    @contextmanager
    def _download(self) -> Iterator[None]:
        """Hide progress bars unless on a terminal, hide the library's warnings, and turn failures into one line.

        If ``HF_HUB_VERBOSITY`` is set, the library's warnings are not hidden.
        """
        from huggingface_hub import constants
        from huggingface_hub import errors as hub

        logger = logging.getLogger("huggingface_hub")
        level = logger.level
        if "HF_HUB_VERBOSITY" not in os.environ:
            logger.setLevel(logging.ERROR)
        terminal = sys.stderr is not None and sys.stderr.isatty()
        try:
            with contextlib.nullcontext() if terminal else _no_progress_bars():
                yield
        except PymlError:
            raise
        except hub.GatedRepoError:
            raise ModelNotFoundError(
                f"{self._id}: a gated model: accept its terms at {constants.ENDPOINT}/{self._id}, then set HF_TOKEN "
                "to an access token of that account"
            ) from None
        except hub.RepositoryNotFoundError:
            raise ModelNotFoundError(
                f"{self._id}: neither a local file or folder nor a model on {constants.ENDPOINT}; if it is "
                "private, set HF_TOKEN"
            ) from None
        # All other errors come from huggingface-hub's HTTP library, which differs between versions.
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.filename:  # a local error, not one of the network
                raise ModelNotFoundError(
                    f"{self._id}: not in the cache, and cannot be downloaded to it: {cause.filename}: "
                    f"{cause.strerror}; HF_HOME names another folder"
                ) from None
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
            raise ModelNotFoundError(
                f"{self._id}: not in the cache, and cannot be downloaded from {constants.ENDPOINT}: {reason}; "
                f"{_advice(cause)}, or give a local file or folder"
            ) from None
        finally:
            logger.setLevel(level)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Hide huggingface-hub's progress bars."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _advice(error: BaseException) -> str:
    """Return advice after a failed download, by the HTTP status of the hub's answer, if there is one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "set HF_TOKEN to an access token of an account that may read it"
    if status is not None and (status == 429 or status >= 500):
        return "try again later"
    return "check the network and try again"


def _check_hash(path: Path) -> None:
    """Compare a file with the SHA-256 in its name in the cache, because huggingface-hub only compares sizes.

    A file with another hash is removed from the cache.
    """
    blob = path.resolve()
    if blob == path or not _SHA256.fullmatch(blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        path.unlink()
        blob.unlink()
        raise ModelFileError(f"{path}: damaged in transfer: expected SHA-256 {blob.name}, got {found}; try again")
