"""Starting the ranks of one host, and hearing of them.

    this process ─── starter ─┬─ rank 0
                              ├─ rank 1
                              └─ ...

The *starter* (`sedona_nni.training.parallel.__main__`) imports what ranks need, once, and forks
them before it has computed anything: so K ranks start about as fast as one process, and share the
memory of what is imported. It reads its job from its standard input, whose end tells all of them
that this process is gone. They write what they report to a pipe, as lines of JSON; all else that is
to be known of them is in a store that this process holds.

They are in a session of their own. An interrupt comes here, and is passed on by killing them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.training.parallel.rank import Job, Outcome, exception_of, run_rank
from sedona_nni.training.parallel.watch import read_failure

__all__ = ["is_launched", "leads_host", "shows", "train_as_rank", "train_in_parallel"]

_STARTER = "sedona_nni.training.parallel"


@contextlib.contextmanager
def starter() -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """Start the process that starts ranks; none of them outlives the block."""
    reader, writer = os.pipe()
    # Fewer threads: none may be there when it forks; ranks are told how many to use
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", _STARTER, str(writer)],
        stdin=subprocess.PIPE,
        pass_fds=[writer],
        env=environment,
        start_new_session=True,
    )
    os.close(writer)
    try:
        with os.fdopen(reader, encoding="utf-8") as events:
            yield process, events
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def is_launched() -> bool:
    """Say whether a launcher such as ``torchrun`` has started this process as one of the ranks."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def leads_host() -> bool:
    """Say whether this process writes what is to be written once on each host."""
    return not is_launched() or os.environ.get("LOCAL_RANK", "0") == "0"


def shows() -> bool:
    """Say whether this process is the one that tells a user what happens."""
    return not is_launched() or os.environ["RANK"] == "0"


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
    import torch.distributed as dist

    count, needed = int(os.environ["WORLD_SIZE"]), job.layout.num_ranks
    if count != needed:
        blocks = [*job.layout.replicas]
        rule = f"must start {needed} processes, by block {blocks}"
        raise InputError.rule("launcher", rule, count)
    try:
        store, rank, _ = next(dist.rendezvous("env://"))
    except RuntimeError as error:  # of torch's store, with its own address in it
        reason = str(error).splitlines()[0]
        raise SedonaError(f"the other ranks cannot be reached ({reason})") from None
    parent = os.getppid()
    return run_rank(
        job,
        store,
        rank,
        leads_host=leads_host(),
        report=report,
        is_orphaned=lambda: os.getppid() != parent,
        prints=True,
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
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outcome = None
    with starter() as (process, events):
        assert process.stdin is not None
        try:
            process.stdin.write(f"{store.port}\n{job.model_dump_json()}\n".encode())
            process.stdin.flush()
        except BrokenPipeError:  # it has ended; its exit code says more
            pass
        for line in events:
            event = json.loads(line)
            if "report" in event:
                report(event["report"])
            else:
                outcome = Outcome.from_json(event["outcome"])
        code = process.wait()
    failure = read_failure(store)
    if failure is not None:
        raise exception_of(failure)
    if code != 0 or outcome is None:
        raise SedonaError(f"the process that starts the ranks has ended with exit code {code}")
    return outcome
