"""``pyml``: the group of all commands."""

from __future__ import annotations

from collections.abc import Callable

import click

from .options import COMMANDS, SETTINGS, show_version


class Commands(click.Group):
    """A group whose commands are imported when they are called; without a command it prints its help.

    Args:
        name: of the group.
        load: returns the command of a name.
    """

    def __init__(self, name: str, load: Callable[[str], click.Command]) -> None:
        super().__init__(
            name,
            help="Language models on ordinary CPUs.",
            context_settings=SETTINGS,
            invoke_without_command=True,
            callback=help_without_command,
            params=[show_version()],
        )
        self._load = load

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None if there is none."""
        return self._load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; UsageError if there is none."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from .usage import unknown_command

            raise click.UsageError(unknown_command(args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)


@click.pass_context
def help_without_command(ctx: click.Context) -> None:
    """Print the help of a group that was called without a command."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), color=ctx.color)
