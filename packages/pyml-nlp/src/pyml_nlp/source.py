"""From what a user calls a model to files on this machine: a GGUF file, a folder, a hub id, or the default model."""

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
_LONGEST = 200  # characters of a name that messages repeat
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
"""All that a model needs beside its weights. Weights come after these, so that whoever has them has everything."""


@dataclass(frozen=True)
class Source:
    """A model's files on this machine.

    Attributes:
        kind: ``"gguf"``: ``path`` is a GGUF file; ``"folder"``: a folder in Hugging Face layout.
        path: the file or folder.
        name: what to call the model in messages: the hub id or the path.
    """

    kind: Literal["gguf", "folder"]
    path: Path
    name: str


def resolve(model: str | os.PathLike[str] | None = None, note: Note = _log.info) -> Source:
    """Find a model, and download it if it has to be.

    Args:
        model: a ``.gguf`` file; a folder; a hub id ``organisation/name``, or ``organisation/name/file.gguf`` for one
            GGUF file of a repository. None: ``PYML_MODEL``, or else the embedded default. What exists as a path is a
            path.
        note: takes the line that says whether a hub model is in the cache or has to be downloaded.

    ``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` mean what they mean to huggingface-hub. A model
    that is in its cache is used without any question to the hub.

    Raises:
        ModelNotFoundError: there is no such model, or it cannot be had; the message says what to do.
        ModelFileError: it is in a form that is not read.
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
    """The file or folder of this name, if there is one."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # longer than a name can be; the home of an unknown user
        return None


def _local(path: Path, name: str) -> Source:
    """A file or folder of this machine."""
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
    """One repository of the hub, by way of huggingface-hub, which is imported only here: that can take a second."""

    def __init__(self, repository: str, note: Note) -> None:
        self._id = repository
        self._note = note

    def folder(self) -> Path:
        """The folder of the repository's files, from the cache or downloaded: all of one commit.

        One file is downloaded after the other, in this thread, so that Ctrl-C stops it at once and leaves no part of a
        file; whole files are kept for the next try.
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
            folder = self._file(CONFIG).parent  # which is named after the commit that all other files are taken from
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
        """One GGUF file of the repository, from the cache or downloaded.

        Of a split model all parts are there then, in one folder.
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
                commit = path.parents[name.count("/")].name  # the snapshot's folder is named after it
        return path.with_name(base)

    def _file(self, name: str, commit: str | None = None, bars: bool = False) -> Path:
        """One file of the repository, of this commit (None: of its main branch), from the cache or downloaded."""
        with importing:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            with contextlib.nullcontext() if bars else _no_progress_bars():
                return Path(hf_hub_download(self._id, name, revision=commit))
        except LocalEntryNotFoundError:  # an EntryNotFoundError too, but for want of a connection
            raise
        except EntryNotFoundError:
            raise ModelNotFoundError(f"{self._id}: the repository has no file {name}") from None

    def _check_usable(self, names: list[str]) -> None:
        """Before anything is downloaded: that there are a configuration and safetensors, or what there is instead."""
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
        """Progress bars only on a terminal, no warnings of the library, and every failure as one line.

        ``HF_HUB_VERBOSITY`` is for who wants its warnings.
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
        # Anything else comes out of huggingface-hub's HTTP library, which is another one from version to version.
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and cause.filename:  # of this machine, not of the network
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
    """Without huggingface-hub's progress bars."""
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
    """What to do after a failed download, by the HTTP status that the hub answered with, if it did."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "set HF_TOKEN to an access token of an account that may read it"
    if status is not None and (status == 429 or status >= 500):
        return "try again later"
    return "check the network and try again"


def _check_hash(path: Path) -> None:
    """Compare a file with the SHA-256 by which the cache names large files; huggingface-hub compares sizes only.

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
