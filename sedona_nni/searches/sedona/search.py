"""SEDONA: the search for where to cut a backbone and with which auxiliary networks.

Notation: w weights, alpha and beta the logits of the relaxation (`relaxation`).

    1. Pre-train the relaxed network with uniform alpha, beta; keep moments of it in a memory.
    2. Repeat: take a moment w_0 from the memory,
               look T training steps ahead, w_0 -> w_T(alpha, beta)      the inner level
               move (alpha, beta) against d CE(w_T) / d (alpha, beta)    the outer level
               train one step from w_0 with the new (alpha, beta) and put the result back.
    3. Discretise, for any K: `sedona_nni.decouplings.choice.discretise`, by the size of alpha and
       beta or, where that is wanted, by `perturbation`.

They are the loops of `Search.steps`.
Source: Pyeon et al., "SEDONA: Search for Decoupled Neural Networks toward Greedy Block-wise
Learning", ICLR 2021. Every departure from the paper and its release: docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sedona_nni.data.batches import Batch, BatchStream, ImageSet
from sedona_nni.data.sets import Splits
from sedona_nni.searches.sedona.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from sedona_nni.searches.sedona.cuda_graphs import Graphs
from sedona_nni.searches.sedona.frank_wolfe import FrankWolfe
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import (
    Adam,
    InnerOptimizer,
    InnerProblem,
    Sgd,
    TrainingState,
)
from sedona_nni.searches.sedona.layer_check import check_layers
from sedona_nni.searches.sedona.meta_optimizer import MetaAdam, MetaOptimizer, MetaSgd
from sedona_nni.searches.sedona.mixed_losses import MixedLossesProblem
from sedona_nni.searches.sedona.perturbation import perturbed
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.release_mode import ReleaseProblem, release_hypergradient
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.searches.sedona.weight_memory import WeightMemory
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import DivergedError
from sedona_nni.training.precision import float32_products

__all__ = ["DROPOUT", "SNAPSHOT_DRAW", "Search", "inner_optimizer", "problem_kind", "search"]

Report = Callable[[dict[str, float]], None]

SNAPSHOT_DRAW, DROPOUT = 0, 1  # what random numbers are for, so that the two never coincide


def search(
    network: RelaxedNetwork,
    splits: Splits,
    settings: SearchSettings,
    *,
    device: torch.device | str = "cpu",
    report: Report = lambda numbers: None,
    directory: Path | str | None = None,
) -> SearchResult:
    """Search where to cut a network, and with which auxiliary networks.

    Called again with the same directory, and the same network, images and settings, an interrupted
    search goes on from its last checkpoint; on a CPU it ends with the same result to the bit, as
    what is random in step n depends on the seed and on n alone. Torch's global generators are left
    as they were.

    Args:
        network: The relaxed network, fresh; it is moved to ``device``, and ends with the last
            alpha and beta.
        splits: The images; the training part moves weights, the validation part alpha and beta.
        settings: How. Their ``validation_fraction`` is for whoever splits.
        device: Where.
        report: Called after every step with its numbers, see `Search.advance`, and ``step``, the
            number of steps done.
        directory: Where to keep checkpoints.

    Raises:
        InputError: if the directory holds the checkpoint of another search; or before the first
            step, if a layer's training cannot be differentiated through.
        DivergedError: if a loss or the hypergradient is no longer finite.

    Examples:
        >>> from sedona_nni import (
        ...     RelaxedNetwork, SearchSettings, Task, discretise, load_splits, search,
        ...     task_backbone,
        ... )
        >>> task = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=100)
        >>> network = RelaxedNetwork(task_backbone(task), ["conv1", "mlp"])
        >>> settings = SearchSettings(pretrain_steps=2, meta_steps=2, inner_steps=2, batch_size=20)
        >>> splits = load_splits(task, settings.validation_fraction)
        >>> steps = []
        >>> found = search(network, splits, settings, report=steps.append)
        >>> [numbers["step"] for numbers in steps]
        [1, 2, 3, 4]
        >>> discretise(found, num_blocks=2).num_blocks
        2
    """
    data = splits.identity
    under_way = Search(network.to(device), settings, None if data is None else data.fingerprint)
    folder = None if directory is None else Path(directory)
    under_way.run(splits.train, splits.validation, report=report, directory=folder)
    return under_way.result("unnamed" if data is None else data.dataset)


class Search:
    """A search under way: the algorithm, and all that changes from step to step.

    Attributes:
        network: The relaxed network. Its alpha and beta are what is searched for; its weights are
            those of the latest training step.
        settings: How it searches.
        data: Fingerprint of its images, None if nobody said it.
        problem: The inner level: a training step as a differentiable map.
        meta_optimizer: The outer level's, of alpha and beta.
        memory: Moments of training that meta-steps start from.
        state: Where the latest training step has led.
        perturbed: Validation losses by perturbation, those so far, see `SearchResult`.
        step: Steps done, of `total_steps`.
        train_batches_used: Training batches consumed; a resumed search goes on with the next.
        validation_batches_used: Likewise for validation.
    """

    def __init__(
        self, network: RelaxedNetwork, settings: SearchSettings, data: str | None = None
    ) -> None:
        """Choose what to search and how.

        Args:
            network: The relaxed network, as it is at the start, on its device.
            settings: How.
            data: Fingerprint of the images; a checkpoint of other images is not gone on with.
        """
        self.network = network
        self.settings = settings
        self.data = data
        self.problem: InnerProblem = problem_kind(settings)(
            network, inner_optimizer(settings), LabelSmoothing(settings.label_smoothing)
        )
        if settings.cuda_graphs and network.alpha.device.type == "cuda":
            self.problem.launch = Graphs(network.alpha.device)
        with torch.no_grad():
            network.alpha[:, 0] = network.alpha[:, 1] + math.log(
                settings.start_a_loc / (1 - settings.start_a_loc)
            )
        self.meta_optimizer = _meta_optimizer(settings, network.alpha, network.beta)
        self.memory = WeightMemory(settings.memory_size, settings.eviction)
        self.state = self.problem.state()
        self.perturbed: list[float] = []
        self._compared_on: tuple[list[Batch], Batch] | None = None
        if settings.pretrain_steps == 0:
            self.memory.store(self.problem.packed(self.state), error=1.0)
        self.step = 0
        self.train_batches_used = 0
        self.validation_batches_used = 0

    @property
    def total_steps(self) -> int:
        """Pre-training steps, meta-steps and, if there are any, perturbations together."""
        return self._searching_steps + (self._choices if self.settings.perturbation_steps else 0)

    @property
    def _searching_steps(self) -> int:
        return self.settings.pretrain_steps + self.settings.meta_steps

    @property
    def _choices(self) -> int:
        """(L-1) (1 + C)."""
        return self.network.beta.shape[0] * (1 + self.network.beta.shape[1])

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def steps(
        self, train: Iterator[Batch], validation: Iterator[Batch]
    ) -> Iterator[dict[str, float]]:
        """Do one step after the other, those that are left, and yield the numbers of each.

        Takes and yields what `advance` does.

        Raises:
            InputError: before the first step, if a layer cannot be differentiated through, see
                `layer_check`.
        """
        settings, network, memory = self.settings, self.network, self.memory
        if self.step == 0:
            with float32_products(tf32=False):
                check_layers(self.problem)
        differentiate = release_hypergradient if settings.release_mode else hypergradient

        # 1. Pre-training: w <- w - lr g(w, alpha, beta), with alpha and beta as they began
        while self.step < settings.pretrain_steps:
            with float32_products(tf32=settings.tf32):
                numbers = self._train_from(self.state, train)
                if self._is_to_be_kept(self.step):
                    batch = self._next(validation=validation)
                    _, accuracy, *_ = self.problem.validation(self.state, batch)
                    memory.store(self.problem.packed(self.state), error=1 - float(accuracy))
            yield self._after_step(numbers)

        # 2. Meta-steps
        while self.step < self._searching_steps:
            # w_0, and ahead of it w_T(alpha, beta) with its validation loss, differentiated
            w_0 = self._take_snapshot()
            with float32_products(tf32=settings.tf32):
                ahead = differentiate(
                    self.problem,
                    w_0,
                    [self._next(train=train) for _ in range(settings.inner_steps)],
                    self._next(validation=validation),
                    lrs=[self.lr_at(w_0.step)] * settings.inner_steps,
                    seed=self.seed_of(DROPOUT, 0),
                )
                # (alpha, beta) <- (alpha, beta) - meta_lr d CE(w_T) / d (alpha, beta), by its
                # optimizer
                self.meta_optimizer.step(ahead.alpha, ahead.beta)
                # w_0 <- w_0 - lr g(w_0, alpha, beta), with the new alpha and beta
                numbers = self._train_from(w_0, train)
            memory.store(self.problem.packed(self.state), error=1 - float(ahead.meta_accuracy))
            numbers |= {
                "meta_loss": float(ahead.meta_loss),
                "meta_accuracy": float(ahead.meta_accuracy),
                "hypergradient": float(torch.cat([ahead.alpha, ahead.beta], dim=1).norm()),
            }
            yield self._after_step(numbers)

        # 3. Selection by perturbation: each choice from the same weights, with the same images
        while not self.done:
            start = self._most_trained()
            if self._compared_on is None:
                steps = range(settings.perturbation_steps)
                self._compared_on = [next(train) for _ in steps], next(validation)
            boundary, choice = divmod(len(self.perturbed), 1 + len(network.aux_choices))
            lrs = self._lrs_of_perturbation()
            with float32_products(tf32=settings.tf32):
                loss, accuracy = perturbed(
                    self.problem,
                    start,
                    boundary,
                    choice,
                    *self._compared_on,
                    lrs=lrs,
                    seed=settings.seed,
                )
            self.perturbed.append(float(loss))
            numbers = {"meta_loss": float(loss), "meta_accuracy": float(accuracy), "lr": lrs[0]}
            yield self._after_step(numbers)

    def _train_from(self, start: TrainingState, train: Iterator[Batch]) -> dict[str, float]:
        """Do one training step with the present alpha and beta; it becomes the current state."""
        lr = self.lr_at(start.step)
        self.state, losses = self.problem.step(
            start, self._next(train=train), lr, self.seed_of(DROPOUT, 1)
        )
        local = losses[:-1].mean() if len(losses) > 1 else losses[-1]
        return {"train_loss": float(losses[-1]), "local_loss": float(local), "lr": lr}

    def _after_step(self, numbers: dict[str, float]) -> dict[str, float]:
        """Let the network have the current weights, and count the step.

        Raises:
            DivergedError: if a number of the step is not finite.
        """
        if not all(map(math.isfinite, numbers.values())):
            said = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
            raise DivergedError(
                f"the search diverged in step {self.step + 1}: {said} ({self.settings.optimizer})"
            )
        self.problem.load(self.state)
        self.step += 1
        with torch.no_grad():
            a = self.network.alpha.softmax(1)
            numbers["decided"] = float((a[:, 0] - a[:, 1]).abs().mean())
        return numbers

    def advance(self, train: Iterator[Batch], validation: Iterator[Batch]) -> dict[str, float]:
        """Do one step of pre-training or, when that is over, one meta-step; not after the last.

        Args:
            train: Training batches, on the network's device.
            validation: Validation batches, likewise. Not all steps need one.

        Returns:
            Numbers to plot: ``train_loss`` and ``local_loss`` (final head and mean of the
            auxiliary networks, nats), ``lr``, ``decided`` (mean of |a^loc - a^up|); of a meta-step
            also ``meta_loss`` (nats), ``meta_accuracy`` (fraction) and ``hypergradient`` (norm).
        """
        return next(self.steps(train, validation))

    def run(
        self,
        train: ImageSet,
        validation: ImageSet,
        *,
        report: Report = lambda numbers: None,
        directory: Path | None = None,
        checkpoint_every: int = 25,
    ) -> None:
        """Do all steps, or those that an interrupted search has left, see `search`.

        Args:
            train: Images to train on.
            validation: Images to validate on.
            report: See `search`.
            directory: See `search`.
            checkpoint_every: Steps between checkpoints.
        """
        if directory is not None and has_checkpoint(directory):
            load_checkpoint(self, directory)
        batches, validation_batches = self.streams(train, validation)
        for numbers in self.steps(
            batches.iterate(self.train_batches_used),
            validation_batches.iterate(self.validation_batches_used),
        ):
            report({**numbers, "step": self.step})
            if directory is not None and (self.done or self.step % checkpoint_every == 0):
                save_checkpoint(self, directory)

    def images(self, train: ImageSet, validation: ImageSet) -> int:
        """Return how many images the steps so far have trained on or validated with, repeats
        counted: selection by perturbation shows each choice the same ones."""
        of_training, of_validation = self.streams(train, validation)
        choices = len(self.perturbed)
        batches = self.train_batches_used + choices * self.settings.perturbation_steps
        validated = self.validation_batches_used + choices
        return batches * of_training.batch_size + validated * of_validation.batch_size

    def streams(self, train: ImageSet, validation: ImageSet) -> tuple[BatchStream, BatchStream]:
        """Return the training and the validation batches of the search."""
        settings, device = self.settings, self.network.alpha.device
        seeds = [int(seed) for seed in np.random.SeedSequence(settings.seed).generate_state(2)]
        return (
            BatchStream(train, settings.batch_size, seeds[0], device),
            BatchStream(validation, settings.validation_batch_size, seeds[1], device),
        )

    def _next(
        self, *, train: Iterator[Batch] | None = None, validation: Iterator[Batch] | None = None
    ) -> Batch:
        if train is not None:
            self.train_batches_used += 1
            return next(train)
        assert validation is not None
        self.validation_batches_used += 1
        return next(validation)

    def _is_to_be_kept(self, step: int) -> bool:
        """Return whether pre-training offers the moment after a step to the memory."""
        last = self.settings.pretrain_steps - 1
        every = max(1, self.settings.pretrain_steps // self.settings.num_snapshots)
        return step % every == 0 or step == last

    def _take_snapshot(self) -> TrainingState:
        generator = torch.Generator().manual_seed(self.seed_of(SNAPSHOT_DRAW, 0))
        return self.problem.unpacked(self.memory.take(generator))

    def lr_at(self, step: int) -> float:
        """Return the cosine from lr at step 0 to lr_min at the last of its steps and after."""
        return self._cosine(
            min(1.0, step / (self.settings.lr_steps or self.settings.pretrain_steps))
        )

    def _lrs_of_perturbation(self) -> list[float]:
        """Return the rate of each step of a perturbation: once more the cosine from lr to lr_min.

        Training has come down to lr_min by then, at which a choice would change little and, of 0,
        nothing at all.
        """
        count = self.settings.perturbation_steps
        return [self._cosine(step / count) for step in range(count)]

    def _cosine(self, progress: float) -> float:
        """Return the rate at a share of the way from lr to lr_min."""
        lr, lr_min = self.settings.lr, self.settings.lr_min
        return lr_min + (lr - lr_min) * (0.5 + 0.5 * math.cos(math.pi * progress))

    def seed_of(self, purpose: int, part: int) -> int:
        """Return a seed that depends on the search's seed, the step and the purpose alone."""
        entropy = [self.settings.seed, self.step, purpose, part]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])

    def show_most_trained(self) -> None:
        """Put the weights with the most training steps behind them into the network, to judge it.

        The search goes on as if nothing had happened. Meta-steps start from random moments of
        training, so that the latest weights say little about how far it has come.
        """
        self.problem.load(self._most_trained())

    def _most_trained(self) -> TrainingState:
        kept = [snapshot.state for snapshot in self.memory.snapshots]
        states = [self.problem.packed(self.state), *kept]
        return self.problem.unpacked(max(states, key=lambda state: state.step))

    def result(self, dataset: str) -> SearchResult:
        """Return what has been found so far; ``dataset`` names where."""
        network = self.network
        return SearchResult(
            backbone=network.backbone.name,
            dataset=dataset,
            aux_choices=list(network.aux_choices),
            alpha=network.alpha.tolist(),
            beta=network.beta.tolist(),
            perturbed=self._perturbed_by_boundary(),
            provenance={
                "strategy": "sedona",
                "settings": self.settings.model_dump(mode="json"),
                "steps_done": self.step,
            },
        )

    def _perturbed_by_boundary(self) -> list[list[float]] | None:
        if not self.settings.perturbation_steps or not self.done:
            return None
        width = 1 + len(self.network.aux_choices)
        return [self.perturbed[i : i + width] for i in range(0, len(self.perturbed), width)]


def problem_kind(settings: SearchSettings) -> type[InnerProblem]:
    """Return what computes a training step as settings say."""
    if settings.release_mode:
        return ReleaseProblem
    return MixedLossesProblem if settings.mix == "losses" else InnerProblem


def inner_optimizer(settings: SearchSettings) -> InnerOptimizer:
    """Return the optimizer of the weights that settings describe."""
    if settings.optimizer == "adam":
        return Adam(weight_decay=settings.weight_decay)
    return Sgd(momentum=settings.momentum, weight_decay=settings.weight_decay)


def _meta_optimizer(settings: SearchSettings, alpha: Tensor, beta: Tensor) -> MetaOptimizer:
    if settings.meta_num_blocks is not None:
        return FrankWolfe(alpha, beta, settings.meta_num_blocks)
    lr, weight_decay = settings.meta_lr, settings.meta_weight_decay
    if settings.meta_optimizer == "adam":
        return MetaAdam(alpha, beta, lr=lr, betas=settings.meta_betas, weight_decay=weight_decay)
    momentum = settings.meta_momentum
    return MetaSgd(alpha, beta, lr=lr, momentum=momentum, weight_decay=weight_decay)
