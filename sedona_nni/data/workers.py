"""Processes that read pictures ahead of the one that needs them, and what becomes of their errors.

They are those of torch's ``DataLoader``. Each reads whole batches; what is in a batch its addresses
alone say, so that nothing depends on how many processes there are.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from sedona_nni.errors import InputError, SedonaError
from sedona_nni.machine import usable_cores

__all__ = ["is_crowded", "number_of_workers", "read_ahead"]

_SHARED_MEMORY = "/dev/shm"  # of Linux; containers often have 64 MB of it
_PREFETCH = 2  # batches that a worker has ready
_MOST_WORKERS = 8  # unless told otherwise
_ENDED_WORKER = ("killed by signal", "exited unexpectedly", "shared memory", "No space left")


class _ToldError(Exception):
    """An `InputError` on its way out of a worker: torch puts its message at the end of a traceback,
    which an `InputError` would shorten, and write in one line."""


class _Telling(Dataset[Any]):
    """Items that raise those errors."""

    def __init__(self, items: Dataset[Any]) -> None:
        self._items = items

    def __getitem__(self, address: Any) -> Any:
        try:
            return self._items[address]
        except InputError as error:
            raise _ToldError(str(error)) from None


def number_of_workers(workers: int | None) -> int:
    """Return how many processes to use; where nothing is said, what `FolderImages` says."""
    return min(_MOST_WORKERS, usable_cores()) if workers is None else workers


def is_crowded(workers: int, batch_bytes: int) -> bool:
    """Say whether the batches on their way to this process may not fit into shared memory.

    Other trials may be about to fill it, too, so half of it has to be enough.
    """
    if not os.path.isdir(_SHARED_MEMORY):
        return False
    needed = (workers * _PREFETCH + 2) * batch_bytes
    return shutil.disk_usage(_SHARED_MEMORY).free < 2 * needed


def read_ahead(
    items: Dataset[Any],
    addresses: Iterable[Any],
    workers: int,
    *,
    collate: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Yield a batch for each list of addresses.

    Args:
        items: Returns the item of an address.
        addresses: A list of them for each batch.
        workers: Processes that read, 0 for this one.
        collate: Makes a batch of its items, by default as torch does.
        pin_memory: See torch's ``DataLoader``.

    Raises:
        InputError: if an item raises one.
        SedonaError: if a process ends.
    """
    with warnings.catch_warnings():  # more workers than processors is what was asked for
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader: DataLoader[Any] = DataLoader(
            _Telling(items),
            batch_sampler=addresses,
            num_workers=workers,
            prefetch_factor=_PREFETCH if workers else None,
            collate_fn=collate,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else the loader draws from torch's global one
        )
    try:
        yield from loader
    except _ToldError as error:  # of a worker the whole traceback, whose last line is the message
        last = str(error).strip().rsplit(f"{_ToldError.__name__}: ", 1)[-1]
        _forget_frames(error)
        raise InputError(last) from None
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        if not any(words in reason for words in _ENDED_WORKER):
            raise  # a defect
        _forget_frames(error)
        raise SedonaError(
            "a process that reads images has ended, probably for want of memory or of "
            f"{_SHARED_MEMORY}: fewer `workers` need less, 0 none ({reason})"
        ) from None


def _forget_frames(error: BaseException) -> None:
    """Let go of the loader's iterator, which the frames of its error hold.

    Then its queues are closed at once and in order. Left to the garbage collector, which may come
    at any time, threads of theirs can be found closing what it closes.
    """
    error.__traceback__ = None
