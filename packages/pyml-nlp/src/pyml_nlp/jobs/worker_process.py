"""A forked worker: it makes the shards that its parent names, and ends when the parent does.

The numbers of shards come over one pipe, a line each. What has become of them goes over another one, a line of JSON
each. Progress, and the wish to stop, are on the :class:`.Board`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from pyml_core.errors import PymlError

from .board import Board
from .errors import ShardBusy, Stopped
from .folder import JobFolder
from .results import Progress
from .shard import ShardRunner
from .stopping import Level

if TYPE_CHECKING:
    from .folder import JobModel

FAULT = 70
"""Exit code of a worker after an error that is nobody's but pyml's."""

_MAX_MESSAGE = 1000


class WorkerProcess:
    """The child's side of a worker.

    Args:
        number: of the worker.
        job, lm: as they were loaded by the parent.
        together: most texts at a time.
        board: shared with the parent.
        commands, reports: the pipes.
        parent: its process.
    """

    def __init__(
        self,
        number: int,
        job: JobFolder,
        lm: JobModel,
        together: int | None,
        board: Board,
        commands: int,
        reports: int,
        parent: int,
    ) -> None:
        self._number = number
        self._job = job
        self._lm = lm
        self._together = together
        self._board = board
        self._commands = commands
        self._reports = reports
        self._parent = parent
        self._runner: ShardRunner | None = None

    def work(self) -> NoReturn:
        """Work until the parent has no more shards or is gone. It never returns into the parent's code."""
        code = FAULT
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, to all its processes: the parent decides
            signal.signal(signal.SIGTERM, self._awake)
            _follow_parent()
            self._serve()
            code = 0
        except BaseException as error:
            self._tell("fault", message=f"{type(error).__name__}: {error}"[:_MAX_MESSAGE])
            _show_traceback()
        finally:
            os._exit(code)

    def _awake(self, _: int, __: FrameType | None) -> None:
        """SIGTERM: from the parent when texts are to be cancelled, or from the system when the parent has died.

        Any other one is to the whole group; the parent has it too.
        """
        if self._runner is not None and self._ending >= Level.CANCEL:
            self._runner.cancel()

    @property
    def _ending(self) -> Level:
        return Level.CANCEL if os.getppid() != self._parent else self._board.level

    def _serve(self) -> None:
        self._runner = ShardRunner(self._job, self._lm, self._together)
        with os.fdopen(self._commands, "rb", buffering=0) as commands:
            while (line := commands.readline()) and self._ending is Level.GO:
                self._make(int(line))

    def _make(self, shard: int) -> None:
        assert self._runner is not None
        try:
            result = self._runner.run(shard, self._stops, self._moved)
        except Stopped:
            self._tell("stopped", shard)
        except ShardBusy:
            self._tell("busy", shard)
        except (PymlError, OSError) as error:
            self._tell("failed", shard, message=str(error)[:_MAX_MESSAGE])
        else:
            self._tell("done", shard, result=result.as_json())

    def _stops(self) -> bool:
        return self._ending is not Level.GO

    def _moved(self, progress: Progress) -> None:
        self._board.move(self._number, progress.rows, progress.errors, progress.prompt_tokens, progress.tokens)

    def _tell(self, kind: str, shard: int = -1, **more: str) -> None:
        data = json.dumps({"kind": kind, "shard": shard, **more}).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._reports, data) :]
        except OSError:  # the parent is gone: the files tell
            pass


def _follow_parent() -> None:
    """Where the system can, it wakes this process when the parent dies; elsewhere each step looks for it."""
    if sys.platform == "linux":
        import ctypes  # start-up: for workers alone

        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG


def _show_traceback() -> None:
    if os.environ.get("PYML_DEBUG", "") not in ("", "0"):
        import traceback  # for an error only

        traceback.print_exc()
        sys.stderr.flush()
