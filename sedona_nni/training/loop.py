"""Training a decoupled network: epochs, validation, checkpoints, the best epoch, the test.

What becomes of one batch is the business of a method of `sedona_nni.training.methods`, by default
parallel greedy learning; `train` is the loop around it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sedona_nni.data.augmentation import build_mixing
from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.files import reading
from sedona_nni.models.placement import place
from sedona_nni.progress import tracked
from sedona_nni.training.evaluation import Evaluation, evaluate
from sedona_nni.training.methods import build_method
from sedona_nni.training.methods.method import Stateful
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage
from sedona_nni.training.weights import MODEL_FILE, save_weights

__all__ = [
    "DivergedError",
    "TrainResult",
    "dropout_seed",
    "train",
    "training_stream",
]

Report = Callable[[dict[str, float]], None]


class DivergedError(SedonaError):
    """The training loss is no longer a finite number; the hyperparameters are to blame.

    Examples:
        >>> from sedona_nni import (
        ...     DivergedError, Task, TrainSettings, build_decoupled, decoupling_by_rule,
        ...     load_splits, task_backbone, train,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> two_blocks = decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4)
        >>> network = build_decoupled(task_backbone(task), two_blocks)
        >>> splits = load_splits(task, validation_fraction=0.2)
        >>> try:
        ...     train(network, splits, TrainSettings(epochs=1, batch_size=20, lr=1e30))
        ... except DivergedError as error:
        ...     print(str(error).partition(":")[0])
        training diverged in epoch 1
    """


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
        processor_s: Seconds of processors that this process used meanwhile, all its threads
            together. A busy machine, which prolongs ``time_s``, adds little.

    Examples:
        >>> from sedona_nni import (
        ...     Task, TrainSettings, build_decoupled, decoupling_by_rule, load_splits,
        ...     task_backbone, train,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> two_blocks = decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4)
        >>> network = build_decoupled(task_backbone(task), two_blocks)
        >>> splits = load_splits(task, validation_fraction=0.2)
        >>> trained = train(network, splits, TrainSettings(epochs=1, batch_size=20))
        >>> trained.best_epoch, len(trained.test.accuracies)
        (1, 2)
    """

    best_epoch: int
    validation_accuracy: float
    validation_loss: float
    test: Evaluation
    time_s: float
    processor_s: float


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
        views=settings.views,
    )


def train(
    network: DecoupledNetwork,
    splits: Splits,
    settings: TrainSettings,
    *,
    device: torch.device | str = "cpu",
    report: Report = lambda numbers: None,
    directory: Path | str | None = None,
    stage: Stage | None = None,
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
            validation part), ``block_1_train_loss`` ... (each block's mean loss while learning),
            ``train_loss`` (the highest block's), ``epoch`` of ``epochs``, ``lr`` and what else the
            method tells; after an interruption also for the epochs before it.
        directory: Where to write ``checkpoint.pt`` and, at the end, ``model.safetensors``, whose
            metadata name the classes.
        stage: Which blocks of the whole ``network`` has; by default all. Of several processes, each
            calls this with its own, and has the same result.

    Raises:
        DivergedError: if a loss is not finite at the end of an epoch.
        InputError: if the checkpoint in ``directory`` was made with other settings or images, the
            method cannot train the network, see `method_settings.MethodSettings.check`, the network
            does not go with the images or has nothing that learns, or ``settings.parallel`` asks
            for processes, which the command ``sedona-nni train`` starts.

    Examples:
        >>> from sedona_nni import (
        ...     Task, TrainSettings, build_decoupled, decoupling_by_rule, load_splits,
        ...     task_backbone, train,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> two_blocks = decoupling_by_rule("uniform:2:mlp", "dgl-cnn4", 4)
        >>> network = build_decoupled(task_backbone(task), two_blocks)
        >>> splits = load_splits(task, validation_fraction=0.2)
        >>> settings = TrainSettings(epochs=2, batch_size=20, lr=0.05)
        >>> epochs = []
        >>> trained = train(network, splits, settings, report=epochs.append)
        >>> [numbers["epoch"] for numbers in epochs]
        [1, 2]
        >>> sorted(  # doctest: +NORMALIZE_WHITESPACE
        ...     name for name in epochs[0] if "epoch" not in name
        ... )
        ['block_1_accuracy', 'block_1_train_loss', 'block_2_accuracy', 'block_2_train_loss',
        'default', 'loss', 'lr', 'train_loss']
    """
    if stage is None and settings.parallel is not None and len(network.blocks) > 1:
        rule = "must be None in one process; the command sedona-nni train starts several"
        raise InputError.rule("parallel", rule, settings.parallel.name)
    device = torch.device(device)
    directory = None if directory is None else Path(directory)
    place(network, device)
    stage = Stage(len(network.blocks)) if stage is None else stage
    stream = training_stream(splits, settings, device)
    mix = build_mixing(settings.mixup, settings.cutmix, splits.num_classes)
    steps_per_epoch = stream.batches_per_epoch
    generators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators), warnings.catch_warnings():
        # In fp16 the very first updates are often skipped, and the schedule takes it for a mistake
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        torch.manual_seed(_initial_seed(settings.seed))
        elsewhere = None if stage.num_blocks == len(network.blocks) else stage
        method = build_method(network, settings, splits, steps_per_epoch, elsewhere)

        data = splits.identity
        progress = _Progress(
            settings.model_dump(mode="json"), data="" if data is None else data.fingerprint
        )
        if directory and (saved := stage.load(directory)):
            progress = _load(*saved, [network, method], progress)
            for numbers in progress.history:
                report({**numbers, "epochs": max(int(numbers["epoch"]), method.num_epochs)})

        started = time.perf_counter() - progress.time_s
        processor_started = time.process_time() - progress.processor_s
        batches = stream.iterate(start=len(progress.history) * steps_per_epoch)
        while not method.finished(len(progress.history)):
            epoch = len(progress.history) + 1
            method.start_epoch(epoch)
            stage.open([stream.batch_size] * steps_per_epoch)
            losses = torch.zeros(len(network.blocks), device=device)
            updates = [0] * len(network.blocks)
            steps = range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch)
            num_epochs = max(epoch, method.num_epochs)
            for step in tracked(
                steps,
                f"epoch {epoch} of {num_epochs}",
                done=steps.start,
                total=num_epochs * steps_per_epoch,
                shown=stage.tells,
            ):
                images, labels = next(batches)
                torch.manual_seed(dropout_seed(settings.seed, step))
                images, labels = map(stage.rows, mix(images, labels))
                try:
                    stepped = method.step(images, labels)
                except (RuntimeError, LookupError, TypeError) as error:
                    if not step and not elsewhere:
                        _check_fit(network, splits, images, error)
                    raise
                for block, loss in stepped.items():
                    losses[block - stage.first] += loss
                    updates[block - stage.first] += 1

            learned = max(0, method.num_validated - stage.first)  # of the blocks here
            stage.merge(method.result)
            judged = DecoupledNetwork(method.result.blocks[:learned])
            validation = evaluate(
                judged, splits.validation, settings, device, stage.up_to(method.num_validated)
            )
            losses /= torch.tensor(updates, device=device).clamp(min=1)
            found = stage.exchange(
                {"losses": losses.tolist(), "updates": updates, "numbers": method.numbers()}
            )
            all_losses = stage.mean_by_block([each["losses"] for each in found])
            all_updates = stage.mean_by_block([each["updates"] for each in found])
            if not all(map(math.isfinite, [*all_losses, validation.loss])):
                raise DivergedError(
                    f"training diverged in epoch {epoch}: the blocks' losses are "
                    f"{all_losses}, the validation loss is {validation.loss} "
                    f"({settings.optimizer}, lr {settings.lr})"
                )
            taught = [block for block, count in enumerate(all_updates) if count]
            numbers = {
                "default": validation.accuracies[-1],
                "loss": validation.loss,
                **validation.block_accuracies,
                **{f"block_{block + 1}_train_loss": all_losses[block] for block in taught},
                **({"train_loss": all_losses[taught[-1]]} if taught else {}),
                **{name: value for each in found for name, value in each["numbers"].items()},
                "epoch": epoch,
            }
            progress.history.append(numbers)
            progress.keep_best(method.result, method.num_validated)
            progress.time_s = time.perf_counter() - started
            progress.processor_s = time.process_time() - processor_started
            if directory:
                parts = [network.state_dict(), method.state_dict()]
                stage.save(directory, epoch, {**vars(progress), "parts": parts})
            report({**numbers, "epochs": num_epochs})

    network.load_state_dict(progress.best_network)
    test = evaluate(network, splits.test, settings, device, stage)
    if directory and (weights := stage.gather_weights(network.state_dict())) is not None:
        metadata = None if data is None else data.as_metadata()
        save_weights(weights, directory / MODEL_FILE, metadata)
    return TrainResult(
        progress.best_epoch,
        progress.best_accuracy,
        progress.history[progress.best_epoch - 1]["loss"],
        test,
        progress.time_s,
        progress.processor_s,
    )


def _check_fit(network: DecoupledNetwork, splits: Splits, images: Tensor, error: Exception) -> None:
    """Check that a first step did not fail for what a network is given, and what of it learns.

    Raises:
        InputError: if it did.
    """
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        return
    if "does not require grad" in str(error):
        rule = "must have weights that learn in each block"
        raise InputError.rule("network", rule, "a block without") from error
    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval().classifier_logits(images[:2])
    except Exception as refused:  # of code that is not ours
        for name, parameter in network.named_parameters():
            if parameter.dtype != torch.float32:
                rule = "must have weights in float32; half precision is the setting amp"
                raise InputError.rule("network", rule, f"{parameter.dtype} at {name}") from error
        rule = f"must take images of the shape {tuple(images.shape[1:])}"
        raise InputError.rule("network", rule, f"{type(refused).__name__}: {refused}") from error
    finally:
        network.train(training)
    for each in logits:
        if each.shape[1] < splits.num_classes:
            rule = f"must have a logit for each of the {splits.num_classes} classes"
            raise InputError.rule("network", rule, each.shape[1]) from error


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
    processor_s: float = 0.0

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


def _load(
    path: Path, state: dict[str, Any], parts: Sequence[Stateful], fresh: _Progress
) -> _Progress:
    remedy = "remove it to start again"
    with reading(path, remedy):
        settings = TrainSettings.model_validate(state["settings"])  # also one of fewer options
        data = state.setdefault("data", fresh.data)  # older ones do not say which images
    if settings != TrainSettings.model_validate(fresh.settings):
        raise InputError(f"directory: {path} was made with other training settings")
    if fresh.data and data and data != fresh.data:
        raise InputError(f"directory: {path} was made with other images")
    with reading(path, remedy):
        for part, saved in zip(parts, state.pop("parts"), strict=True):
            part.load_state_dict(saved)
        return _Progress(**state)


def dropout_seed(seed: int, step: int) -> int:
    """Mix the two, so that neighbouring seeds and steps share nothing."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def _initial_seed(seed: int) -> int:
    """The seed of what a method draws before its first step; different from that of any step."""
    return int(np.random.SeedSequence((seed, 0, 1)).generate_state(1)[0])
