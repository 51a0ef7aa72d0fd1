"""Messages to systemd about a service's state (``sd_notify``), without its library."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import monotonic_ns


def notify(state: str) -> None:
    """Send a state such as ``READY=1``, if systemd wants to know it; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def notify_reloading() -> None:
    """Say that a reload has begun; ``READY=1`` ends it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """How often systemd wants a sign of life: half the time after which it would restart the service."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    micros = os.environ.get("WATCHDOG_USEC", "")
    return int(micros) / 2e6 if micros.isdecimal() and int(micros) else None
