"""Errors of jobs. Each message is one line."""

from __future__ import annotations

from pyml_core.errors import PymlError


class JobError(PymlError):
    """A job cannot be planned, opened, run or read."""


class ManifestError(JobError):
    """The manifest of a job is missing, damaged, or of another version of pyml."""


class IdentityError(JobError):
    """This process would make other texts than the job wants: another model, build or CPU level."""


class Stopped(JobError):
    """A shard was asked to stop before its end. The texts that had ended are kept for the next run."""


class ShardBusy(JobError):
    """Another process is working on the shard."""
