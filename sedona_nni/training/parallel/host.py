"""This process's place among others on its host, known before PyTorch is imported.

    this process ─── starter ─┬─ rank 0
                              ├─ rank 1
                              └─ ...

The *starter* (`sedona_nni.training.parallel.__main__`) imports what ranks need, once, and forks
them before it has computed anything: so K ranks start about as fast as one process, and share the
memory of what is imported. It reads its job from its standard input, whose end tells all of them
that this process is gone. They write what they report to a pipe, as lines of JSON.

They are in a session of their own. An interrupt comes here, and is passed on by killing them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

__all__ = ["Starter", "is_launched", "leads_host", "prepare", "shows", "starter"]

_STARTER = "sedona_nni.training.parallel"


class Starter(NamedTuple):
    """The process that starts ranks.

    Attributes:
        process: It; its standard input takes the job.
        events: What ranks report, as lines of JSON.
    """

    process: subprocess.Popen[bytes]
    events: IO[bytes]


_prepared: list[Starter] = []


def prepare() -> None:
    """Start a starter now, which `starter` takes later: it has imported by then what it needs.

    If none is wanted after all, it ends with this process.
    """
    if not _prepared:
        _prepared.append(_start())


@contextlib.contextmanager
def starter() -> Iterator[Starter]:
    """Have a process that starts ranks; neither it nor they outlive the block."""
    found = _prepared.pop() if _prepared else _start()
    try:
        with found.events:
            yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(found.process.pid, signal.SIGKILL)
        found.process.wait()
        assert found.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            found.process.stdin.close()


def _start() -> Starter:
    reader, writer = os.pipe()
    # Fewer threads: none may be there when it forks; ranks are told how many to use
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # or it tells of each broken connection
    if loopback := _loopback():  # or gloo listens where the host's name leads to
        environment.setdefault("GLOO_SOCKET_IFNAME", loopback)
    process = subprocess.Popen(
        [sys.executable, "-m", _STARTER, str(writer)],
        stdin=subprocess.PIPE,
        pass_fds=[writer],
        env=environment,
        start_new_session=True,
    )
    os.close(writer)
    return Starter(process, os.fdopen(reader, "rb", buffering=0))


def _loopback() -> str | None:
    """Return the name of the interface of this host alone: lo, on a Mac lo0."""
    names = (name for _, name in socket.if_nameindex())
    return next((name for name in names if name.startswith("lo")), None)


def is_launched() -> bool:
    """Say whether a launcher such as ``torchrun`` has started this process as one of the ranks."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def leads_host() -> bool:
    """Say whether this process writes what is to be written once on each host."""
    return not is_launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def shows() -> bool:
    """Say whether this process is the one that tells a user what happens."""
    return not is_launched() or os.environ["RANK"] == "0"
