"""``pyml batch run``: make the shards of a job that are not finished."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import click

from .job_output import JobBar, job_folder
from .options import (
    SETTINGS,
    Command,
    configure_logs,
    exclusive,
    integer,
    invalid,
    log_options,
    number,
    positive,
    usage_error,
    verbosity,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..jobs import Job
    from ..jobs.results import ShardResult
    from ..jobs.stopping import Control

QUARANTINE = 3
"""Exit code of a run that has finished all shards, some rows of which are in quarantine."""

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process of an array job that SIGTERM has ended: its scheduler must not take it for finished."""

_ARRAY = "Array jobs"
_MORE = "Advanced"


@click.command("run", cls=Command, context_settings=SETTINGS, short_help="Make what is not finished.")
@job_folder
@integer("-w", "--workers", metavar="N", help="Processes that share the weights. [default: one a NUMA node]")
@integer("-t", "--threads", metavar="N", help="Threads of each worker. [default: all CPUs, divided]")
@click.option("--model", metavar="MODEL", help="The model on this machine. [default: where it was when planned]")
@integer("--together", metavar="N", help="Most texts of a worker at a time. [default: the job's]")
@click.option("--index", metavar="I", help="Make shards I, I+N, ...; auto: as Slurm or Kubernetes tells.")
@integer("--of", metavar="N", help="Number of processes of an array job.")
@click.option("--ray", metavar="ADDRESS", help="Workers on a Ray cluster: local, auto or HOST:PORT.")
@click.option("--pin", default="auto", metavar="HOW", help="Bind workers to CPUs: auto, cores or none. [default: auto]")
@number("--drain", metavar="SECONDS", help="Time for texts under way after SIGTERM. [default: 25]", heading=_MORE)
@number("--stall", metavar="SECONDS", help="Name shards without progress for so long. [default: 300]", heading=_MORE)
@log_options
def command(**values: Any) -> int:
    """Make the shards of the job in FOLDER that are not finished.

    After anything that has ended a run, the same command goes on. Several may run at once, on all machines that share
    the folder. Exit codes: 0 the job is finished, or was stopped by SIGTERM; 1 an error; 3 finished, but rows that end
    their process are in quarantine; 130 after Ctrl-C; 143 after SIGTERM with --index.
    """
    from ..errors import ArgumentError

    level = verbosity(values["verbose"], values["quiet"])
    positive({"--drain": values["drain"], "--stall": values["stall"]})
    configure_logs(level)
    from ..jobs import open as open_job
    from ..jobs.stopping import DRAIN_SECONDS, Control

    control = Control(values["drain"] or DRAIN_SECONDS)
    try:
        backend, options = _backend(values)
        shards = _own_shards(options)
        job = open_job(values["folder"], values["model"])
        with JobBar(level >= 0) as bar, control.signals():
            options |= {"control": control, "show": bar.show, "tell": bar.tell}
            start = time.perf_counter()
            results = list(job.run(backend, **options))
    except ArgumentError as error:
        raise usage_error(error) from None
    return _end(job, shards, control, results, time.perf_counter() - start)


def _backend(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The back end and its options.

    Raises:
        UsageError, ArgumentError: an invalid value.
    """
    given = {
        "workers": values["workers"], "threads": values["threads"], "together": values["together"],
        "pin": values["pin"], "stall_seconds": values["stall"],
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    index, of = values["index"], values["of"]
    if values["ray"] is not None:
        exclusive({"--ray": True, "--index": index, "--of": of})
        exclusive({"--ray": True, "--pin": values["pin"] != "auto"})
        del options["pin"]
        return "ray", options | {"address": values["ray"]}
    if index is None and of is None:
        return "local", options
    if index is None or index == "auto":
        from ..jobs.index import from_environment

        number, of = from_environment(of)
    elif not index.isdecimal() or len(index) > 9:
        raise invalid(index, "--index", "a whole number or auto")
    elif of is None:
        raise click.UsageError("--index needs --of, the number of processes")
    else:
        number = int(index)
    return "index", options | {"index": number, "of": of}


def _own_shards(options: Mapping[str, Any]) -> slice:
    """The shards that this run is responsible for."""
    return slice(options.get("index", 0), None, options.get("of", 1))


def _end(job: Job, shards: slice, control: Control, results: Iterable[ShardResult], seconds: float) -> int:
    """Tell of the end; returns the exit code."""
    from .. import logs

    own = range(job.n_shards)[shards]
    left = sum(shard in own for shard in job.pending())
    rows, tokens = sum(result.rows for result in results), sum(result.tokens for result in results)
    logs.command.info(
        "%d of %d shards are finished, %d rows and %d tokens of them by this run in %.0f s",
        len(own) - left, len(own), rows, tokens, seconds,
    )  # fmt: skip
    if left and control.signal == signal.SIGINT:
        raise click.Abort
    if left:
        return TERMINATED if shards.step > 1 else 0
    totals = job.finish()
    if totals is not None:
        logs.command.info("The job is complete: %d rows, %d with errors", totals["rows"], totals["errors"])
    return _tell_quarantined(job, own)


def _tell_quarantined(job: Job, own: range) -> int:
    from ..jobs.quarantined import quarantined_rows
    from .main import tell_error

    count, ids = quarantined_rows(job, own)
    if not count:
        return 0
    names = ", ".join(ids) + (", ..." if count > len(ids) else "")
    tell_error(f"{count} row{'' if count == 1 else 's'} ended the process again and again, in quarantine: {names}")
    return QUARANTINE
