"""``nnictl`` that talks to no manager but the one that it has started.

NNI's own asks whoever answers at the port: two that start at the same moment both find it free,
only one of their managers gets it, and both send it their experiment. It also gives a manager three
seconds to start, which are few on a busy machine.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import Any

import psutil
from nni.experiment import launcher, rest

__all__ = ["main", "wait_for_manager"]

_START_S = 120.0
_POLL_S = 0.1


def main() -> None:
    """Run ``nnictl`` with the arguments of the command line."""
    from nni.tools.nnictl.nnictl import parse_args  # it imports pkg_resources, which warns

    start = launcher._start_rest_server
    started: list[subprocess.Popen[bytes]] = []

    def start_and_remember(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(start(*args, **kwargs))
        return started[-1]

    def wait(port: int, retry: int = 0, url_prefix: str | None = None) -> None:
        wait_for_manager(started[-1], port, url_prefix)

    launcher._start_rest_server = start_and_remember
    launcher._check_rest_server = wait
    parse_args()


def wait_for_manager(
    process: subprocess.Popen[bytes], port: int, url_prefix: str | None = None
) -> None:
    """Wait until a manager answers, and make sure that it is the one.

    Args:
        process: The manager, just started.
        port: What it was told to listen to.
        url_prefix: Of its addresses.

    Raises:
        RuntimeError: if it ends or does not listen to the port in time; in NNI's words if that is
            because somebody else does.
    """
    give_up_at = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < give_up_at:
        if _listens(process.pid, port):
            with contextlib.suppress(Exception):  # it listens before it answers
                rest.get(port, "/check-status", url_prefix)
                return
        time.sleep(_POLL_S)
    with socket.socket() as probe:
        if probe.connect_ex(("localhost", port)) == 0:
            raise RuntimeError(f"Port {port} is not idle")
    raise RuntimeError(f"the NNI manager has not started to listen to port {port}")


def _listens(pid: int, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in psutil.Process(pid).net_connections("tcp")
        )
    return False


if __name__ == "__main__":
    main()
