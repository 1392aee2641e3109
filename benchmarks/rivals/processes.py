"""A rival's processes: started for one measurement, together, and never there after it.

Each process prepares its part, does some steps to warm up and those that count, and one more under
the profiler, see `Measurement`. They meet by a file, and talk by gloo over one network interface.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import multiprocessing.connection
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.rivals.setting import RivalSetting
from benchmarks.side_by_side import OUT_OF_MEMORY, is_lack_of_memory, limit_memory, resident_mib
from sedona_nni.decouplings.cost import peak_memory_mib

__all__ = ["LOOPBACK", "Interface", "Measurement", "Prepare", "Rival", "RivalError", "Work", "run"]

_DYING_S = 1.0  # from a kill until the process has ended
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000


class RivalError(Exception):
    """Why a rival could not be measured, in one line."""


@dataclass(frozen=True)
class Interface:
    """A network interface that a process talks by.

    Attributes:
        name: Of the interface.
        namespace: File of the network namespace that it is in; None for that of this process.
    """

    name: str
    namespace: Path | None = None


LOOPBACK = Interface("lo")


@dataclass
class Work:
    """What a process has prepared.

    Attributes:
        step: Does its part of one training step.
        modules: What it trains.
        optimizers: And by what.
        busy_s: Of each step the seconds that it computed; empty where nobody looks.
        block_s: Of each step the seconds of each block, where one process has them all; likewise.
        close: Ends what it had begun with others.
    """

    step: Callable[[], object]
    modules: Sequence[nn.Module]
    optimizers: Sequence[torch.optim.Optimizer]
    busy_s: list[float] = field(default_factory=list)
    block_s: list[list[float]] = field(default_factory=list)
    close: Callable[[], object] = lambda: None


Prepare = Callable[..., Work]
"""(setting, rank, **options) -> work. A module's function: it is sent by name."""


@dataclass(frozen=True)
class Rival:
    """One way to train.

    Attributes:
        prepare: Makes the part of each process.
        processes: How many.
        threads: CPU threads of each.
        exact: Whether its gradient is that of the loss of the whole network.
        statistics_of: Images over which a batch norm takes its mean; all where there is none.
        bytes_per_step: What all processes together send of tensors in a step, by arithmetic.
        options: For ``prepare``.
        impossible: Why it cannot be run at all.
    """

    prepare: Prepare
    processes: int
    threads: int
    exact: bool
    statistics_of: int
    bytes_per_step: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    impossible: str | None = None


@dataclass(frozen=True)
class Measurement:
    """What one process measured; memory in MiB.

    Attributes:
        step_s: Mean seconds of a step that counts, by this process's clock.
        first_step_s: From the call that started all processes to the end of the first step.
        busy_s: Mean seconds of a step that it computed; None where nobody looked.
        block_s: Likewise of each block in turn, where one process has them all.
        peak_mib: The most memory that the process had resident before the profiler ran.
        baseline_mib: What it had resident before it prepared anything.
        weights_mib: Weights and buffers of what it trains.
        optimizer_mib: State of its optimizers.
        gradient_mib: Gradients of its weights, while there are any.
        held_mib: All tensors that are there between steps: weights, state of optimizers, buffers
            for what is sent and received, images, and gradients that stay.
        step_mib: The most that torch allocates beyond that while a step runs: activations, and
            gradients that do not stay.
        sent_bytes: What its network interface sent per step, where it has one of its own.
    """

    step_s: float
    first_step_s: float
    busy_s: float | None
    block_s: list[float] | None
    peak_mib: float
    baseline_mib: float
    weights_mib: float
    optimizer_mib: float
    gradient_mib: float
    held_mib: float
    step_mib: float
    sent_bytes: float | None


def run(
    rival: Rival, setting: RivalSetting, interfaces: Sequence[Interface] = (LOOPBACK,)
) -> list[Measurement]:
    """Measure a rival once, in fresh processes that have all ended when this returns.

    Args:
        rival: What.
        setting: At what sizes.
        interfaces: What the processes talk by: the first ones by the first, and so on.

    Returns:
        Of each process, by rank.

    Raises:
        RivalError: if one fails, or they take too long.
    """
    if rival.impossible is not None:
        raise RivalError(rival.impossible)
    # Fresh interpreters: forked ones would have this one's memory
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        # Ctrl-C is for this process, which then ends the others; they never hear of it
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for rank in range(rival.processes):
                ours, its = context.Pipe()
                interface = interfaces[rank * len(interfaces) // rival.processes]
                meeting = Path(folder) / "meeting"
                arguments = (rival, setting, rank, meeting, interface, started, its)
                process = context.Process(target=_serve, args=arguments, daemon=True)
                process.start()
                its.close()
                workers[ours] = process
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
            return _gather(workers, started + 10 * setting.timeout_s)
        finally:
            for connection, process in workers.items():
                connection.close()
                process.kill()  # what it had to say has been heard
            for process in workers.values():
                process.join()
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _gather(workers: dict[Connection, Any], deadline: float) -> list[Measurement]:
    """Wait for what each process says; the first complaint is the reason, unless one was killed."""
    found: dict[Connection, Measurement] = {}
    while len(found) < len(workers):
        waiting = [each for each in workers if each not in found]
        ready = multiprocessing.connection.wait(waiting, max(0, deadline - time.monotonic()))
        if not ready:
            raise RivalError("takes too long")
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                said = connection.recv()
            except (EOFError, ConnectionError):
                process = workers[connection]
                process.join()
                why = OUT_OF_MEMORY if _killed(process) else f"ended with code {process.exitcode}"
                raise RivalError(why) from None
            if isinstance(said, str):
                # Who was talking to one that is killed may be the first to be heard
                sentinels = [each.sentinel for each in workers.values()]
                multiprocessing.connection.wait(sentinels, _DYING_S)
                raise RivalError(OUT_OF_MEMORY if any(map(_killed, workers.values())) else said)
            found[connection] = said
    return [found[connection] for connection in workers]


def _killed(process: Any) -> bool:
    return bool(process.exitcode == -signal.SIGKILL)


def _serve(
    rival: Rival,
    setting: RivalSetting,
    rank: int,
    meeting: Path,
    interface: Interface,
    started: float,
    connection: Connection,
) -> None:
    """Measure one process's part, and say what came of it."""
    # Also where what has started this one is killed
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # What goes wrong is said in one line; torch's own reports of it take hundreds
    with Path(os.devnull).open("w") as nowhere:
        for descriptor in (1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    try:
        _join(rival, setting, rank, meeting, interface)
        connection.send(_measure(rival, setting, rank, interface, started))
        connection.recv()  # until it is ended: who ends early takes others along
    except EOFError:
        pass
    except Exception as error:
        connection.send(_reason(error))
        connection.recv()


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:  # torch wraps what happened into where
        error = error.__cause__
    if is_lack_of_memory(error):
        return OUT_OF_MEMORY
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}"


def _join(
    rival: Rival, setting: RivalSetting, rank: int, meeting: Path, interface: Interface
) -> None:
    """Set a process up: namespace, memory, threads, and the group that it belongs to."""
    if interface.namespace is not None:
        with interface.namespace.open() as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
    limit_memory(rival.processes)
    torch.set_num_threads(rival.threads)
    if rival.processes == 1:
        return
    os.environ["GLOO_SOCKET_IFNAME"] = interface.name
    dist.init_process_group(
        "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=rival.processes,
        timeout=timedelta(seconds=setting.timeout_s),
    )


def _measure(
    rival: Rival, setting: RivalSetting, rank: int, interface: Interface, started: float
) -> Measurement:
    baseline = resident_mib("VmRSS")
    work = rival.prepare(setting, rank, **rival.options)
    work.step()
    first_step_s = time.monotonic() - started
    gc.collect()  # takes a while, in which others get ahead, so before the steps to warm up
    for _ in range(setting.warm_up):
        work.step()
    work.busy_s.clear()
    work.block_s.clear()
    sent, start = _sent_bytes(interface), time.perf_counter()
    for _ in range(setting.steps):
        work.step()
    step_s = (time.perf_counter() - start) / setting.steps
    sent_bytes = (_sent_bytes(interface) - sent) / setting.steps
    blocks = list(zip(*work.block_s, strict=True))
    busy_s = sum(work.busy_s) / len(work.busy_s) if work.busy_s else None
    peak = resident_mib("VmHWM")
    tensors = [
        tensor for module in work.modules for tensor in (*module.parameters(), *module.buffers())
    ]
    weights = [tensor for tensor in tensors if tensor.requires_grad]
    states = [
        value
        for optimizer in work.optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    held = _storage_mib(each for each in gc.get_objects() if issubclass(type(each), Tensor))
    step_mib = peak_memory_mib(work.step, torch.device("cpu"))
    work.close()
    return Measurement(
        step_s=step_s,
        first_step_s=first_step_s,
        busy_s=busy_s,
        block_s=[sum(times) / len(times) for times in blocks] or None,
        peak_mib=peak,
        baseline_mib=baseline,
        weights_mib=_storage_mib(tensors),
        optimizer_mib=_storage_mib(states),
        gradient_mib=_storage_mib(weights),  # as large as what they are of
        held_mib=held,
        step_mib=step_mib,
        sent_bytes=sent_bytes if interface.namespace is not None else None,
    )


def _storage_mib(tensors: Iterator[Tensor] | Sequence[Tensor]) -> float:
    """Return the memory behind tensors, each piece once, MiB."""
    sizes = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        if local.device.type == "cpu":
            storage = local.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values()) / 2**20


def _sent_bytes(interface: Interface) -> int:
    """Return what a network interface has sent so far."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface.name:
            return int(numbers.split()[8])
    return 0
