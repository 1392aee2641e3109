"""What must be right where each block is in a process of its own, each with a GPU.

As in `benchmarks.gpu_checks`, and on a CPU as well. Where there are fewer GPUs than processes all
share one, see `benchmarks.one_gpu`: then times say nothing.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import NotApplicable
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import SedonaError
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import train
from sedona_nni.training.parallel.launch import train_in_parallel
from sedona_nni.training.parallel.rank import Job, Outcome
from sedona_nni.training.settings import TrainSettings

__all__ = ["RANK_CHECKS"]

_TASK = Task(backbone="vgg11", width_multiplier=0.125, image_size=32, train_limit=200)
_NO_DROPOUT = _TASK.model_copy(update={"backbone": "resnet18"})  # each device draws other masks
_CUTS = {2: [3], 3: [2, 4]}
_PATIENCE_S = 5.0
_LATE_S = 15.0  # beyond patience, for all to end
_TOO_LONG = 1000  # epochs


def _job(
    device: torch.device,
    num_blocks: int,
    parallel: dict[str, Any],
    task: Task = _TASK,
    **settings: Any,
) -> Job:
    """Describe a small training, with a GPU for each process if there are so many."""
    try:
        import sklearn  # noqa: F401 - has the images
    except ImportError as error:
        raise NotApplicable("scikit-learn is not there, whose digits are learned") from error
    cuts = _CUTS[num_blocks]
    aux = "none" if settings.get("method") == "ddg" else "conv1"
    parallel = {"patience_s": _PATIENCE_S, **parallel}
    job = Job(
        task=task,
        decoupling=Decoupling(backbone=task.backbone, cuts=cuts, aux=[aux] * len(cuts)),
        settings=TrainSettings.model_validate(
            {"epochs": 2, "batch_size": 20, "lr": 0.02, "parallel": parallel, **settings}
        ),
        devices=[],
        threads=torch.get_num_threads(),
    )
    count = job.layout.num_ranks
    if device.type == "cpu":
        return job.model_copy(update={"devices": ["cpu"] * count})
    gpus = torch.cuda.device_count()
    shared = [] if gpus >= count else ["benchmarks.one_gpu"]
    devices = [f"cuda:{rank if gpus >= count else 0}" for rank in range(count)]
    return job.model_copy(update={"devices": devices, "plugins": shared})


def _learn(job: Job) -> Outcome:
    outcome = train_in_parallel(job, lambda numbers: None)
    if torch.device(job.devices[0]).type == "cuda":
        assert all(rank.peak_allocated_mib for rank in outcome.ranks), f"no GPU: {outcome.ranks}"
    return outcome


def _alike(device: torch.device, *, num_blocks: int = 2, **settings: Any) -> dict[str, float]:
    """Ranks come to what one process comes to."""
    job = _job(device, num_blocks, {}, **settings)
    alone = job.settings.model_copy(update={"parallel": None})
    network = initial_network(job.task, job.decoupling, alone.seed)
    whole = train(network, job.load_splits(), alone, device=device).validation_loss
    ours = _learn(job).trained.validation_loss
    difference = abs(ours - whole)
    # Equal to the bit on a CPU; on a GPU atomic additions come in another order each time
    bound = 0.05 * whole if device.type == "cuda" else 0
    assert difference <= bound, f"differs by {difference:.2e} from {whole:.4f} in one process"
    return {"validation_loss": ours, "difference": difference}


def _concurrent(device: torch.device) -> dict[str, float]:
    """Asynchronous learning, whose outcome depends on how fast each rank is, learns."""
    job = _job(device, 2, {}, method="asynchronous", epochs=30, lr=0.05)
    ours = _learn(job).trained
    chance = 1 / job.load_splits().num_classes
    assert ours.validation_accuracy > 2 * chance, f"accuracy {ours.validation_accuracy}"
    return {"validation_loss": ours.validation_loss, "accuracy": ours.validation_accuracy}


def _replicas(device: torch.device) -> dict[str, float]:
    """Two ranks that share the lower block's batches learn what they learn on CPUs: in one process
    batch norms see the whole batch, which is something else."""

    def loss(there: torch.device) -> float:
        # So low a rate that rounding, also that of TF32, stays small
        job = _job(there, 2, {"replicas": [2, 1]}, _NO_DROPOUT, lr=0.001)
        if there.type == "cpu":  # three ranks of so many threads would be in each other's way
            job = job.model_copy(update={"threads": 1})
        return _learn(job).trained.validation_loss

    ours, expected = loss(device), loss(torch.device("cpu"))
    difference = abs(ours - expected)
    assert difference <= 0.02 * expected, f"differs by {difference:.2e} from {expected:.4f} on CPUs"
    return {"validation_loss": ours, "difference": difference}


def _children(pid: int) -> list[int]:
    """Return a process's children, in the order in which they were started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def _lost(device: torch.device, number: signal.Signals, says: str) -> dict[str, float]:
    """A rank is lost while all learn: the others end in time, and the caller is told which."""
    job = _job(device, 2, {}, epochs=_TOO_LONG)
    others = _children(os.getpid())
    lost_at: list[float] = []
    ranks: list[int] = []

    def lose(numbers: dict[str, float]) -> None:
        if not lost_at:
            (starter,) = set(_children(os.getpid())) - {*others}
            ranks.extend(_children(starter))
            os.kill(ranks[1], number)
            lost_at.append(time.perf_counter())

    said = "it went on to its end"
    try:
        train_in_parallel(job, lose)
    except SedonaError as error:
        said = str(error)
    assert lost_at, f"it did not come to its first epoch: {said}"
    took = time.perf_counter() - lost_at[0]
    assert said.startswith(f"rank 1 (block 2 of 2) {says}"), said
    left = [rank for rank in ranks if Path(f"/proc/{rank}").exists()]
    assert took < _PATIENCE_S + _LATE_S, f"it took {took:.0f} s"
    assert not left, f"{len(left)} ranks are left"
    return {"end_s": took}


RANK_CHECKS: dict[str, Callable[[torch.device], dict[str, float]]] = {
    "greedy": _alike,
    "rank killed": partial(_lost, number=signal.SIGKILL, says="was killed by SIGKILL"),
    "rank stopped": partial(_lost, number=signal.SIGSTOP, says="has given no sign of life"),
    "asynchronous": _concurrent,
    "replicas": _replicas,
    "ddg, K = 3, bf16": partial(_alike, num_blocks=3, method="ddg", amp="bf16"),
}
"""By name; a check is as in `benchmarks.gpu_checks`."""
