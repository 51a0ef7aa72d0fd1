"""``pyml rm``: remove models from their caches."""

from __future__ import annotations

import click

from .options import SETTINGS, Command, configure_logs
from .output import Output


@click.command("rm", cls=Command, context_settings=SETTINGS, short_help="Remove models that were downloaded.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
def command(models: tuple[str, ...]) -> None:
    """Remove each MODEL from the cache that it is in, by the name that pyml list shows.

    Files that are in no cache are not touched.
    """
    configure_logs(-1)
    output = Output()
    from ..cached_models import remove
    from ..memory import gigabytes

    for name in models:
        removed = remove(name)
        output.write(f"Removed {name} ({gigabytes(removed.size)})\n")
