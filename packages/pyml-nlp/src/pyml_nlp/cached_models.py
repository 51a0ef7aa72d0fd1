"""The models on this machine that need no path: the default ones, and those in huggingface-hub's cache."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pyml_core.errors import PymlError, quoted

from . import default_model
from .errors import ModelFileError, ModelNotFoundError
from .formats.folders import CONFIG, weight_files
from .formats.gguf import part_names
from .formats.packed_name import SUFFIX
from .source import Source


@dataclass(frozen=True)
class CachedModel:
    """A model in a cache or in an installed package.

    Attributes:
        source: where it is; its name is the one to load it by.
        size: bytes of its files on disk.
        place: ``"hub"``: huggingface-hub's cache; ``"cache"``: pyml's; ``"package"``: an installed package.
        default: ``"texts"`` or ``"chats"``: what it is the default model for; None: it is no default.
    """

    source: Source
    size: int
    place: Literal["hub", "cache", "package"]
    default: Literal["texts", "chats"] | None = None


def cached_models() -> list[CachedModel]:
    """Return all of them, the default ones first."""
    found = []
    demo = default_model.cache_folder() / default_model.NAME
    if demo.is_file():
        found.append(CachedModel(Source("gguf", demo, demo.name), demo.stat().st_size, "cache", "texts"))
    try:
        chat = default_model.default_chat_model()
    except PymlError:  # not installed
        pass
    else:
        found.append(CachedModel(Source("gguf", chat, chat.name), chat.stat().st_size, "package", "chats"))
    return found + _packed_models() + _hub_models()


def remove(name: str) -> CachedModel:
    """Remove a model from its cache, and return it.

    Args:
        name: as :func:`cached_models` returns it.

    Raises:
        ModelNotFoundError: it is in no cache. ModelFileError: it belongs to a package, or cannot be removed.
    """
    models = {model.source.name: model for model in cached_models()}
    model = models.get(name)
    if model is None:
        close = get_close_matches(name, models, 1)
        hint = f"did you mean {close[0]}?" if close else "pyml list shows those that are"
        raise ModelNotFoundError(f"{quoted(name)}: not in a cache; {hint}")
    if model.place == "package":
        raise ModelFileError(f"{name}: belongs to a package; run: pip uninstall {default_model.CHAT_PACKAGE}")
    path = model.source.path
    try:
        if model.place == "cache":
            path.unlink()
        elif model.source.kind == "folder":
            _remove_files([file for file in path.rglob("*") if file.is_file() and file.suffix != ".gguf"])
        else:
            _remove_files([path.with_name(part) for part in part_names(path.name)])
    except OSError as error:
        raise ModelFileError(f"{error.filename or path}: cannot be removed: {error.strerror}") from None
    return model


def _packed_models() -> list[CachedModel]:
    """Packed models of pyml's cache."""
    paths = sorted(default_model.packed_folder().glob(f"*{SUFFIX}"))
    return [CachedModel(Source("packed", path, path.name), path.stat().st_size, "cache") for path in paths]


def _hub_models() -> list[CachedModel]:
    """Models of huggingface-hub's cache: the newest revision of each repository."""
    from huggingface_hub import CacheNotFound, scan_cache_dir  # start-up: slow to import

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        revisions = sorted(repository.revisions, key=lambda revision: revision.last_modified, reverse=True)
        if repository.repo_type == "model":
            names: set[str] = set()
            for revision in revisions:
                for model in _of_snapshot(repository.repo_id, revision.snapshot_path):
                    if model.source.name not in names:
                        names.add(model.source.name)
                        found.append(model)
    return found


def _of_snapshot(repository: str, folder: Path) -> list[CachedModel]:
    """The complete models of a snapshot: its folder, and each GGUF file."""
    found = []
    try:
        weights = weight_files(folder)
    except ModelFileError:  # a malformed index
        weights = None
    if (folder / CONFIG).exists() and weights and all((folder / name).exists() for name in weights.names):
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.suffix != ".gguf")
        found.append(CachedModel(Source("folder", folder, repository), size, "hub"))
    for path in sorted(folder.rglob("*.gguf")):
        parts = [path.with_name(name) for name in part_names(path.name)]
        if path == parts[0] and all(part.exists() for part in parts):
            name = f"{repository}/{path.relative_to(folder)}"
            size = sum(part.stat().st_size for part in parts)
            found.append(CachedModel(Source("gguf", path, name), size, "hub"))
    return found


def _remove_files(paths: list[Path]) -> None:
    """Remove files of a snapshot with the blobs that they link to, unless another snapshot links to these too.

    A repository without any file left is removed.
    """
    snapshots = next(folder for folder in paths[0].parents if folder.name == "snapshots")
    for path in paths:
        blob = path.resolve()
        path.unlink()
        if not any(other.resolve() == blob for other in snapshots.rglob("*")):
            blob.unlink(missing_ok=True)
    if not any(path.is_file() for path in snapshots.rglob("*")):
        shutil.rmtree(snapshots.parent)
