"""The starter of a host's ranks, see `sedona_nni.training.parallel.host`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from sedona_nni.data.sets import Splits
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.training.parallel.launch import name_of_signal
from sedona_nni.training.parallel.rank import Job, run_rank
from sedona_nni.training.parallel.watch import Failure, record_failure

_GRACE_S = 3.0  # for ranks to end by themselves, once one has failed
_CONNECTION = timedelta(seconds=5)  # within this host


def main() -> int:
    """Start the ranks, wait for them, and let none be left; return the exit code."""
    writer = int(sys.argv[1])
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)  # the first one imports much
    port, text = int(sys.stdin.readline() or 0), sys.stdin.readline()
    if not text:  # whoever wanted something is gone
        return 1
    try:
        job = Job.read(text)
        splits = job.load_splits()  # once for all
    except InputError as error:
        _record(port, Failure("InputError", str(error)))
        return 1
    # Ours is the only thread here that does anything; memory allocators have others
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    ranks: dict[int, int] = {}
    failure = None
    for rank in range(job.layout.num_ranks):
        try:
            pid = os.fork()
        except OSError as error:
            words = f"{job.layout.in_words(rank)} cannot be started ({error.strerror})"
            failure = Failure("SedonaError", words)
            break
        if pid == 0:
            _be(job, splits, rank, port, writer)
        ranks[pid] = rank
    os.close(writer)
    if failure is not None:
        _record(port, failure)
    return _wait_for(ranks, job, port, has_failed=failure is not None)


def _be(job: Job, splits: Splits, rank: int, port: int, writer: int) -> None:
    """Be a rank; does not return."""
    starter = os.getppid()

    def is_orphaned() -> bool:
        return _is_forsaken() or os.getppid() != starter

    def tell(**event: Any) -> None:
        try:
            os.write(writer, (json.dumps(event) + "\n").encode())
        except BrokenPipeError:  # nobody wants to know
            os._exit(1)

    code = 1
    try:
        outcome = run_rank(
            job,
            _store(port),
            rank,
            leads_host=rank == 0,
            report=lambda numbers: tell(report=numbers),
            is_orphaned=is_orphaned,
            is_launched=False,
            splits=splits,
        )
        if rank == 0:
            tell(outcome=outcome.as_json())
        code = 0
    except SedonaError:
        pass  # the store has it
    except Exception:  # as of torch's store, before anybody could be told
        if not is_orphaned():
            traceback.print_exc()
    finally:
        _leave(code)


def _leave(code: int) -> NoReturn:
    """End, without taking leave of connections whose other ends may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _is_forsaken() -> bool:
    """Say whether the process that has started this one or its parent is gone."""
    ended, _, _ = select.select([sys.stdin.fileno()], [], [], 0)
    return bool(ended)


def _store(port: int) -> dist.Store:
    """Return the store of whoever has started this one; it is there already, or never again."""
    return dist.TCPStore("127.0.0.1", port, is_master=False, timeout=_CONNECTION)


def _record(port: int, failure: Failure) -> None:
    with contextlib.suppress(RuntimeError):  # of torch's store, whose host is gone
        record_failure(_store(port), failure)


def _wait_for(ranks: dict[int, int], job: Job, port: int, *, has_failed: bool) -> int:
    """Wait until all ranks have ended, not for long once one has failed; return the exit code."""
    left = dict(ranks)
    deadline = time.monotonic() + _GRACE_S if has_failed else None
    while left:
        if deadline is None and _is_forsaken():
            deadline = time.monotonic() + _GRACE_S
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in left:
            rank, code = left.pop(pid), os.waitstatus_to_exitcode(status)
            if code < 0:
                words = f"{job.layout.in_words(rank)} was killed by {name_of_signal(-code)}"
                _record(port, Failure("LostRank", words))
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
    _leave(main())
