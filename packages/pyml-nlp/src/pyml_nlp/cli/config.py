"""The configuration file: defaults of options, in TOML. The command line and environment variables come before it.

Keys at the top, such as ``threads``, are for all commands that have the option; a table such as ``[chat]`` is for one
command. A key is an option's long name without its dashes, or ``model``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

COMMON = (
    "model", "dtype", "threads", "context-len", "kv-dtype", "temperature", "top-k", "top-p", "min-p",
    "repetition-penalty",
)  # fmt: skip
"""Keys at the top of the file."""

_ORIGINS = "pyml.config"


def config_file() -> Path | None:
    """``PYML_CONFIG``, else ``pyml/config.toml`` in ``XDG_CONFIG_HOME``, else in ``~/.config``; None if there is none.

    Raises:
        UsageError: ``PYML_CONFIG`` names no file.
    """
    own, base = os.environ.get("PYML_CONFIG"), os.environ.get("XDG_CONFIG_HOME", "")
    try:
        if own:
            path = Path(own).expanduser()
            if not path.exists():
                raise click.UsageError(f"PYML_CONFIG: {own}: there is no such file")
            return path
        path = (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "pyml" / "config.toml"
    except RuntimeError:  # no home directory
        return None
    return path if path.exists() else None


def apply_config(ctx: click.Context, names: Sequence[str]) -> None:
    """Make the file's values the defaults of a command.

    Args:
        ctx: the command's context, before arguments are parsed.
        names: names of all commands, which tables may have.

    Raises:
        UsageError: the file cannot be read, or a key or value is invalid; the message names both.
    """
    path = config_file()
    if path is None:
        return
    found = _read(path)
    options = _options(ctx)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key, value in found.items():
        if isinstance(value, dict):
            _known(str(path), key, names, "the commands are")
        else:
            _known(str(path), key, COMMON, "keys at the top are")
            if key in options and not options[key].required:
                _set(options[key], value, f"{path}: {key}", values, origins)
    for key, value in found.get(ctx.command.name or "", {}).items():
        place = f"{path}: {ctx.command.name}.{key}"
        _known(f"{path}: {ctx.command.name}", key, list(options), "its options are")
        _set(options[key], value, place, values, origins)
    if os.environ.get("PYML_MODEL"):
        values.pop("model", None)
    ctx.default_map = values
    ctx.meta[_ORIGINS] = origins


def origin(ctx: click.Context | None, message: str) -> str:
    """The file and key of an invalid value, if it is not from the command line: the beginning of the error's line."""
    for name, place in ({} if ctx is None else ctx.meta.get(_ORIGINS, {})).items():
        if ctx is not None and is_configured(ctx, name):
            flags = next(param.opts for param in ctx.command.params if param.name == name)
            if any(flag in message for flag in flags if flag.startswith("-")):
                return f"{place}: "
    return ""


def is_configured(ctx: click.Context, name: str) -> bool:
    """Whether the value of a parameter is the file's."""
    return ctx.get_parameter_source(name) is click.core.ParameterSource.DEFAULT_MAP


def _read(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # not UTF-8, or no TOML
        raise click.UsageError(f"{path}: expected TOML: {error}") from None


def _options(ctx: click.Context) -> dict[str, click.Parameter]:
    """The command's options by their keys."""
    found: dict[str, click.Parameter] = {}
    for param in ctx.command.params:
        if isinstance(param, click.Option):
            found[max(param.opts, key=len).lstrip("-")] = param
        elif param.name == "model":
            found["model"] = param
    return found


def _known(place: str, key: str, known: Sequence[str], title: str) -> None:
    if key not in known:
        from difflib import get_close_matches

        from pyml_core.errors import quoted

        close = get_close_matches(key.replace("_", "-"), known, 1)
        hint = f"did you mean {close[0]}?" if close else f"{title} {', '.join(known)}"
        raise click.UsageError(f"{place}: unknown key {quoted(key)}; {hint}")


def _set(param: click.Parameter, value: Any, place: str, values: dict[str, Any], origins: dict[str, str]) -> None:
    """Set a default, in the form that the command line has."""
    name = str(param.name)
    values[name], origins[name] = _value(param, value, place), place


def _value(param: click.Parameter, value: Any, place: str) -> Any:
    if isinstance(param, click.Option) and param.is_flag:
        return _checked(value, bool, "true or false", place)
    if isinstance(param, click.Option) and param.count:
        return _checked(value, int, "a whole number", place)
    if param.multiple:
        items = value if isinstance(value, list) else [value]
        return [_text(item, place) for item in items]
    if param.nargs != 1:
        raise click.UsageError(f"{place}: this option cannot be set in a file")
    return _text(value, place)


def _checked(value: Any, kind: type, expected: str, place: str) -> Any:
    from pyml_core.errors import quoted

    if type(value) is not kind:
        raise click.UsageError(f"{place}: expected {expected}, got {quoted(value)}")
    return value


def _text(value: Any, place: str) -> str:
    """The value as it would be typed."""
    from pyml_core.errors import quoted

    if isinstance(value, bool) or not isinstance(value, str | int | float):
        found = "a table" if isinstance(value, Mapping) else quoted(value)
        raise click.UsageError(f"{place}: expected a text or a number, got {found}")
    return str(value)
