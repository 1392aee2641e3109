"""SEDONA: the search for where to cut a backbone and with which auxiliary networks.

Notation: w weights, alpha and beta the logits of the relaxation (`relaxation`).

    1. Pre-train the relaxed network with uniform alpha, beta; keep moments of it in a memory.
    2. Repeat: take a moment w_0 from the memory,
               look T training steps ahead, w_0 -> w_T(alpha, beta)      the inner level
               move (alpha, beta) against d CE(w_T) / d (alpha, beta)    the outer level
               train one step from w_0 with the new (alpha, beta) and put the result back.
    3. Discretise: `decoupling.SearchResult.decoupling`, for any K.

Source: Pyeon et al., "SEDONA: Search for Decoupled Neural Networks toward Greedy Block-wise
Learning", ICLR 2021. Every departure from the paper and its release: docs/method.md.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from sedona_nni.data.batches import Batch
from sedona_nni.errors import InputError
from sedona_nni.files import read_json, reading, write_atomically, write_json
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import (
    Adam,
    InnerOptimizer,
    InnerProblem,
    Sgd,
    TrainingState,
)
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.release_mode import ReleaseProblem, release_hypergradient
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.weight_memory import Eviction, WeightMemory
from sedona_nni.seed import Seed
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = ["CHECKPOINT_FILE", "Search", "SearchSettings"]

CHECKPOINT_FILE = "search.json"

_logger = logging.getLogger(__name__)
_SNAPSHOT_DRAW, _DROPOUT = 0, 1  # what random numbers are for, so that the two never coincide


class SearchSettings(BaseModel):
    """How to search; the defaults are the release's for CIFAR-10, but for ``eviction``.

    Attributes:
        pretrain_steps: Training steps of the relaxed network before the first meta-step. With 0
            there is nothing to choose from: the first meta-step starts from the initial weights
            at the rate ``lr``, each other one from where the last one's training step ended.
            ``memory_size`` must be 1 then, and ``lr_steps`` given.
        meta_steps: Updates of alpha and beta.
        inner_steps: T, training steps that each meta-step looks ahead.
        batch_size: Training images per step, or all where there are fewer.
        validation_batch_size: Validation images per meta-step.
        optimizer: ``sgd`` or ``adam`` for the weights.
        lr: Learning rate at the first step of training.
        lr_min: Learning rate from step ``lr_steps`` on; a cosine lies between.
        lr_steps: Training steps until then; by default those of pre-training.
        momentum: Momentum of ``sgd``.
        weight_decay: Factor of the L2 penalty's gradient, for the weights.
        label_smoothing: eps of `sedona_nni.teachers.losses.LabelSmoothing`, in all losses.
        meta_optimizer: ``adam`` or ``sgd`` for alpha and beta.
        meta_lr: Its learning rate.
        meta_betas: Decay rates of ``adam``'s moments.
        meta_momentum: Momentum of ``sgd`` as the meta-optimizer.
        meta_weight_decay: Factor of the L2 penalty's gradient, for alpha and beta.
        memory_size: Snapshots that the weight memory holds. With 1, all meta-steps follow the one
            trajectory that pre-training ended with.
        num_snapshots: Moments of pre-training that are offered to the memory, evenly spaced.
        eviction: Which snapshot a full memory lets go, see `weight_memory.WeightMemory`.
        release_mode: Compute as the authors' release does, see `release_mode`.
        validation_fraction: Share of the training images that validate.
        seed: Decides initial weights, order of the images, augmentation, dropout and snapshots.

    Examples:
        >>> from sedona_nni import SearchSettings
        >>> settings = SearchSettings(pretrain_steps=200, meta_steps=20, batch_size=32)
        >>> settings.inner_steps, settings.optimizer
        (5, 'sgd')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrain_steps: int = Field(default=40_000, ge=0)
    meta_steps: int = Field(default=2_000, ge=1)
    inner_steps: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=2)  # batch norm cannot learn from a single image
    validation_batch_size: int = Field(default=1024, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    lr_steps: int | None = Field(default=None, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    meta_optimizer: Literal["adam", "sgd"] = "adam"
    meta_lr: float = Field(default=0.01, gt=0)
    meta_betas: tuple[float, float] = (0.5, 0.999)
    meta_momentum: float = Field(default=0.0, ge=0, lt=1)
    meta_weight_decay: float = Field(default=1e-6, ge=0)
    memory_size: int = Field(default=50, ge=1)
    num_snapshots: int = Field(default=500, ge=1)
    eviction: Eviction = "spread"
    release_mode: bool = False
    validation_fraction: float = Field(default=0.4, gt=0, lt=1)
    seed: Seed = 2021

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min must be at most lr, {self.lr}, but got {self.lr_min}")
        if self.pretrain_steps == 0 and self.memory_size != 1:
            raise ValueError(
                f"memory_size must be 1 without pre-training, but got {self.memory_size}"
            )
        if self.pretrain_steps == 0 and self.lr_steps is None:
            raise ValueError("lr_steps must be given without pre-training")
        if not all(0 <= beta < 1 for beta in self.meta_betas):
            raise ValueError(
                f"meta_betas must be from 0 to below 1, but got {list(self.meta_betas)}"
            )
        return self


class Search:
    """A search under way. Each `advance` is one step of it; `save` and `load` interrupt it.

    Attributes:
        network: The relaxed network. Its alpha and beta are what is searched for; its weights are
            those of the latest training step.
        settings: How it searches.
        data: Fingerprint of its images, None if nobody said it.
        step: Steps done, of `total_steps`.
        train_batches_used: Training batches consumed; a resumed search goes on with the next.
        validation_batches_used: Likewise for validation.
    """

    def __init__(
        self, network: RelaxedNetwork, settings: SearchSettings, data: str | None = None
    ) -> None:
        """Choose what to search and how.

        Args:
            network: The relaxed network, as it is at the start.
            settings: How.
            data: Fingerprint of the images; a checkpoint of other images is not gone on with.
        """
        self.network = network
        self.settings = settings
        self.data = data
        self.step = 0
        self.train_batches_used = 0
        self.validation_batches_used = 0
        problem = ReleaseProblem if settings.release_mode else InnerProblem
        self._problem = problem(
            network, _inner_optimizer(settings), LabelSmoothing(settings.label_smoothing)
        )
        self._meta_optimizer = _meta_optimizer(settings, [network.alpha, network.beta])
        self._memory = WeightMemory(settings.memory_size, settings.eviction)
        self._state = self._problem.state()
        if settings.pretrain_steps == 0:
            self._memory.store(self._state, error=1.0)

    @property
    def total_steps(self) -> int:
        """Pre-training steps and meta-steps together."""
        return self.settings.pretrain_steps + self.settings.meta_steps

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def advance(self, train: Iterator[Batch], validation: Iterator[Batch]) -> dict[str, float]:
        """Do one step of pre-training or, when that is over, one meta-step.

        Args:
            train: Training batches, on the network's device.
            validation: Validation batches, likewise. Not all steps need one.

        Returns:
            Numbers to plot: ``train_loss`` and ``local_loss`` (final head and mean of the
            auxiliary networks, nats), ``lr``, ``decided`` (mean of |a^loc - a^up|); of a meta-step
            also ``meta_loss`` (nats), ``meta_accuracy`` (fraction) and ``hypergradient`` (norm).
        """
        pretraining = self.step < self.settings.pretrain_steps
        numbers = (self._pretrain if pretraining else self._meta_step)(train, validation)
        self._problem.load(self._state)
        self.step += 1
        with torch.no_grad():
            a = self.network.alpha.softmax(1)
            numbers["decided"] = float((a[:, 0] - a[:, 1]).abs().mean())
        return numbers

    def _pretrain(self, train: Iterator[Batch], validation: Iterator[Batch]) -> dict[str, float]:
        every = max(1, self.settings.pretrain_steps // self.settings.num_snapshots)
        numbers = self._train_from(self._state, train)
        if self.step % every == 0 or self.step == self.settings.pretrain_steps - 1:
            _, accuracy, *_ = self._problem.validation(
                self._state, self._next(validation=validation)
            )
            self._memory.store(self._state, error=1 - float(accuracy))
        return numbers

    def _meta_step(self, train: Iterator[Batch], validation: Iterator[Batch]) -> dict[str, float]:
        start = self._take_snapshot()
        differentiate = release_hypergradient if self.settings.release_mode else hypergradient
        ahead = differentiate(
            self._problem,
            start,
            [self._next(train=train) for _ in range(self.settings.inner_steps)],
            self._next(validation=validation),
            lr=self._lr(start.step),
            seed=self._seed(_DROPOUT, 0),
        )
        self.network.alpha.grad, self.network.beta.grad = ahead.alpha, ahead.beta
        self._meta_optimizer.step()
        self._meta_optimizer.zero_grad()
        numbers = self._train_from(start, train)
        self._memory.store(self._state, error=1 - float(ahead.meta_accuracy))
        return numbers | {
            "meta_loss": float(ahead.meta_loss),
            "meta_accuracy": float(ahead.meta_accuracy),
            "hypergradient": float(torch.cat([ahead.alpha, ahead.beta], dim=1).norm()),
        }

    def _train_from(self, start: TrainingState, train: Iterator[Batch]) -> dict[str, float]:
        """Do one training step with the present alpha and beta; it becomes the current state."""
        lr = self._lr(start.step)
        self._state, losses = self._problem.step(
            start, self._next(train=train), lr, self._seed(_DROPOUT, 1)
        )
        local = losses[:-1].mean() if len(losses) > 1 else losses[-1]
        return {"train_loss": float(losses[-1]), "local_loss": float(local), "lr": lr}

    def _next(
        self, *, train: Iterator[Batch] | None = None, validation: Iterator[Batch] | None = None
    ) -> Batch:
        if train is not None:
            self.train_batches_used += 1
            return next(train)
        assert validation is not None
        self.validation_batches_used += 1
        return next(validation)

    def _take_snapshot(self) -> TrainingState:
        generator = torch.Generator().manual_seed(self._seed(_SNAPSHOT_DRAW, 0))
        state = self._memory.take(generator)
        device = self.network.alpha.device
        return TrainingState(
            state.weights.to(device),
            state.slots.to(device),
            state.statistics.to(device),
            state.step,
        )

    def _lr(self, step: int) -> float:
        """Return the cosine from lr at step 0 to lr_min at the last of its steps and after."""
        settings = self.settings
        progress = min(1.0, step / (settings.lr_steps or settings.pretrain_steps))
        return settings.lr_min + (settings.lr - settings.lr_min) * (
            0.5 + 0.5 * math.cos(math.pi * progress)
        )

    def _seed(self, purpose: int, part: int) -> int:
        """Return a seed that depends on the search's seed, the step and the purpose alone."""
        entropy = [self.settings.seed, self.step, purpose, part]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])

    def show_most_trained(self) -> None:
        """Put the weights with the most training steps behind them into the network, to judge it.

        The search goes on as if nothing had happened. Meta-steps start from random moments of
        training, so that the latest weights say little about how far it has come.
        """
        states = [self._state, *(snapshot.state for snapshot in self._memory.snapshots)]
        self._problem.load(max(states, key=lambda state: state.step))

    def result(self, dataset: str) -> SearchResult:
        """Return what has been found so far; ``dataset`` names where."""
        network = self.network
        return SearchResult(
            backbone=network.backbone.name,
            dataset=dataset,
            aux_choices=list(network.aux_choices),
            alpha=network.alpha.tolist(),
            beta=network.beta.tolist(),
            provenance={
                "strategy": "sedona",
                "settings": self.settings.model_dump(mode="json"),
                "steps_done": self.step,
            },
        )

    def save(self, directory: Path) -> None:
        """Write a checkpoint into ``directory``.

        An interruption at any moment leaves the previous checkpoint or this one: the file named
        `CHECKPOINT_FILE` is replaced last and names the others.
        """
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {
            "weights": self._state.weights,
            "slots": self._state.slots,
            "statistics": self._state.statistics,
            "alpha": self.network.alpha.detach(),
            "beta": self.network.beta.detach(),
        }
        for index, values in self._meta_optimizer.state_dict()["state"].items():
            tensors |= {
                f"meta.{index}.{key}": value for key, value in values.items() if value is not None
            }
        state_file = directory / f"state-{self.step}.safetensors"
        write_atomically(state_file, lambda temporary: save_file(tensors, temporary))
        write_json(
            directory / CHECKPOINT_FILE,
            {
                "settings": self._identity(),
                "step": self.step,
                "state_step": self._state.step,
                "train_batches_used": self.train_batches_used,
                "validation_batches_used": self.validation_batches_used,
                "memory": self._memory.save(directory),
            },
        )
        self._memory.forget(directory)
        for path in directory.glob("state-*.safetensors"):
            if path != state_file:
                path.unlink()

    def load(self, directory: Path) -> None:
        """Go on from the checkpoint in ``directory``, to the bit on a CPU.

        Raises:
            InputError: if it is damaged, or of a search with other settings, another network or
                other images.
        """
        path = directory / CHECKPOINT_FILE
        remedy = f"remove {directory} to start again"
        with reading(path, remedy):
            checkpoint = read_json(path)
            # Older ones had no choice of a stem
            identity = {"stem": "published", **checkpoint["settings"]}
        ours = self._identity()
        later = self._later_identity()
        if missing := [field for field in later if field not in identity]:
            _logger.warning(
                "%s does not say its %s, which is taken to be that of this search",
                path,
                ", ".join(missing),
            )
        if self.data is None or identity.get("data") is None:
            missing.append("data")
        for field, value in ours.items():
            if field in missing:
                continue
            if field == "data" and identity["data"] != value:
                raise InputError(f"data: the images must be those that {path} was made with")
            if identity.get(field) != value:
                rule = f"must be {identity.get(field)!r} to continue {path}"
                raise InputError.rule(field, rule, value)
        with reading(path, remedy):
            self.step = checkpoint["step"]
            self.train_batches_used = checkpoint["train_batches_used"]
            self.validation_batches_used = checkpoint["validation_batches_used"]
            self._memory.load(directory, checkpoint["memory"])
        state_file = directory / f"state-{self.step}.safetensors"
        with reading(state_file, remedy):
            tensors = load_file(state_file, device=str(self.network.alpha.device))
            self._state = TrainingState(
                tensors["weights"],
                tensors["slots"],
                tensors["statistics"],
                checkpoint["state_step"],
            )
            self._problem.load(self._state)
            with torch.no_grad():
                self.network.alpha.copy_(tensors["alpha"])
                self.network.beta.copy_(tensors["beta"])
            meta = self._meta_optimizer.state_dict()
            meta["state"] = _nested(tensors)
            self._meta_optimizer.load_state_dict(meta)

    def _identity(self) -> dict[str, Any]:
        """Return what a checkpoint must have in common with the search that continues it."""
        backbone = self.network.backbone
        return {
            "format": "sedona-nni/search-checkpoint/2",  # which weight is where in the vectors
            **self.settings.model_dump(mode="json"),
            "backbone": backbone.name,
            "width_multiplier": backbone.width_multiplier,
            "image_size": backbone.image_size,
            "stem": backbone.stem,
            "num_classes": backbone.num_classes,
            "aux": list(self.network.aux_choices),
            **self._later_identity(),
        }

    def _later_identity(self) -> dict[str, Any]:
        """Return what checkpoints have named since a later version; older ones are gone on with."""
        backbone = self.network.backbone
        shapes = {name: list(weight.shape) for name, weight in self.network.named_parameters()}
        return {
            "in_channels": backbone.in_channels,
            "activation": repr(backbone.activation()),
            "weights": hashlib.sha256(json.dumps(shapes).encode()).hexdigest(),
            "data": self.data,
        }


def _nested(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return ``{"meta.0.step": x}`` as ``{0: {"step": x}}``."""
    nested: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("meta."):
            _, index, key = name.split(".")
            nested.setdefault(int(index), {})[key] = tensor
    return nested


def _inner_optimizer(settings: SearchSettings) -> InnerOptimizer:
    if settings.optimizer == "adam":
        return Adam(weight_decay=settings.weight_decay)
    return Sgd(momentum=settings.momentum, weight_decay=settings.weight_decay)


def _meta_optimizer(settings: SearchSettings, arch: list[Any]) -> torch.optim.Optimizer:
    if settings.meta_optimizer == "adam":
        return torch.optim.Adam(
            arch,
            lr=settings.meta_lr,
            betas=settings.meta_betas,
            weight_decay=settings.meta_weight_decay,
        )
    return torch.optim.SGD(
        arch,
        lr=settings.meta_lr,
        momentum=settings.meta_momentum,
        weight_decay=settings.meta_weight_decay,
    )
