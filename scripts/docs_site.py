"""MkDocs hooks of the documentation site: pages that come from elsewhere, and links that lead elsewhere.

- The files at the root of the repository that belong to the site (``PROJECT``) become pages of it.
- ``reference/commands.md`` gets the complete help text of every command, from click.
- Every public name of the packages must be in the reference.
- Relative links work in the repository as well as on the site: those to files outside of ``docs`` lead to the page made
  from the file, or, for sources, keep their text only.
"""

from __future__ import annotations

import ast
import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import click
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PROJECT = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
    "BACKLOG.md": "project/backlog.md",
    "README.md": "index.md",
    "tests/README.md": "project/tests.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
"""Files of the repository outside of docs, and the pages that show them; index.md is a page of its own."""

COMMANDS = "reference/commands.md"
LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in ``docs``."""
    from mkdocs.structure.files import File

    for source, page in PROJECT.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of this page to pages of the site."""
    uri = page.file.src_uri
    source = next((name for name, target in PROJECT.items() if target == uri and uri != "index.md"), f"docs/{uri}")

    def pointed(match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            return match[0]  # MkDocs reports it
        found = PROJECT.get(path, path.removeprefix("docs/"))
        if (ROOT / path / "README.md").exists():
            found = posixpath.join(found, "README.md")
        if files.get_file_from_path(found) is None:
            return match["text"]
        relative = posixpath.relpath(found, posixpath.dirname(uri) or ".")
        return f"{match['bang']}[{match['text']}]({relative}{'#' + anchor if anchor else ''})"

    markdown = outside_code(markdown, lambda text: LINK.sub(pointed, text))
    return markdown + commands_help() if uri == COMMANDS else markdown


def on_post_build(config: MkDocsConfig) -> None:
    """Fail unless every public name of the packages is in the reference."""
    from mkdocs.exceptions import PluginError

    for package in ("core", "nn", "nlp"):
        page = (Path(config.site_dir) / f"reference/pyml-{package}/index.html").read_text()
        source = (ROOT / f"packages/pyml-{package}/src/pyml_{package}/__init__.py").read_text()
        names: list[str] = next(
            ast.literal_eval(node.value)
            for node in ast.parse(source).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
        missing = [name for name in names if f'id="pyml_{package}.{name}"' not in page]
        if missing:
            raise PluginError(f"reference/pyml-{package}.md lacks {', '.join(missing)}")


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The page with ``change`` applied to everything but its fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def commands_help() -> str:
    """Every command with its complete help text, from click."""
    sys.path[:0] = [str(ROOT / f"packages/pyml-{name}/src") for name in ("core", "nn", "nlp")]
    import click
    from click.testing import CliRunner

    from pyml_nlp.cli.main import commands

    parts = [""]

    def add(command: click.Command, names: list[str]) -> None:
        title = " ".join(names)
        context = click.Context(command, info_name=title)
        option = next(name for name in ("--help-all", "--help") if has_option(command, context, name))
        text = CliRunner().invoke(command, [option], prog_name=title, terminal_width=100).output
        parts.append(f"{'#' * min(len(names) + 1, 3)} {title}\n\n```text\n{text.rstrip()}\n```")
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None, name
                add(found, [*names, name])

    add(commands(), ["pyml"])
    return "\n\n".join(parts) + "\n"


def has_option(command: click.Command, context: click.Context, name: str) -> bool:
    """Whether the command has the option of this name."""
    return any(name in param.opts for param in command.get_params(context))
