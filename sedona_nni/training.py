"""Training a decoupled network: epochs, validation, checkpoints, the best epoch, the test.

What becomes of one batch is the business of a method of `sedona_nni.methods`, by default parallel
greedy learning; `train` is the loop around it.
Source of the defaults and of the ensemble of the last classifiers: the public SEDONA release.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Self

from sedona_nni.augmentation import Augmentation, build_mixing
from sedona_nni.batches import BatchStream, ImageSet, evaluation_batches
from sedona_nni.data import Splits
from sedona_nni.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import read_tensors, reading, write_atomically
from sedona_nni.losses import LabelSmoothing
from sedona_nni.methods import AnyMethod, build_method
from sedona_nni.methods.greedy import GreedySettings
from sedona_nni.methods.method import Precision, Stateful, autocast
from sedona_nni.placement import lay_out, place
from sedona_nni.progress import tracked
from sedona_nni.seed import Seed

__all__ = [
    "CHECKPOINT_FILE",
    "MODEL_FILE",
    "DivergedError",
    "Evaluation",
    "TrainResult",
    "TrainSettings",
    "block_accuracies",
    "ensemble_votes",
    "evaluate",
    "train",
    "training_stream",
]

CHECKPOINT_FILE = "checkpoint.pt"
MODEL_FILE = "model.safetensors"

Report = Callable[[dict[str, float]], None]
Vote = Literal["log-probabilities", "logits", "probabilities"]


class DivergedError(SedonaError):
    """The training loss is no longer a finite number; the hyperparameters are to blame."""


class TrainSettings(BaseModel):
    """How a decoupled network is trained; the defaults are the release's for CIFAR-10.

    Attributes:
        method: How the blocks learn, see `sedona_nni.methods`: the name of a method, or its name
            and options.
        epochs: Passes over the training images (the release: 64,000 batches of 128, 182 passes),
            of each block where a method does not train all of them at once.
        batch_size: Images per step, or all where there are fewer.
        evaluation_batch_size: Images at a time when nothing is learned.
        optimizer: ``sgd``, ``adam``, or ``adamw``, whose weight decay is apart from its gradients;
            one per block.
        lr: Learning rate at the start.
        lr_min: Learning rate at the end of the cosine schedule, at most ``lr``.
        warmup_epochs: Epochs in which the rate first rises linearly from lr / 100 to lr; a cosine
            begins after them, milestones count from the start. The asynchronous and the sequential
            method warm each block up.
        momentum: Momentum of ``sgd``.
        nesterov: Let ``sgd`` look ahead along its momentum.
        weight_decay: Factor of the L2 penalty's gradient.
        schedule: ``cosine`` from lr to lr_min, step by step, or ``multistep``.
        milestones: Epochs after which ``multistep`` lowers the rate.
        lr_decay: Factor on the rate at each milestone.
        clip_norm: Longest that the gradient of a block may be, taken by itself, or of a
            synthesizer; a longer one is scaled down. By default any.
        ema_decay: Share d that moving averages keep at each update of a block, of its weights and
            its batch norms' statistics: d average + (1 - d) value. The network of averages is then
            what is validated, tested and kept. By default there are none.
        label_smoothing: eps of `sedona_nni.losses.LabelSmoothing`.
        augmentation: How training images are distorted: as the ``dataset`` says, see
            `sedona_nni.data`; ``none``; or so and further by ``randaugment``, ``trivialaugment`` or
            ``augmix``, see `sedona_nni.augmentation`.
        mixup: alpha of mixup, which adds up images in pairs, and their labels; 0 for none.
        cutmix: alpha of CutMix, which puts a part of one image into another; with both, one is
            drawn for each batch.
        validation_fraction: Share of the training images held out to pick the best epoch.
        classes_per_batch: Classes that a batch is made of, see `sedona_nni.batches.BatchStream`; by
            default any (the release for PredSim: 40).
        class_limited_epochs: Epochs until batches may have any classes; by default they never may
            (the release for PredSim: those that begin in its first 15,000 steps).
        ensemble: Also test the last so many classifiers together (all, where there are fewer).
        ensemble_vote: What these add up: ``log-probabilities``; or ``logits`` or ``probabilities``,
            of which each classifier's count twice as much as those of the one below it (DGL).
        amp: Mixed precision: ``no``, ``fp16`` (with loss scaling) or ``bf16``.
        seed: Decides initial weights, order of the images, augmentation and dropout.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: AnyMethod = GreedySettings()
    epochs: int = Field(default=182, ge=1)
    batch_size: int = Field(default=128, ge=2)  # batch norm cannot learn from a single image
    evaluation_batch_size: int = Field(default=1024, ge=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    lr_min: float = Field(default=0.001, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "multistep"] = "cosine"
    milestones: list[int] = Field(default_factory=list)
    lr_decay: float = Field(default=0.1, gt=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, le=0.5)
    augmentation: Augmentation = "dataset"
    mixup: float = Field(default=0, ge=0)
    cutmix: float = Field(default=0, ge=0)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    classes_per_batch: int | None = Field(default=None, ge=1)
    class_limited_epochs: int | None = Field(default=None, ge=1)
    ensemble: int = Field(default=1, ge=1)
    ensemble_vote: Vote = "log-probabilities"
    amp: Precision = "no"
    seed: Seed = 2021

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule == "cosine" and self.lr_min > self.lr:
            raise ValueError(f"lr_min must be at most lr, {self.lr}, but got {self.lr_min}")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise ValueError(
                "milestones must be given for the multistep schedule and for no other, "
                f"but got {self.milestones} for {self.schedule}"
            )
        if self.class_limited_epochs is not None and self.classes_per_batch is None:
            raise ValueError(
                "class_limited_epochs must come with classes_per_batch, "
                f"but got {self.class_limited_epochs} alone"
            )
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError(
                "nesterov must come with sgd and a momentum above 0, "
                f"but got {self.optimizer} and {self.momentum}"
            )
        if self.warmup_epochs > min([self.epochs - 1, *self.milestones]):
            raise ValueError(
                f"warmup_epochs must be below epochs, {self.epochs}, and at most the first "
                f"milestone, but got {self.warmup_epochs}"
            )
        ends = [0, *self.milestones, self.epochs]
        if self.milestones and any(a >= b for a, b in pairwise(ends)):
            raise ValueError(
                f"milestones must rise from 1 to {self.epochs - 1}, but got {self.milestones}"
            )
        return self


@dataclass(frozen=True)
class Evaluation:
    """What a network does on a set of images.

    Attributes:
        loss: Mean loss of the final head.
        accuracies: Share of images that each classifier gets right, see
            `DecoupledNetwork.classifier_logits`; the last is the head.
        ensemble_accuracy: That of the last n classifiers together.
    """

    loss: float
    accuracies: list[float]
    ensemble_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """What a training came to; the epoch with the best validation accuracy is what was tested.

    Attributes:
        best_epoch: That epoch, from 1; the earliest of equals, of those in which the last block
            learned.
        validation_accuracy: Accuracy of the final head on the validation part.
        validation_loss: Its mean loss there.
        test: The same weights on the test part.
        time_s: Seconds of training and validation, those before an interruption included.
    """

    best_epoch: int
    validation_accuracy: float
    validation_loss: float
    test: Evaluation
    time_s: float


@torch.no_grad()
def evaluate(
    network: DecoupledNetwork,
    dataset: ImageSet,
    settings: TrainSettings,
    device: torch.device | str,
) -> Evaluation:
    """Try every classifier on every image, in evaluation mode.

    Args:
        network: The network, on ``device`` (`placement.place`); it is left in evaluation mode.
        dataset: The images.
        settings: Gives batch size, smoothing of the loss, precision, and the ensemble's size and
            vote.
        device: Where to compute.
    """
    network.eval()
    criterion = LabelSmoothing(settings.label_smoothing)
    counts = torch.zeros(len(network.classified) + 1, device=device)
    loss = torch.zeros((), device=device)
    for images, labels in evaluation_batches(dataset, settings.evaluation_batch_size, device):
        with autocast(images.device, settings.amp):
            logits = network.classifier_logits(lay_out(images))
        logits = [part.float() for part in logits]
        together = ensemble_votes(logits[-settings.ensemble :], settings.ensemble_vote)
        counts += torch.stack([(votes.argmax(1) == labels).sum() for votes in (*logits, together)])
        loss += criterion(logits[-1], labels) * len(labels)
    *accuracies, ensemble_accuracy = (counts / len(dataset)).tolist()
    return Evaluation(loss.item() / len(dataset), accuracies, ensemble_accuracy)


def ensemble_votes(logits: Sequence[Tensor], vote: Vote) -> Tensor:
    """Return how much several classifiers together are for each class, (B, classes).

    With z_i the logits of classifier i, lowest first, this is the sum over i of log softmax(z_i)
    for ``log-probabilities``, of 2^i z_i for ``logits``, and of 2^i softmax(z_i) for
    ``probabilities``. Sources: the public SEDONA release; DGL's for CIFAR-10 and for ImageNet.

    Args:
        logits: One tensor per classifier, (B, classes).
        vote: Which sum.
    """
    parts = torch.stack(list(logits))
    if vote == "log-probabilities":
        return parts.log_softmax(2).sum(0)
    if vote == "probabilities":
        parts = parts.softmax(2)
    weights = 2.0 ** torch.arange(len(parts), device=parts.device)
    return torch.einsum("i,ibc->bc", weights, parts)


def block_accuracies(network: DecoupledNetwork, evaluation: Evaluation) -> dict[str, float]:
    """Return the accuracies by name, ``block_1_accuracy`` ... of the blocks with a classifier."""
    return {
        f"block_{index + 1}_accuracy": accuracy
        for index, accuracy in zip(network.classified, evaluation.accuracies, strict=True)
    }


def training_stream(
    splits: Splits, settings: TrainSettings, device: torch.device | str
) -> BatchStream:
    """Return the batches that a training learns from, before they are mixed."""
    return BatchStream(
        splits.train.augmented(settings.augmentation),
        settings.batch_size,
        settings.seed,
        device,
        classes_per_batch=settings.classes_per_batch,
        class_limited_passes=settings.class_limited_epochs,
    )


def train(
    network: DecoupledNetwork,
    splits: Splits,
    settings: TrainSettings,
    *,
    device: torch.device | str = "cpu",
    report: Report = lambda numbers: None,
    directory: Path | None = None,
) -> TrainResult:
    """Train every block, keep the epoch that validates best, test that one once.

    As long as the method has not come to the upper blocks, what is validated is the network up to
    the highest block that has learned, with this block's classifier as its head; the best epoch is
    one in which it was the whole network. The network ends with the best epoch's weights.

    After each epoch a checkpoint is written to ``directory``; called again with the same network,
    data and settings, training goes on from it.
    On a CPU, with as many threads, the outcome is then the same to the bit: what is random in step
    n depends on the seed and on n alone. Torch's global generators are left as they were.

    Args:
        network: What to train; it is moved to ``device``.
        splits: The images.
        settings: How.
        device: Where.
        report: Called after every epoch with ``default`` (the final head's validation accuracy),
            ``loss`` (its validation loss), ``block_1_accuracy`` ... ``block_K_accuracy`` (on the
            validation part), ``train_loss`` (mean of the highest losses while learning), ``epoch``
            of ``epochs``, ``lr`` and what else the method tells; after an interruption also for the
            epochs before it.
        directory: Where to write ``checkpoint.pt`` and, at the end, ``model.safetensors``, whose
            metadata name the classes.

    Raises:
        DivergedError: if a loss is not finite at the end of an epoch.
        InputError: if the checkpoint in ``directory`` was made with other settings or images, or
            the method cannot train the network, see `sedona_nni.methods.MethodSettings.check`.
    """
    device = torch.device(device)
    place(network, device)
    stream = training_stream(splits, settings, device)
    mix = build_mixing(settings.mixup, settings.cutmix, splits.num_classes)
    steps_per_epoch = stream.batches_per_epoch
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators), warnings.catch_warnings():
        # In fp16 the very first updates are often skipped, and the schedule takes it for a mistake
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        torch.manual_seed(_initial_seed(settings.seed))
        method = build_method(network, settings, splits, steps_per_epoch)

        data = splits.identity
        progress = _Progress(
            settings.model_dump(mode="json"), data="" if data is None else data.fingerprint
        )
        checkpoint = directory / CHECKPOINT_FILE if directory else None
        if checkpoint and checkpoint.exists():
            progress = _load(checkpoint, [network, method], progress)
            for numbers in progress.history:
                report({**numbers, "epochs": max(int(numbers["epoch"]), method.num_epochs)})

        started = time.perf_counter() - progress.time_s
        batches = stream.iterate(start=len(progress.history) * steps_per_epoch)
        while not method.finished(len(progress.history)):
            epoch = len(progress.history) + 1
            method.start_epoch(epoch)
            losses = torch.zeros(len(network.blocks), device=device)
            updates = [0] * len(network.blocks)
            steps = range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch)
            num_epochs = max(epoch, method.num_epochs)
            for step in tracked(
                steps,
                f"epoch {epoch} of {num_epochs}",
                done=steps.start,
                total=num_epochs * steps_per_epoch,
            ):
                images, labels = next(batches)
                torch.manual_seed(_dropout_seed(settings.seed, step))
                for block, loss in method.step(*mix(images, labels)).items():
                    losses[block] += loss
                    updates[block] += 1

            judged = DecoupledNetwork(method.result.blocks[: method.num_validated])
            validation = evaluate(judged, splits.validation, settings, device)
            losses /= torch.tensor(updates, device=device).clamp(min=1)
            if not (losses.isfinite().all() and math.isfinite(validation.loss)):
                raise DivergedError(
                    f"training diverged in epoch {epoch}: the blocks' losses are "
                    f"{losses.tolist()}, the validation loss is {validation.loss} "
                    f"({settings.optimizer}, lr {settings.lr})"
                )
            learned = [block for block, count in enumerate(updates) if count]
            numbers = {
                "default": validation.accuracies[-1],
                "loss": validation.loss,
                **block_accuracies(judged, validation),
                **({"train_loss": losses[learned[-1]].item()} if learned else {}),
                **method.numbers(),
                "epoch": epoch,
            }
            progress.history.append(numbers)
            progress.keep_best(method.result, method.num_validated)
            progress.time_s = time.perf_counter() - started
            if checkpoint:
                _save(checkpoint, [network, method], progress)
            report({**numbers, "epochs": num_epochs})

    network.load_state_dict(progress.best_network)
    if directory:
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        metadata = None if data is None else data.as_metadata()
        write_atomically(directory / MODEL_FILE, lambda path: save_file(weights, path, metadata))
    return TrainResult(
        progress.best_epoch,
        progress.best_accuracy,
        progress.history[progress.best_epoch - 1]["loss"],
        evaluate(network, splits.test, settings, device),
        progress.time_s,
    )


@dataclass
class _Progress:
    """What has to outlive an interruption besides the states of network and optimizers."""

    settings: dict[str, Any]
    data: str = ""
    history: list[dict[str, float]] = field(default_factory=list)
    num_validated: int = 0
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_network: dict[str, Tensor] = field(default_factory=dict)
    time_s: float = 0.0

    def keep_best(self, network: DecoupledNetwork, num_validated: int) -> None:
        """Keep the network of the last epoch if none with as many blocks was better."""
        accuracy = self.history[-1]["default"]
        if num_validated > self.num_validated or accuracy > self.best_accuracy:
            self.num_validated = num_validated
            self.best_accuracy = accuracy
            self.best_epoch = len(self.history)
            self.best_network = {
                name: tensor.to("cpu", copy=True) for name, tensor in network.state_dict().items()
            }


def _save(path: Path, parts: Sequence[Stateful], progress: _Progress) -> None:
    state = {**vars(progress), "parts": [part.state_dict() for part in parts]}
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def _load(path: Path, parts: Sequence[Stateful], fresh: _Progress) -> _Progress:
    remedy = "remove it to start again"
    with reading(path, remedy):
        state = read_tensors(path)
        settings = TrainSettings.model_validate(state["settings"])  # also one of fewer options
        data = state.setdefault("data", fresh.data)  # older ones do not say which images
    if settings.model_dump(mode="json") != fresh.settings:
        raise InputError(f"directory: {path} was made with other training settings")
    if fresh.data and data and data != fresh.data:
        raise InputError(f"directory: {path} was made with other images")
    with reading(path, remedy):
        for part, saved in zip(parts, state.pop("parts"), strict=True):
            part.load_state_dict(saved)
        return _Progress(**state)


def _dropout_seed(seed: int, step: int) -> int:
    """Mix the two, so that neighbouring seeds and steps share nothing."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def _initial_seed(seed: int) -> int:
    """The seed of what a method draws before its first step; different from that of any step."""
    return int(np.random.SeedSequence((seed, 0, 1)).generate_state(1)[0])
