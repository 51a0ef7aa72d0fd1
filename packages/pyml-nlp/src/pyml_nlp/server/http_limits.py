"""Limits of connections."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace

_OTHER_FILES = 128  # of the process: the model's, pipes, connections that are being accepted


@dataclass(frozen=True)
class Limits:
    """Limits of connections. Times are in seconds.

    Attributes:
        head_seconds: from the connection, or from the first byte of a further request, to the end of the headers.
        body_seconds: from there to the end of the body.
        idle_seconds: between two requests of a connection.
        write_seconds: for a client to make room for more, when :attr:`buffered_bytes` wait for it.
        linger_seconds: for a client to read the answer to a request that it has not sent completely.
        head_bytes: of the headers.
        buffered_bytes: of a response that wait for the client in this process, and again in the system.
        connections: most of them. At that number, the one that has waited longest for its client is closed.
        reserved: further connections, when all others are being served; they may only ask for the health.
    """

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0
    linger_seconds: float = 2.0
    head_bytes: int = 32 << 10
    buffered_bytes: int = 64 << 10
    connections: int = 256
    reserved: int = 32

    def fitting(self) -> Limits:
        """These limits with as many connections as the process may have files.

        Where the system allows it, the process may have more files from now on.
        """
        wanted = self.connections + self.reserved + _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY or hard > wanted:
            hard = wanted
        if soft != resource.RLIM_INFINITY and soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            soft = hard
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return self
        return replace(self, connections=max(8, soft - self.reserved - _OTHER_FILES))
