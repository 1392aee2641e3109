"""The starter of a host's ranks, see `sedona_nni.training.parallel.launch`."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from typing import Any

import torch.distributed as dist

from sedona_nni.errors import SedonaError
from sedona_nni.training.parallel.rank import Job, run_rank
from sedona_nni.training.parallel.watch import Failure, record_failure

_GRACE_S = 5.0  # for ranks to end by themselves, once one has failed


def main() -> int:
    """Start the ranks, wait for them, and let none be left; return the exit code."""
    writer = int(sys.argv[1])
    port, text = int(sys.stdin.readline() or 0), sys.stdin.readline()
    if not text:  # whoever wanted something is gone
        return 1
    job = Job.read(text)
    ranks: dict[int, int] = {}
    for rank in range(job.layout.num_ranks):
        pid = os.fork()
        if pid == 0:
            _be(job, rank, port, writer)
        ranks[pid] = rank
    os.close(writer)
    return _wait_for(ranks, job, dist.TCPStore("127.0.0.1", port, is_master=False))


def _be(job: Job, rank: int, port: int, writer: int) -> None:
    """Be a rank; does not return."""
    starter = os.getppid()

    def is_orphaned() -> bool:
        ended, _, _ = select.select([sys.stdin.fileno()], [], [], 0)
        return bool(ended) or os.getppid() != starter

    def tell(**event: Any) -> None:
        os.write(writer, (json.dumps(event) + "\n").encode())

    code = 1
    try:
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        outcome = run_rank(
            job,
            store,
            rank,
            leads_host=rank == 0,
            report=lambda numbers: tell(report=numbers),
            is_orphaned=is_orphaned,
            prints=False,
        )
        if rank == 0:
            tell(outcome=outcome.as_json())
        code = 0
    except SedonaError:
        pass  # the store has it
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # without taking leave of connections whose other ends may be gone


def _wait_for(ranks: dict[int, int], job: Job, store: dist.Store) -> int:
    left, deadline = dict(ranks), None
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in left:
            rank, code = left.pop(pid), os.waitstatus_to_exitcode(status)
            if code < 0:
                words = f"{job.layout.in_words(rank)} was killed by {signal.Signals(-code).name}"
                record_failure(store, Failure("LostRank", words))
            if code != 0 and deadline is None:
                deadline = time.monotonic() + _GRACE_S
        elif deadline is not None and time.monotonic() > deadline:
            for each in left:
                os.kill(each, signal.SIGKILL)
            deadline = float("inf")
        else:
            time.sleep(0.02)
    return 0 if deadline is None else 1


if __name__ == "__main__":
    sys.exit(main())
