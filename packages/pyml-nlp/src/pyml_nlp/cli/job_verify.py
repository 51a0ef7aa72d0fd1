"""``pyml batch verify``: everything that a job has made, counted again."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from .job_output import job_folder, print_lines
from .options import SETTINGS, Command


@click.command("verify", cls=Command, context_settings=SETTINGS, short_help="Count all results again.")
@job_folder
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def command(folder: str, as_json: bool) -> int:
    """Read all results of the job in FOLDER, and count rows, errors, duplicate ids and rows in quarantine again.

    Rows and digests are compared with the manifest and with what the run has recorded. The exit code is 0 if the job is
    complete and nothing differs.
    """
    from pyml_core.errors import PymlError

    from ..jobs import open as open_job

    found = open_job(folder).verify()
    print_lines([json.dumps(asdict(found) | {"ok": found.ok})] if as_json else found.lines())
    if found.n_problems:
        raise PymlError(f"{found.folder}: {found.n_problems} problems, the first: {found.problems[0]}")
    if not found.ok:
        left = found.shards - found.shards_done
        why = f"{left} of {found.shards} shards are not finished" if left else "a run completes it"
        raise PymlError(f"{found.folder}: the job is not complete: {why}")
    return 0
