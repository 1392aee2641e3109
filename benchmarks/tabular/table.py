"""The trained results of a space as a document, and what can be asked of them.

The *truth* about a decoupling is its test accuracy, the mean over all seeds that it was trained
with. A *query* is what one training would tell a search: the validation accuracy with one seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from operator import attrgetter
from statistics import fmean
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Limits
from scipy.stats import spearmanr
from typing_extensions import Self

from benchmarks.record import Header
from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import Compute
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.files import Document
from sedona_nni.task import Task
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_layers

__all__ = ["Accuracy", "Clock", "Entry", "Field", "Table", "Training", "rank_correlation"]

Accuracy = Annotated[float, Limits(ge=0, le=1)]
Field = Literal["test_accuracy", "validation_accuracy"]


class Training(BaseModel):
    """One training of a decoupling.

    Attributes:
        seed: Its seed.
        validation_accuracy: Of the epoch that validated best.
        test_accuracy: Of the same weights.
        validation_loss: Likewise, nats.
        test_loss: Likewise, nats.
        best_epoch: That epoch, from 1.
        block_curves: Validation accuracy of each block's classifier after each epoch; the last
            block's is the network's.
        train_losses: Mean training loss of the final head in each epoch, nats.
        block_losses: That of each block's classifier, the last block's included; empty in tables
            that were made before it was kept.
        time_s: Seconds of training and validation; the machine was shared, so not to be compared.
        processor_s: Seconds of a processor that they took, which a shared machine prolongs less;
            None likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    validation_accuracy: Accuracy
    test_accuracy: Accuracy
    validation_loss: float
    test_loss: float
    best_epoch: int
    block_curves: tuple[tuple[Accuracy, ...], ...]
    train_losses: tuple[float, ...]
    block_losses: tuple[tuple[float, ...], ...] = ()
    time_s: float
    processor_s: float | None = None


class Entry(BaseModel):
    """A decoupling with its trainings.

    Attributes:
        cuts: Its cuts, rising boundaries.
        aux: Its auxiliary networks, one per cut.
        parameters: With auxiliary networks.
        macs: Per image, with auxiliary networks.
        largest_share: See `sedona_nni.decouplings.compute.Compute.largest_share`.
        peak_memory_mib: Of a training step, see `sedona_nni.trials.train.run_training`.
        trainings: One per seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cuts: tuple[int, ...]
    aux: tuple[str, ...]
    parameters: int
    macs: int
    largest_share: float
    peak_memory_mib: float
    trainings: tuple[Training, ...] = Limits(min_length=1)

    @property
    def num_blocks(self) -> int:
        """K."""
        return len(self.cuts) + 1

    @property
    def ideal_speedup(self) -> float:
        """What a pipeline with a device per block gains at best over back-propagation on one."""
        return 1 / self.largest_share

    def mean(self, field: Field) -> float:
        """Return the mean of a field over all trainings."""
        return math.fsum(getattr(each, field) for each in self.trainings) / len(self.trainings)


class Clock(BaseModel):
    """What trainings cost beside each other.

    Attributes:
        header: How it was timed, where, and with which versions.
        seconds: Of a processor that the same part of a training took, by `Decoupling.key`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: Header
    seconds: dict[str, float]


class Table(Document):
    """Everything that was trained.

    Attributes:
        headers: Of each run that it was made in: how, where, and with which versions.
        task: Backbone and data.
        aux_choices: Auxiliary networks of the space.
        train: Settings of every training, but for its seed.
        compute: What layers and auxiliary networks cost, MACs.
        entries: The decouplings, each once.
        clock: What their trainings cost, None if it was not timed. The trainings' own times are of
            machines that did other work meanwhile, and of several.
    """

    format: Literal["sedona-nni/tabular/2"] = "sedona-nni/tabular/2"
    headers: tuple[Header, ...]
    task: Task
    aux_choices: tuple[str, ...]
    train: TrainSettings
    compute: Compute
    entries: tuple[Entry, ...]
    clock: Clock | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self._by_decoupling) < len(self.entries):
            raise ValueError("entries must hold each decoupling once")
        return self

    @cached_property
    def _by_decoupling(self) -> dict[Decoupling, Entry]:
        return {self._decoupling(entry): entry for entry in self.entries}

    def _decoupling(self, entry: Entry) -> Decoupling:
        return Decoupling(backbone=self.task.backbone, cuts=list(entry.cuts), aux=list(entry.aux))

    @property
    def num_boundaries(self) -> int:
        """L - 1."""
        return task_layers(self.task) - 1

    def __getitem__(self, decoupling: Decoupling) -> Entry:
        """Return what is known of a decoupling.

        Raises:
            InputError: if nothing is.
        """
        if decoupling not in self._by_decoupling:
            raise InputError.rule("decoupling", "must be in the table", decoupling.key)
        return self._by_decoupling[decoupling]

    def decouplings(self, num_blocks: int, max_block_share: str | None = None) -> list[Decoupling]:
        """Return the decouplings into K blocks that were trained.

        Args:
            num_blocks: K.
            max_block_share: Only those within this bound, see `sedona_nni.decouplings.bounds`.

        Raises:
            InputError: if there are none.
        """
        bound = self.bound(max_block_share)
        found = [
            decoupling
            for decoupling in self._by_decoupling
            if decoupling.num_blocks == num_blocks and (bound is None or bound.respects(decoupling))
        ]
        if not found:
            within = "" if max_block_share is None else f" within {max_block_share}"
            rule = f"must be one of which a decoupling{within} was trained"
            raise InputError.rule("num_blocks", rule, num_blocks)
        return found

    def bound(self, max_block_share: str | None) -> BlockBound | None:
        """Return the bound that a share stands for."""
        return None if max_block_share is None else BlockBound(self.compute, max_block_share)

    def size(self, num_blocks: int) -> int:
        """Return how many decouplings into K blocks there are, trained or not."""
        cuts = num_blocks - 1
        return math.comb(self.num_boundaries, cuts) * len(self.aux_choices) ** cuts

    def check_complete(self, num_blocks: int) -> None:
        """Check that all decouplings into K blocks were trained, so that a search can roam freely.

        Raises:
            InputError: if not.
        """
        all_ = self.size(num_blocks)
        found = len(self.decouplings(num_blocks))
        if found < all_:
            raise InputError(
                f"num_blocks: must be one of which all decouplings were trained, but of the {all_} "
                f"into {num_blocks} blocks only {found} were"
            )

    @property
    def steps(self) -> int:
        """Steps of one training."""
        pool = self.task.train_limit
        if pool is None:
            raise InputError("task.train_limit: must be given")
        learned = pool - int(self.train.validation_fraction * pool)
        return self.train.epochs * -(-learned // self.train.batch_size)

    def truth(self, decoupling: Decoupling, without: int | None = None) -> float:
        """Return the mean test accuracy over all seeds.

        Args:
            decoupling: The decoupling.
            without: Leave this seed out, so that its own results can be compared with the rest.

        Raises:
            InputError: if the decoupling is not in the table, or has no other seed.
        """
        accuracies = [t.test_accuracy for t in self[decoupling].trainings if t.seed != without]
        if not accuracies:
            raise InputError.rule("without", "must leave a seed", without)
        return math.fsum(accuracies) / len(accuracies)

    def sum_of_cuts(self, decoupling: Decoupling) -> float:
        """Return the sum of the truths of a decoupling's cuts, each as if it were the only one.

        Raises:
            InputError: if one of these is not in the table.
        """
        backbone = decoupling.backbone
        return math.fsum(
            self.truth(Decoupling(backbone=backbone, cuts=[cut], aux=[name]))
            for cut, name in zip(decoupling.cuts, decoupling.aux, strict=True)
        )

    def of_seeds(self, kept: Callable[[int], bool]) -> Self:
        """Return a table of the trainings with some seeds, and of what was trained with these."""
        entries = []
        for entry in self.entries:
            if trainings := tuple(each for each in entry.trainings if kept(each.seed)):
                entries.append(entry.model_copy(update={"trainings": trainings}))
        return type(self).model_validate({**dict(self), "entries": entries})

    def rank(self, decoupling: Decoupling, among: Iterable[Decoupling]) -> int:
        """Return 1 + how many of some decouplings are truly better; equals share a rank."""
        own = self.truth(decoupling)
        return 1 + sum(self.truth(other) > own for other in among)

    def regret(self, decoupling: Decoupling, among: Iterable[Decoupling]) -> float:
        """Return by how much the best of some decouplings is truly better, at least 0."""
        own = self.truth(decoupling)
        return max(max((self.truth(other) for other in among), default=own) - own, 0.0)

    def draw(self, decoupling: Decoupling, rng: np.random.Generator) -> Training:
        """Return one of a decoupling's trainings."""
        trainings = self[decoupling].trainings
        return trainings[int(rng.integers(len(trainings)))]

    @property
    def undivided(self) -> Decoupling:
        """Back-propagation, which is the unit of clocks."""
        return Decoupling(backbone=self.task.backbone)

    def cost(self, decoupling: Decoupling) -> float:
        """Return what a training takes, in trainings without cuts, by processor time.

        Raises:
            InputError: if the table was not timed, or the decoupling is not on its clock.
        """
        seconds = {} if self.clock is None else self.clock.seconds
        if decoupling.key not in seconds:
            raise InputError.rule("clock", "must be there of all that is compared", decoupling.key)
        return seconds[decoupling.key] / seconds[self.undivided.key]

    def lead(self, decoupling: Decoupling, over: Decoupling) -> float:
        """Return by how much a decoupling's truth is above another's, by the seeds of both.

        Raises:
            InputError: if they have none in common.
        """
        by_seed = self.by_seed([decoupling, over], attrgetter("test_accuracy"))
        if not by_seed:
            raise InputError("decouplings: must have been trained with a seed in common")
        return fmean(first - second for first, second in by_seed.values())

    def seed_correlation(
        self,
        among: Sequence[Decoupling],
        field: Field = "test_accuracy",
    ) -> float:
        """Return how far one seed's ranking tells another's.

        That is the mean rank correlation (Spearman) of a field between any two seeds that all of
        some decouplings were trained with.

        Raises:
            InputError: if there are no two such seeds.
        """
        pairs = itertools.combinations(self._by_seed(among, field).tolist(), 2)
        return float(np.mean([rank_correlation(first, second) for first, second in pairs]))

    def error_of_difference(self, among: Sequence[Decoupling]) -> float:
        """Return the standard error of the difference between the truths about two decouplings.

        That is sqrt(2 s^2 / n) with n seeds and s^2 the variance of single test accuracies that
        neither their decoupling nor their seed explains, pooled over some decouplings.

        Raises:
            InputError: if there are not two seeds that all were trained with, or two decouplings.
        """
        accuracies = self._by_seed(among, "test_accuracy")
        seeds, count = accuracies.shape
        if count < 2:
            raise InputError.rule("decouplings", "must be at least 2", count)
        rest = accuracies - accuracies.mean(axis=0) - accuracies.mean(axis=1)[:, None]
        variance = ((rest + accuracies.mean()) ** 2).sum() / ((seeds - 1) * (count - 1))
        return float(np.sqrt(2 * variance / seeds))

    def by_seed(
        self, among: Sequence[Decoupling], number: Callable[[Training], float]
    ) -> dict[int, list[float]]:
        """Return a number of each decoupling's training, for each seed that all have in common."""
        seeds = set.intersection(*({t.seed for t in self[d].trainings} for d in among))
        return {
            seed: [next(number(t) for t in self[d].trainings if t.seed == seed) for d in among]
            for seed in sorted(seeds)
        }

    def _by_seed(self, among: Sequence[Decoupling], field: Field) -> np.ndarray:
        """Return the same for at least two seeds, shape (seeds, n)."""
        found = self.by_seed(among, attrgetter(field))
        if len(found) < 2:
            raise InputError("decouplings: must have been trained with two seeds in common")
        return np.array([*found.values()])


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where one of the two says nothing (all are equal)."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(spearmanr(first, second).statistic)
