"""What processes listen to, while some of them end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import psutil

__all__ = ["listening", "open_connections"]


def open_connections(process: psutil.Process, kind: str) -> list[Any]:
    """Return those of a kind that a process has; none, if it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections(kind)
    return []


def listening(processes: Iterable[psutil.Process]) -> list[str]:
    """Return at which addresses any of them can be reached by TCP."""
    return [
        connection.laddr.ip
        for process in processes
        for connection in open_connections(process, "tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
