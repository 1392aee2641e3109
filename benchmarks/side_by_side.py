"""Two implementations of one computation, timed in turn within one run.

Each side lives in a process of its own, so that its memory is its own, and repeats the computation
once whenever it is told to. The sides take turns, and who goes first changes from turn to turn, so
that a machine that grows slower or faster meanwhile treats them alike. The first turn only warms
up.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import re
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import memory_bytes
from benchmarks.view import Table

__all__ = [
    "OUT_OF_MEMORY",
    "Measured",
    "Prepare",
    "Side",
    "compare",
    "comparison_table",
    "is_lack_of_memory",
    "limit_memory",
    "resident_mib",
    "seconds",
]

Prepare = Callable[[Any], Callable[[], object]]
"""setting -> the computation, which is then repeated. A module's function: it is sent by name."""

OUT_OF_MEMORY = "out of memory"
_SHARE_OF_FREE_MEMORY = 0.9


@dataclass(frozen=True)
class Side:
    """One implementation.

    Attributes:
        name: As it is shown.
        prepare: Builds it.
        setting: For ``prepare``; it must be possible to pickle it.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads that torch uses.
    """

    name: str
    prepare: Prepare
    setting: Any
    device: str
    threads: int


@dataclass
class Measured:
    """What was measured of one side.

    Attributes:
        values_s: Seconds of each repetition, in order.
        memory: ``peak_mib``, the most memory that the process ever had resident; ``baseline_mib``,
            what it had before it built anything, which is Python, torch and the code;
            ``peak_above_baseline_mib``; on a GPU ``peak_allocated_mib``, by torch's allocator.
        failure: Why there are no values, if there are none.
    """

    values_s: list[float]
    memory: dict[str, float]
    failure: str | None = None

    @property
    def median_s(self) -> float | None:
        """Median of the values, seconds."""
        return statistics.median(self.values_s) if self.values_s else None

    def document(self) -> dict[str, Any]:
        """Return it all, fit for JSON."""
        if self.failure is not None:
            return {"failure": self.failure}
        return {"median_s": self.median_s, **self.memory, "values_s": self.values_s}


def compare(sides: Sequence[Side], *, repeats: int) -> dict[str, Any]:
    """Time all sides in turn.

    Args:
        sides: One or more; the first is the one that ratios are of.
        repeats: Turns that count.

    Returns:
        Under each side's name what `Measured.document` says; with two sides also ``ratio``,
        the second's median time over the first's, ``memory_ratio``, likewise of ``peak_mib``, and
        ``memory_above_baseline_ratio``. A ratio that one of them has no value for is None.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(side)) for side in sides]
        for turn in range(-1, repeats):
            for worker in workers if turn % 2 == 0 else reversed(workers):
                worker.repeat(counts=turn >= 0)
        measured = [worker.finish() for worker in workers]
    document: dict[str, Any] = {
        side.name: result.document() for side, result in zip(sides, measured, strict=True)
    }
    if len(sides) == 2:
        ours, other = (document[side.name] for side in sides)
        for name, of in (
            ("ratio", "median_s"),
            ("memory_ratio", "peak_mib"),
            ("memory_above_baseline_ratio", "peak_above_baseline_mib"),
        ):
            known = ours.get(of) and other.get(of)
            document[name] = other[of] / ours[of] if known else None
    return document


def comparison_table(title: str, document: dict[str, Any], names: Sequence[str]) -> Table:
    """Return what `compare` returned for readers."""
    gpu = any("peak_allocated_mib" in document[name] for name in names)
    headings = ["side", "median, s", "fastest", "slowest", "peak, MiB", "above baseline, MiB"]
    rows = []
    for name in names:
        side = document[name]
        if "failure" in side:
            rows.append([name, side["failure"], *["-"] * (len(headings) - 2 + gpu)])
            continue
        times = (side["median_s"], min(side["values_s"]), max(side["values_s"]))
        memory = [side["peak_mib"], side["peak_above_baseline_mib"]]
        memory += [side["peak_allocated_mib"]] if gpu else []
        rows.append([name, *(f"{t:.3f}" for t in times), *(f"{m:,.0f}" for m in memory)])
    if len(names) == 2:
        ratios = [document["ratio"], None, None]
        ratios += [document["memory_ratio"], document["memory_above_baseline_ratio"]]
        ratios += [None] if gpu else []
        shown = ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        rows.append([f"{names[1]} / {names[0]}", *shown])
    return Table(title, [*headings, *(["allocated, MiB"] if gpu else [])], rows)


class _Worker:
    """A side's process, seen from the one that tells it what to do."""

    def __init__(self, process: Any, connection: Connection) -> None:
        self._process = process
        self._connection = connection
        self._result = Measured([], {})

    def repeat(self, *, counts: bool) -> None:
        """Let it compute once; a side that has failed is left out."""
        seconds = self._ask("repeat")
        if counts and seconds is not None:
            self._result.values_s.append(seconds)

    def finish(self) -> Measured:
        """Return what was measured."""
        memory = self._ask("memory")
        if memory is not None:
            self._result.memory = memory
        return self._result

    def _ask(self, what: str) -> Any:
        if self._result.failure is not None:
            return None
        try:
            self._connection.send(what)
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            killed = self._process.exitcode == -signal.SIGKILL
            kind = "failure"
            value = OUT_OF_MEMORY if killed else f"ended with code {self._process.exitcode}"
        if kind == "failure":
            self._result.failure = value
            return None
        return value


@contextlib.contextmanager
def _worker(side: Side) -> Iterator[_Worker]:
    # A fresh interpreter: a forked one would have this one's memory
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_serve, args=(side, its), name=side.name, daemon=True)
    process.start()
    its.close()
    try:
        yield _Worker(process, ours)
    finally:
        ours.close()  # it ends when there is nobody to listen to
        process.join(timeout=10)
        process.kill()
        process.join()


def _serve(side: Side, connection: Connection) -> None:
    """Compute when told to, and say how long it took."""
    device = torch.device(side.device)
    # What a side prints is not what this program prints
    with contextlib.suppress(EOFError, KeyboardInterrupt), contextlib.redirect_stdout(sys.stderr):
        try:
            if device.type == "cpu":
                limit_memory()
            torch.set_num_threads(side.threads)
            baseline = resident_mib("VmRSS")
            computation = side.prepare(side.setting)
            while True:
                if connection.recv() == "repeat":
                    gc.collect()
                    connection.send(("seconds", seconds(computation, device)))
                else:
                    connection.send(("memory", _memory(baseline, device)))
        except (MemoryError, RuntimeError) as error:
            if not is_lack_of_memory(error):
                raise
            connection.send(("failure", OUT_OF_MEMORY))


def seconds(computation: Callable[[], object], device: torch.device) -> float:
    """Return how long it takes; the device is waited for before the clock is read."""
    _synchronise(device)
    start = time.perf_counter()
    result = computation()
    _synchronise(device)
    taken = time.perf_counter() - start
    del result
    return taken


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(baseline: float, device: torch.device) -> dict[str, float]:
    peak = resident_mib("VmHWM")
    memory = {
        "peak_mib": peak,
        "baseline_mib": baseline,
        "peak_above_baseline_mib": peak - baseline,
    }
    if device.type == "cuda":
        memory["peak_allocated_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return memory


def resident_mib(field: str) -> float:
    """Return this process's resident memory, MiB: now, ``VmRSS``, or at most so far, ``VmHWM``."""
    match = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    assert match is not None
    return int(match[1]) / 1024


def limit_memory(processes: int = 1) -> None:
    """See to it that this process alone fails if there is too little memory.

    Allocations fail beyond most of what is free now; should the kernel still run out, this is the
    process that it ends.

    Args:
        processes: How many there are that share what is free.
    """
    limit = int(_SHARE_OF_FREE_MEMORY * memory_bytes("MemAvailable") / processes)
    limits = (limit, *resource.getrlimit(resource.RLIMIT_DATA))
    limit = min(bound for bound in limits if bound != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    Path("/proc/self/oom_score_adj").write_text("1000")


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception means."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)  # torch's own allocator, and oneDNN, which gives no reason
    return "t allocate memory" in said or said.startswith("could not create a ")
