"""``pyml batch``: jobs of many rows, by subcommands that are imported when they are called."""

from __future__ import annotations

from importlib import import_module

import click

from .group import help_without_command
from .options import SETTINGS, show_version

SUBCOMMANDS = ("plan", "run", "status", "verify")
"""All subcommands, each of a module ``job_NAME``."""


class JobCommands(click.Group):
    """The group of the subcommands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands in the order of the help."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of this name; None if there is none."""
        if cmd_name not in SUBCOMMANDS:
            return None
        found: click.Command = import_module(f".job_{cmd_name}", __package__).command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that the arguments name; UsageError if there is none."""
        if args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            from .usage import unknown_command

            raise click.UsageError(unknown_command(args[0], SUBCOMMANDS), ctx)
        return super().resolve_command(ctx, args)


command = JobCommands(
    "batch",
    help="Jobs of many rows, in shards that survive anything.",
    short_help="Jobs of many rows: plan, run, status, verify.",
    context_settings=SETTINGS,
    invoke_without_command=True,
    callback=help_without_command,
    params=[show_version()],
)
