"""Conditions for a test's process: each function is called in it before the command runs."""

from __future__ import annotations

import ctypes
import resource
import signal


def drop_privileges() -> None:
    """Let permissions of files count for root, too: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, which fails if there are no capabilities


def fill_disk() -> None:
    """A limit on the size of files stands in for a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
