"""``pyml batch status``: how far a job is, from its files."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from .job_output import job_folder, print_lines
from .options import SETTINGS, Command


@click.command("status", cls=Command, context_settings=SETTINGS, short_help="Show how far a job is.")
@job_folder
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(folder: str, as_json: bool) -> int:
    """Show how far the job in FOLDER is: finished shards, rows, tokens, and what each worker is doing.

    It reads the files of the job alone, on any machine that shares the folder, whether the job is running or not.
    """
    from ..jobs import open as open_job

    found = open_job(folder).status()
    print_lines([json.dumps(asdict(found))] if as_json else found.lines())
    return 0
