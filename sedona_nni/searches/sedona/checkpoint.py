"""Checkpoints of SEDONA's search: what lets an interrupted one go on to the same bits.

A directory holds `CHECKPOINT_FILE`, which names the step and what was searched; of that step
``state-<step>.safetensors`` with the latest weights, alpha, beta and the meta-optimizer's moments;
and the snapshots of the memory, ``snapshot-<number>.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from sedona_nni.errors import InputError
from sedona_nni.files import read_json, reading, write_atomically, write_json
from sedona_nni.searches.sedona.inner_step import InnerProblem, TrainingState
from sedona_nni.searches.sedona.meta_optimizer import MetaOptimizer
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.searches.sedona.weight_memory import WeightMemory

__all__ = ["CHECKPOINT_FILE", "UnderWay", "has_checkpoint", "load_checkpoint", "save_checkpoint"]

CHECKPOINT_FILE = "search.json"

_FORMAT = "sedona-nni/search-checkpoint/3"
"""Changes with what is where in the vectors of weights and statistics."""

_logger = logging.getLogger(__name__)


class UnderWay(Protocol):
    """A search, see `sedona_nni.searches.sedona.search.Search`; here, what a checkpoint keeps of
    it, and by what it knows one that it may go on with."""

    network: RelaxedNetwork
    settings: SearchSettings
    data: str | None
    problem: InnerProblem
    meta_optimizer: MetaOptimizer
    memory: WeightMemory
    state: TrainingState
    step: int
    train_batches_used: int
    validation_batches_used: int
    perturbed: list[float]


def has_checkpoint(directory: Path) -> bool:
    """Return whether a directory holds a checkpoint."""
    return (directory / CHECKPOINT_FILE).exists()


def save_checkpoint(search: UnderWay, directory: Path) -> None:
    """Write a checkpoint into ``directory``.

    An interruption at any moment leaves the previous checkpoint or this one: the file named
    `CHECKPOINT_FILE` is replaced last and names the others.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = search.problem.packed(search.state)
    tensors = {
        "weights": state.weights,
        "slots": state.slots,
        "statistics": state.statistics,
        "alpha": search.network.alpha.detach(),
        "beta": search.network.beta.detach(),
    }
    for index, values in enumerate(search.meta_optimizer.state):
        tensors |= {f"meta.{index}.{key}": value for key, value in values.items()}
    state_file = directory / f"state-{search.step}.safetensors"
    write_atomically(state_file, lambda temporary: save_file(tensors, temporary))
    write_json(
        directory / CHECKPOINT_FILE,
        {
            "settings": _identity(search),
            "step": search.step,
            "state_step": search.state.step,
            "train_batches_used": search.train_batches_used,
            "validation_batches_used": search.validation_batches_used,
            "perturbed": search.perturbed,
            "memory": search.memory.save(directory),
        },
    )
    search.memory.forget(directory)
    for path in directory.glob("state-*.safetensors"):
        if path != state_file:
            path.unlink()


def load_checkpoint(search: UnderWay, directory: Path) -> None:
    """Let a search go on from the checkpoint in ``directory``, to the bit on a CPU.

    Raises:
        InputError: if it is damaged, or of a search with other settings, another network or
            other images.
    """
    path = directory / CHECKPOINT_FILE
    remedy = f"remove {directory} to start again"
    with reading(path, remedy):
        checkpoint = read_json(path)
        # Older ones had no choice of a stem, and fewer settings
        since = {**SearchSettings().model_dump(mode="json"), "stem": "published"}
        identity = {**since, **checkpoint["settings"]}
    _check_identity(search, identity, path)
    with reading(path, remedy):
        search.step = checkpoint["step"]
        search.train_batches_used = checkpoint["train_batches_used"]
        search.validation_batches_used = checkpoint["validation_batches_used"]
        search.perturbed = [float(loss) for loss in checkpoint.get("perturbed", [])]
        search.memory.load(directory, checkpoint["memory"])
    state_file = directory / f"state-{search.step}.safetensors"
    with reading(state_file, remedy):
        tensors = load_file(state_file, device=str(search.network.alpha.device))
        state = TrainingState(
            tensors["weights"],
            tensors["slots"],
            tensors["statistics"],
            checkpoint["state_step"],
        )
        search.state = search.problem.unpacked(state)
        search.problem.load(search.state)
        with torch.no_grad():
            search.network.alpha.copy_(tensors["alpha"])
            search.network.beta.copy_(tensors["beta"])
        for name, tensor in tensors.items():
            if name.startswith("meta."):
                _, index, key = name.split(".")
                search.meta_optimizer.state[int(index)][key] = tensor


def _check_identity(search: UnderWay, identity: dict[str, Any], path: Path) -> None:
    """Check that a checkpoint of an identity is of this search."""
    if identity.get("format") != _FORMAT:
        raise InputError(
            f"{path}: is of another version, which orders weights otherwise, and cannot be gone on "
            f"with; remove {path.parent} to start again"
        )
    missing = [field for field in _later_identity(search) if field not in identity]
    if missing:
        _logger.warning(
            "%s does not say its %s, which is taken to be that of this search",
            path,
            ", ".join(missing),
        )
    if search.data is None or identity.get("data") is None:
        missing.append("data")
    for field, value in _identity(search).items():
        if field in missing:
            continue
        if field == "data" and identity["data"] != value:
            raise InputError(f"data: the images must be those that {path} was made with")
        if identity.get(field) != value:
            rule = f"must be {identity.get(field)!r} to continue {path}"
            raise InputError.rule(field, rule, value)


def _identity(search: UnderWay) -> dict[str, Any]:
    """Return what a checkpoint must have in common with the search that continues it."""
    backbone = search.network.backbone
    return {
        "format": _FORMAT,
        **search.settings.model_dump(mode="json"),
        "backbone": backbone.name,
        "width_multiplier": backbone.width_multiplier,
        "image_size": backbone.image_size,
        "stem": backbone.stem,
        "num_classes": backbone.num_classes,
        "aux": list(search.network.aux_choices),
        **_later_identity(search),
    }


def _later_identity(search: UnderWay) -> dict[str, Any]:
    """Return what checkpoints have named since a later version; older ones are gone on with."""
    backbone = search.network.backbone
    shapes = {name: list(weight.shape) for name, weight in search.network.named_parameters()}
    return {
        "in_channels": backbone.in_channels,
        "activation": repr(backbone.activation()),
        "weights": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
        "data": search.data,
    }
