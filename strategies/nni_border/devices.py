"""A GPU of its own for every trial.

NNI's scheduler refuses to give away the only GPU of a host, and hangs. So experiments leave
``trialGpuNumber`` out, every trial sees all GPUs, and takes one by locking a file.
"""

from __future__ import annotations

import contextlib
import getpass
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sedona_nni.errors import InputError
from sedona_nni.machine import usable_cores

if TYPE_CHECKING:
    import torch

__all__ = ["check_device", "check_threads", "claim_device", "claim_devices", "visible_gpus"]

_MOST_FOR_A_CORE = 16  # threads
RETRY_S = 0.5  # between two looks for a free GPU


def check_device(name: str) -> None:
    """Check that the device can be had on this machine.

    Args:
        name: ``"cpu"``, ``"cuda"`` or ``"auto"``.

    Raises:
        InputError: for ``"cuda"`` without a usable GPU, or another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError.rule("device", "must be auto, cpu or cuda", name)
    if name == "cuda" and not visible_gpus():
        raise InputError(
            "device: is 'cuda', but PyTorch finds no usable GPU on this machine; "
            "use 'auto' or 'cpu', or check the driver and CUDA_VISIBLE_DEVICES"
        )


def check_threads(threads: int | None) -> None:
    """Check that this machine can have so many threads: a system refuses too many without a word
    of reason.

    Raises:
        InputError: if they are more than 16 for each processor.
    """
    most = _MOST_FOR_A_CORE * usable_cores()
    if threads is not None and threads > most:
        rule = f"must be at most {most} here, {_MOST_FOR_A_CORE} for each processor"
        raise InputError.rule("threads", rule, threads)


@contextlib.contextmanager
def claim_device(name: str, *, threads: int | None = None) -> Iterator[torch.device]:
    """Hold a device: the CPU, or a GPU that no other trial of this user holds meanwhile.

    Waits while all visible GPUs are taken. A GPU becomes free again when the block is left or its
    process ends, however that happens.

    Args:
        name: ``"cpu"``, ``"cuda"``, or ``"auto"`` for a GPU if there is any.
        threads: CPU threads that PyTorch uses meanwhile; by default as many as it likes.

    Raises:
        InputError: see `check_device` and `check_threads`.
    """
    import torch

    check_device(name)
    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with claim_devices(name, 1) as (device,):
            if device.type == "cuda":
                torch.cuda.set_device(device)
            yield device
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def claim_devices(name: str, count: int) -> Iterator[list[torch.device]]:
    """Hold several devices, for as many processes: GPUs as `claim_device` does, or the CPU.

    Waits until there are as many free GPUs at once, so that two that wait cannot hold up each
    other.

    Args:
        name: See there.
        count: How many; the CPU serves any number.

    Raises:
        InputError: see `check_device`; or there are GPUs, but fewer.
    """
    import torch

    check_device(name)
    gpus = [] if name == "cpu" else visible_gpus()
    if not gpus:
        yield [torch.device("cpu")] * count
        return
    if count > len(gpus):
        rule = f"must be cpu for {count} processes, as only {len(gpus)} of them can have a GPU"
        raise InputError.rule("device", rule, name)
    held = _lock_some(gpus, count)
    try:
        yield [torch.device("cuda", index) for index in held]
    finally:
        for lock in held.values():
            lock.release()


def _lock_some(gpus: list[str], count: int) -> dict[int, FileLock]:
    folder = Path(tempfile.gettempdir()) / f"sedona-nni-gpus-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    locks = [FileLock(folder / f"{uuid}.lock") for uuid in gpus]
    while True:
        held: dict[int, FileLock] = {}
        for index, lock in enumerate(locks):
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                held[index] = lock
            if len(held) == count:
                return held
        for lock in held.values():
            lock.release()
        time.sleep(RETRY_S)


def visible_gpus() -> list[str]:
    """Return the UUIDs of the visible GPUs, in PyTorch's order.

    Not their numbers, which depend on CUDA_VISIBLE_DEVICES and so differ between processes.
    """
    import torch

    return [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]
