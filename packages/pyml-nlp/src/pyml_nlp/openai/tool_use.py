"""The tools of a request, and which of them the model may or has to call."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyml_core.errors import quoted

from ..errors import ArgumentError
from ..values import choice, flag, is_list, text
from .fields import Fields

MAX_TOOLS = 128
MAX_SIZE = 1 << 18
"""Most characters of the JSON text of all tools."""

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class ToolUse:
    """The tools of a request that may call some.

    Attributes:
        tools: all tools, which the prompt describes.
        names: those that may be called.
        required: whether the answer has to be a call.
        parallel: whether an answer may have several calls.
        strict: whether a tool asks for arguments that match its schema in any case.
    """

    tools: Sequence[Any]
    names: tuple[str, ...]
    required: bool = False
    parallel: bool = True
    strict: bool = False


def tool_use(fields: Fields) -> ToolUse | None:
    """Read ``tools``, ``tool_choice`` and ``parallel_tool_calls``; None: the model may call no tool.

    Raises:
        ArgumentError: a tool is malformed, or the choice is not one of the tools.
    """
    tools = fields.any("tools")
    parallel = fields.flag("parallel_tool_calls", True)
    wanted = fields.any("tool_choice")
    if tools is None:
        if wanted not in (None, "none"):
            raise ArgumentError("needs tools", "tool_choice")
        return None
    if not is_list(tools) or not tools or len(tools) > MAX_TOOLS:
        raise ArgumentError(f"must be a list of 1 to {MAX_TOOLS} tools, got {quoted(tools)}", "tools")
    try:
        size = len(json.dumps(tools, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"must be JSON: {error}", "tools") from None
    if size > MAX_SIZE:
        raise ArgumentError(f"must be at most {MAX_SIZE} characters of JSON, got {size}", "tools")
    names = [_tool_name(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ArgumentError(f"must have different names, got {twice!r} twice", "tools")
    if wanted == "none":
        return None
    mode, chosen = _choice(wanted, names)
    strict = any(tool["function"].get("strict") for tool in tools)
    return ToolUse(tools, chosen, mode != "auto", parallel and mode != "named", strict)


def _tool_name(tool: Any, where: str) -> str:
    """The name of a tool, which is checked."""
    fields = Fields(tool, where)
    choice(fields.path("type"), fields.required("type"), ("function",))
    function = Fields(fields.required("function"), fields.path("function"))
    name = text(function.path("name"), function.required("name"))
    if _NAME.fullmatch(name) is None:
        raise ArgumentError(f"must be 1 to 128 letters, digits and _.:/-, got {quoted(name)}", function.path("name"))
    function.take("strict", flag, False)
    parameters = function.any("parameters")
    if parameters is None:
        return name
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise ArgumentError(f"must be a schema of objects, got {quoted(parameters)}", function.path("parameters"))
    return name


def _choice(wanted: Any, names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The mode (``"auto"``, ``"required"`` or ``"named"``), and the tools that may be called."""
    if wanted is None or wanted in ("auto", "required"):
        return wanted or "auto", tuple(names)
    if not isinstance(wanted, Mapping):
        raise ArgumentError(f"must be one of {', '.join(_CHOICES)}, or an object, got {quoted(wanted)}", "tool_choice")
    fields = Fields(wanted, "tool_choice")
    kind = choice(fields.path("type"), fields.required("type"), ("function", "allowed_tools"))
    if kind == "function":
        return "named", (_chosen(fields, names),)
    inner = Fields(fields.any("allowed_tools") or wanted, fields.path("allowed_tools"))
    mode = inner.choice("mode", ("auto", "required"), "auto")
    tools = inner.required("tools")
    if not is_list(tools) or not tools:
        raise ArgumentError(f"must be a list of tools, got {quoted(tools)}", inner.path("tools"))
    found = []
    for index, tool in enumerate(tools):
        one = Fields(tool, f"{inner.path('tools')}[{index}]")
        choice(one.path("type"), one.required("type"), ("function",))
        found.append(_chosen(one, names))
    return mode, tuple(dict.fromkeys(found))


def _chosen(fields: Fields, names: Sequence[str]) -> str:
    """The tool that ``{"function": {"name": ...}}`` or ``{"name": ...}`` names.

    Raises:
        ArgumentError: it is not one of the request.
    """
    inner = Fields(fields.any("function"), fields.path("function")) if "function" in fields else fields
    name = text(inner.path("name"), inner.required("name"))
    if name not in names:
        raise ArgumentError(
            f"must be one of the tools ({quoted(', '.join(names))}), got {quoted(name)}", inner.path("name")
        )
    return name
