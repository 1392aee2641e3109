"""Slopes as a search among others: the derivative of a whole training by all cuts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from sedona_nni.data.batches import Batch, BatchStream
from sedona_nni.errors import InputError
from sedona_nni.files import reading, write_atomically
from sedona_nni.searches.kind import Findings, SearchKind, SearchSetup
from sedona_nni.searches.sedona.inner_step import (
    Adam,
    InnerOptimizer,
    InnerProblem,
    PulledBack,
    Sgd,
)
from sedona_nni.searches.sedona.layer_check import check_layers
from sedona_nni.searches.sedona.mixed_losses import MixedLossesProblem
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork, check_candidates, slopes
from sedona_nni.searches.slopes.result import SlopeResult
from sedona_nni.searches.slopes.slopes import end_of_training, way_back
from sedona_nni.seed import Seed
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import DivergedError, training_stream
from sedona_nni.training.methods.method import build_schedule
from sedona_nni.training.precision import float32_products
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

__all__ = ["SlopeSettings", "Slopes", "inner_optimizer"]


_NOT_DIFFERENTIATED: dict[str, Any] = {
    "nesterov": False,
    "clip_norm": None,
    "mixup": 0,
    "cutmix": 0,
    "transport": 0,
    "lr_pretrained": 1,
}
"""What changes the weights of a training and is not part of slopes, with what leaves it out."""


class SlopeSettings(BaseModel):
    """How to differentiate a training; all else is as in the trainings that it is for.

    Attributes:
        steps: T; by default those of a whole training. Fewer are a training of its own, at the same
            rates, which fall by a cosine.
        start_a_loc: a, the share of local signals at every boundary where the derivative is taken.
        mix: What the relaxed network mixes of the auxiliary networks: their ``losses`` or their
            ``logits``, see `sedona_nni.searches.sedona.mixed_losses`.
        validation_batch_size: Validation images that the loss is taken on, or all where there are
            fewer.
        seed: Decides initial weights, order of the images, augmentation and dropout.

    Examples:
        >>> from sedona_nni import SlopeSettings
        >>> SlopeSettings(steps=200).mix
        'losses'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int | None = Field(default=None, ge=1)
    start_a_loc: float = Field(default=0.1, gt=0, lt=1)
    mix: Literal["logits", "losses"] = "losses"
    validation_batch_size: int = Field(default=1024, ge=1)
    seed: Seed = 2021

    def rates(self, train: TrainSettings, steps_per_epoch: int) -> list[float]:
        """Return the learning rate of each step, T of them."""
        steps, schedule = train.epochs * steps_per_epoch, train
        if self.steps is not None:
            steps = steps_per_epoch = self.steps
            short = {"epochs": 1, "schedule": "cosine", "milestones": [], "warmup_epochs": 0}
            schedule = train.model_copy(update=short)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], train.lr)
        scheduler = build_schedule(optimizer, schedule, steps_per_epoch)
        rates = []
        for _ in range(steps):
            rates.append(float(scheduler.get_last_lr()[0]))
            optimizer.step()
            scheduler.step()
        return rates


class Slopes(SearchKind[SlopeSettings]):
    """Differentiates a whole training by all cuts, see `sedona_nni.searches.slopes.slopes`.

    The training is greedy learning of whole batches in float32 in one process, without averages,
    whatever ``method``, ``amp``, ``accumulate``, ``parallel`` and ``ema_decay`` the trainings have.

    It reports after each leg of the training and of the way back ``step``, of ``steps``; ``loss``,
    the final head's in the leg, or ``hypergradient``, the norm of the derivative so far.

    Its ``default`` is the validation accuracy at the end of the relaxed training; its results also
    have ``loss``, that of the same images, and ``steps``.
    """

    name = "slopes"
    field = "slopes"
    settings = SlopeSettings
    outcome = SlopeResult
    noun = "slopes"
    default_is_accuracy = True
    uses_training = True

    def check(self, setup: SearchSetup, settings: SlopeSettings) -> None:
        """See `SearchKind.check`: auxiliary networks must be such that can be mixed at every
        boundary, and the optimizer one that is differentiated through."""
        assert setup.train is not None
        with torch.device("meta"):
            check_candidates(task_backbone(setup.task), setup.aux)
        for name, without in _NOT_DIFFERENTIATED.items():
            if (value := getattr(setup.train, name)) != without:
                rule = f"must be {json.dumps(without)} for slopes, which do not go through it"
                raise InputError.rule(f"train.{name}", rule, value)

    @float32_products(tf32=False)
    def run(self, setup: SearchSetup, settings: SlopeSettings) -> Findings:
        """See `SearchKind.run`.

        Raises:
            DivergedError: if the derivative is not finite.
            InputError: if a layer cannot be differentiated through.
        """
        assert setup.train is not None
        train = setup.train.model_copy(update={"seed": settings.seed})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = RelaxedNetwork(task_backbone(setup.task), setup.aux).to(setup.device)
        with torch.no_grad():
            network.alpha[:, 0] = math.log(settings.start_a_loc / (1 - settings.start_a_loc))
        kind = MixedLossesProblem if settings.mix == "losses" else InnerProblem
        problem = kind(network, inner_optimizer(train), LabelSmoothing(train.label_smoothing))
        check_layers(problem)

        stream = training_stream(setup.splits, train, setup.device)
        lrs = settings.rates(train, stream.batches_per_epoch)

        def batches(leg: range) -> list[Batch]:
            found = stream.iterate(leg.start)
            return [next(found) for _ in leg]

        setup.progress.kept(lambda content: content["step"], 0)  # its clocks go on

        def note(numbers: dict[str, float]) -> None:
            setup.progress.keep(step=numbers["step"])
            setup.report(numbers)

        keep = _Folder(setup.directory)
        moments = end_of_training(problem, batches, lrs, settings.seed, keep=keep, report=note)
        validation = BatchStream(
            setup.splits.validation, settings.validation_batch_size, settings.seed, setup.device
        )
        judged = next(validation.iterate())
        loss, accuracy, to_weights, to_statistics = problem.validation(moments[-1], judged)
        at_end = PulledBack(
            weights=to_weights,
            slots=torch.zeros_like(moments[-1].slots),
            statistics=to_statistics,
            alpha=torch.zeros_like(network.alpha),
            beta=torch.zeros_like(network.beta),
        )
        pulled = way_back(
            problem, moments, at_end, batches, lrs, settings.seed, keep=keep, report=note
        )
        found = slopes(network.alpha, network.beta, pulled.alpha, pulled.beta)
        if not bool(found.isfinite().all()):
            raise DivergedError(
                "slopes: the derivative of the training is not finite "
                f"({train.optimizer}, lr {train.lr}, {len(lrs)} steps)"
            )
        outcome = SlopeResult(
            backbone=setup.task.backbone,
            dataset=setup.task.dataset,
            aux_choices=list(setup.aux),
            slopes=found.tolist(),
            provenance={
                "strategy": self.name,
                "settings": settings.model_dump(mode="json"),
                "steps": len(lrs),
            },
        )
        return Findings(
            outcome,
            default=float(accuracy),
            images=len(lrs) * stream.batch_size,
            numbers={"loss": float(loss), "steps": len(lrs)},
        )


def inner_optimizer(train: TrainSettings) -> InnerOptimizer:
    """Return the optimizer of the trainings as one that is differentiated through."""
    if train.optimizer == "sgd":
        return Sgd(momentum=train.momentum, weight_decay=train.weight_decay)
    return Adam(weight_decay=train.weight_decay, decoupled=train.optimizer == "adamw")


class _Folder:
    """Tensors as files of a folder, which is made with the first; None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, name: str) -> dict[str, Tensor] | None:
        """See `sedona_nni.searches.slopes.slopes.Keep.load`."""
        if self._path is None or not (file := self._file(name)).exists():
            return None
        with reading(file, f"remove {self._path} to start again"):
            return load_file(file)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """See `sedona_nni.searches.slopes.slopes.Keep.save`."""
        if self._path is not None:
            self._path.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file(name), lambda path: save_file(tensors, path))

    def _file(self, name: str) -> Path:
        assert self._path is not None
        return self._path / f"{name}.safetensors"
