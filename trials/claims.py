"""The devices of a training: one, or one for each of its processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.strategies.nni_border.devices import (
    check_device,
    check_threads,
    claim_device,
    claim_devices,
)
from sedona_nni.training.parallel.host import is_launched
from sedona_nni.training.settings import TrainSettings

__all__ = ["claim_for_training"]


@contextmanager
def claim_for_training(
    name: str,
    settings: TrainSettings,
    decoupling: Decoupling | SearchResult,
    *,
    threads: int | None = None,
) -> Iterator[torch.device | Sequence[torch.device]]:
    """Hold what `sedona_nni.trials.train.run_training` is to be given.

    Args:
        name: See `claim_device`.
        settings: Of the training; they say whether it is parallel.
        decoupling: What is trained; it says in how many processes then.
        threads: CPU threads meanwhile, of all processes on this host together; under a launcher, of
            each.

    Raises:
        InputError: if there is no such device, or there are too few.
    """
    is_cut = isinstance(decoupling, Decoupling) and decoupling.num_blocks > 1
    if settings.parallel is None or not is_cut:
        with claim_device(name, threads=threads) as device:
            yield device
        return
    assert isinstance(decoupling, Decoupling)
    count = sum(settings.parallel.replicas_of(decoupling.num_blocks))
    check_threads(threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        if is_launched():  # then the launcher has seen to it
            yield [_of_launched(name)] * count
        else:
            with claim_devices(name, count) as devices:
                yield devices
    finally:
        torch.set_num_threads(before)


def _of_launched(name: str) -> torch.device:
    """Return the device of a process that a launcher has started, here its LOCAL_RANK-th."""
    check_device(name)
    gpus = 0 if name == "cpu" else torch.cuda.device_count()
    if not gpus:
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= gpus:
        rule = f"must be below the number of this host's GPUs, {gpus}, or the device cpu"
        raise InputError.rule("LOCAL_RANK", rule, place)
    return torch.device("cuda", place)
