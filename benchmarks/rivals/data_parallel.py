"""The batch split over processes: each with all weights, or with its share of each layer's."""

from __future__ import annotations

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.rivals.processes import Work
from benchmarks.rivals.setting import RivalSetting
from benchmarks.rivals.single import steps
from sedona_nni.models.placement import place

__all__ = ["ddp", "fsdp"]


def ddp(setting: RivalSetting, rank: int) -> Work:
    """Prepare a process that has all weights, its part of the batch, and the mean gradient."""
    network = place(setting.network(), "cpu").train()
    # Its buckets are the gradients, which saves memory
    shared = DistributedDataParallel(network, gradient_as_bucket_view=True)
    return steps(shared, network, *setting.share(rank))


def fsdp(setting: RivalSetting, rank: int) -> Work:
    """Prepare a process that has its share of each layer's weights, and gathers them when needed.

    Source: FSDP2, torch's `fully_shard`.
    """
    # Its weights have to be contiguous; the images decide about the layout of what is computed
    network = setting.network().train()
    mesh = init_device_mesh("cpu", (setting.processes,))
    for part in (*network.layers, network.head):
        fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return steps(network, network, *setting.share(rank))
