"""Training in the ranks of this host, or as one of those that a launcher has started.

How they are started is in `sedona_nni.training.parallel.host`. They write what they report to a
pipe; all else that is to be known of them is in a store that this process holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import IO, TYPE_CHECKING

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.training.parallel.host import leads_host, starter
from sedona_nni.training.parallel.rank import Job, Outcome, exception_of, run_rank
from sedona_nni.training.parallel.watch import LINGER_S, Failure, read_failure, record_failure

if TYPE_CHECKING:
    import torch.distributed as dist

__all__ = [
    "name_of_signal",
    "train_as_rank",
    "train_in_parallel",
]

_GRACE_S = 2.0  # for ranks to notice that their starter is gone, or the other way round
_LOOK_S = 0.5  # between two looks whether it is


def name_of_signal(number: int) -> str:
    """Return what a signal is called, e.g. ``"SIGKILL"``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals in between
        return f"signal {number}"


def _lines(events: IO[bytes], process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what ranks write, until all of them are gone or have outlived their starter.

    A rank that was stopped outlives everybody, and keeps the pipe open.
    """
    text, deadline = b"", float("inf")
    while time.monotonic() < deadline:
        if deadline == float("inf") and process.poll() is not None:
            deadline = time.monotonic() + _GRACE_S
        ready, _, _ = select.select([events], [], [], _LOOK_S)
        if not ready:
            continue
        part = events.read(2**16)
        if not part:
            return
        *lines, text = (text + part).split(b"\n")
        yield from lines


def train_as_rank(job: Job, report: Callable[[dict[str, float]], None]) -> Outcome:
    """Be the rank that a launcher has started this process as, on one of several hosts.

    Args:
        job: What all of them train.
        report: Called in rank 0 after every epoch, see `sedona_nni.training.loop.train`.

    Raises:
        DivergedError: as of one process.
        InputError: likewise; or the launcher has started more or fewer ranks than there are blocks.
        SedonaError: if a rank fails or is lost; it says which, with its block.
    """

    rank, store = _rendezvous(job)
    parent = os.getppid()
    try:
        _check_count(job, store, rank)
        return run_rank(
            job,
            store,
            rank,
            leads_host=leads_host(),
            report=report,
            is_orphaned=lambda: os.getppid() != parent,
            is_launched=True,
        )
    except SedonaError:
        time.sleep(LINGER_S if rank == 0 else 0)  # which may hold the store
        raise


def _rendezvous(job: Job) -> tuple[int, dist.Store]:
    """Return which rank the launcher has started this process as, and what all ranks share.

    Raises:
        InputError: if the port is taken.
        SedonaError: if rank 0 cannot be reached.
    """
    import torch.distributed as dist

    assert job.settings.parallel is not None
    rank = int(os.environ["RANK"])
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    start_s = job.settings.parallel.start_s
    found: list[dist.Store] = []
    refused: list[str] = []

    def find() -> None:
        timeout = timedelta(seconds=start_s)
        try:
            # As if there were no others: `run_rank` waits for them, and can tell who is missing
            found.append(next(dist.rendezvous(f"tcp://{host}:{port}", rank, 1, timeout=timeout))[0])
        except RuntimeError as error:  # of torch's store
            refused.append(str(error).splitlines()[0])

    # What it asks may be anything that listens there, and never answer
    thread = threading.Thread(target=find, name="rendezvous", daemon=True)
    thread.start()
    thread.join(start_s + _GRACE_S)
    if any("EADDRINUSE" in reason for reason in refused):
        raise InputError.rule("MASTER_PORT", "must be a free port", port)
    if not found:
        reason = refused[0] if refused else f"it gave no answer within {start_s:g} s"
        words = job.layout.in_words(rank)
        raise SedonaError(f"{words}: rank 0 cannot be reached at {host}:{port} ({reason})")
    return rank, found[0]


def _check_count(job: Job, store: dist.Store, rank: int) -> None:
    """Check that as many ranks were started as there are processes needed."""
    count, needed = int(os.environ["WORLD_SIZE"]), job.layout.num_ranks
    if count != needed:
        blocks = [*job.layout.replicas]
        rule = f"must start {needed} processes, by block {blocks}"
        error = InputError.rule("launcher", rule, count)
        failure = Failure("InputError", f"rank {rank}: {error}")
        raise exception_of(record_failure(store, failure))


def _store_of_this_host() -> dist.TCPStore:
    """Return a store that only this host can reach; torch by itself would open it to all."""
    import torch.distributed as dist

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    return dist.TCPStore(
        "127.0.0.1",
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),  # the store closes it
    )


def train_in_parallel(job: Job, report: Callable[[dict[str, float]], None]) -> Outcome:
    """Train each block in a process of its own, on this host.

    Args:
        job: What to train.
        report: Called after every epoch, see `sedona_nni.training.loop.train`.

    Raises:
        DivergedError: as of one process.
        InputError: likewise.
        SedonaError: if a rank fails or is lost; it says which, with its block.
    """
    store = _store_of_this_host()
    outcome = None
    with starter() as (process, events):
        assert process.stdin is not None
        try:
            process.stdin.write(f"{store.port}\n{job.model_dump_json()}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:  # it has ended; its exit code says more
            pass
        for line in _lines(events, process):
            event = json.loads(line)
            if "report" in event:
                report(event["report"])
            else:
                outcome = Outcome.from_json(event["outcome"])
        with contextlib.suppress(subprocess.TimeoutExpired):  # it was stopped: no rank is left
            process.wait(_GRACE_S)
        code = process.poll()
    if outcome is None:
        failure = read_failure(store)
        if failure is not None:
            raise exception_of(failure)
        how = f"has ended with exit code {code}"
        if code is None or code < 0:
            how = f"was killed by {name_of_signal(-code)}" if code else "does not answer"
        raise exception_of(Failure("LostRank", f"the process that starts the ranks {how}"))
    return outcome
