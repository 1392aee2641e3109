"""What asynchronous blocks hand up arrives as it left, features narrower where that is wanted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from sedona_nni.training.parallel.feed import Arrival, Arrivals, Feed


def _batches() -> list[Arrival]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn((3, 4, 5, 5), generator=generator)
    maps = maps.contiguous(memory_format=torch.channels_last)
    mixed = torch.randn((3, 10), generator=generator)
    tokens = torch.randn((2, 6, 4), generator=generator)
    return [
        Arrival(1, maps, mixed),
        Arrival(7, tokens, torch.tensor([3, 0])),
        Arrival(8, torch.empty(0), torch.empty(0)),
    ]


def _end(rank: int, folder: str, wire: torch.dtype) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    group = dist.group.WORLD
    assert group is not None
    if rank == 0:
        feed = Feed(group, 1, wire)
        for batch in _batches():
            feed.put(batch)
            dist.barrier()  # until it has been taken, as a later one would replace it
        Path(folder, "sent").write_text(f"{feed.bytes_sent}")
    else:
        arrivals = Arrivals(group, 0, most=2)
        for place, _ in enumerate(_batches()):
            (arrival,) = arrivals.take(wait=True)
            torch.save(tuple(arrival), f"{folder}/{place}.pt")
            dist.barrier()
    store.add("ended", 1)
    while store.add("ended", 0) < 2:
        time.sleep(0.01)
    os._exit(0)  # as ranks do: a thread still waits for what will not come


def _carried(folder: Path, wire: torch.dtype) -> tuple[list[tuple[int, Tensor, Tensor]], int]:
    spawn(_end, args=(str(folder), wire), nprocs=2)
    arrived = [torch.load(folder / f"{place}.pt") for place in range(len(_batches()))]
    return arrived, int((folder / "sent").read_text())


@pytest.mark.slow(reason="starts processes")
def test_features_travel_in_the_type_asked_for(tmp_path: Path) -> None:
    """In float32 to the bit and in the layout in which they left; in bf16 with half the bytes."""
    sent = {}
    for wire in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(wire)
        folder.mkdir()
        arrived, sent[wire] = _carried(folder, wire)
        for (steps, features, labels), expected in zip(arrived, _batches(), strict=True):
            assert steps == expected.steps
            assert torch.equal(features, expected.features.to(wire).float())
            assert features.dtype == torch.float32
            assert features.stride() == expected.features.stride()
            assert torch.equal(labels, expected.labels)
            assert labels.dtype == expected.labels.dtype
    numbers = sum(batch.features.numel() for batch in _batches())
    assert sent[torch.float32] - sent[torch.bfloat16] == 2 * numbers
