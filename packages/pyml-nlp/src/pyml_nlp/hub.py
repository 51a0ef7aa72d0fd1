"""Models of the Hugging Face hub: from its cache, or downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from pyml_core.errors import PymlError
from pyml_core.locks import importing

from .errors import ModelFileError, ModelNotFoundError
from .formats.folders import CONFIG, INDEX, SINGLE, gguf_models, other_form, weight_files
from .formats.gguf import part_names

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


class Repository:
    """One repository of the hub.

    Args:
        name: ``organisation/name``.
        note: called with the line that says whether the model is in the cache or has to be downloaded.
    """

    def __init__(self, name: str, note: Callable[[str], None]) -> None:
        self._id = name
        self._note = note

    def folder(self) -> Path:
        """Return the folder of the repository's files, all of one commit, from the cache or downloaded.

        Files are downloaded one after the other in this thread, so that Ctrl-C stops the download at once. Partial
        files are removed, complete ones are kept for the next attempt.
        """
        with importing:  # start-up: these load hf_api, which a GGUF file in the cache does not need
            from huggingface_hub import HfApi, snapshot_download

        try:
            cached = Path(snapshot_download(self._id, allow_patterns=_SMALL_FILES, local_files_only=True))
        except errors.LocalEntryNotFoundError:
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

        All parts of a split model are downloaded into one folder.
        """
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
        try:
            with contextlib.nullcontext() if bars else _no_progress_bars():
                return Path(hf_hub_download(self._id, name, revision=commit))
        except errors.LocalEntryNotFoundError:  # also an EntryNotFoundError, but caused by a missing connection
            raise
        except errors.EntryNotFoundError:
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
        except errors.GatedRepoError:
            raise ModelNotFoundError(
                f"{self._id}: a gated model: accept its terms at {constants.ENDPOINT}/{self._id}, then set HF_TOKEN "
                "to an access token of that account"
            ) from None
        except errors.RepositoryNotFoundError:
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
