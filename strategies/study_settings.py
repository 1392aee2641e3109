"""Settings of a study: strategies that choose decouplings, compared at the same cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import Field

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, uniform_cuts
from sedona_nni.errors import InputError
from sedona_nni.models import num_layers
from sedona_nni.reporting.trial import StudySpace
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.strategies.settings import CommonSettings
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import check_auxiliary
from sedona_nni.training.task_backbone import task_backbone

__all__ = [
    "StudySettings",
    "check_space",
    "fixed_aux",
    "space_bound",
    "uniform_in",
    "why_not_uniform",
]

_SEARCHING = ("sedona", "probe")
_ASKING = ("random", "evolution")
_KNOWN = (*_SEARCHING, *_ASKING, "uniform:<aux>", "predsim", "backprop")
_OF_THE_STUDY = ("pretrain_steps", "meta_steps", "validation_fraction")


def fixed_aux(strategy: str) -> str | None:
    """Return the auxiliary network of a strategy that cuts uniformly, None of any other.

    ``uniform:<aux>`` has the one that it names (DGL), ``predsim`` its own.
    """
    kind, _, name = strategy.partition(":")
    if kind == "uniform" and name:
        return name
    return "predsim" if strategy == "predsim" else None


def space_bound(space: StudySpace, task: Task, aux: tuple[str, ...]) -> BlockBound | None:
    """Return the bound on the blocks of a task's backbone, None if there is none.

    Args:
        space: The space.
        task: The task.
        aux: Auxiliary networks that may be used.
    """
    if space.max_block_share is None:
        return None
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(task), aux)
    return BlockBound(compute, space.max_block_share)


def uniform_in(space: StudySpace, task: Task, aux: str) -> Decoupling:
    """Return uniform cuts with the same auxiliary network at each, or what is nearest to them.

    Raises:
        InputError: if no such decoupling is within the bound.
    """
    layers = num_layers(task.backbone)
    cuts = uniform_cuts(layers, space.num_blocks)
    bound = space_bound(space, task, (aux,))
    if bound is not None:
        return bound.nearest(cuts, [[aux]] * (layers - 1))
    return Decoupling(backbone=task.backbone, cuts=cuts, aux=[aux] * len(cuts))


def why_not_uniform(space: StudySpace, task: Task, aux: str) -> str | None:
    """Return why `uniform_in` is not possible, None if it is."""
    try:
        uniform_in(space, task, aux)
    except InputError as error:
        return str(error)
    return None


def check_space(space: StudySpace, task: Task, aux: tuple[str, ...]) -> None:
    """Check that a search can choose from a space, whatever it prefers.

    Raises:
        InputError: unless 2 <= K <= L, and if the costliest auxiliary networks leave no decoupling
            within the bound.
    """
    check_num_blocks(space.num_blocks, num_layers(task.backbone))
    bound = space_bound(space, task, aux)
    if bound is not None:
        ends = bound.ends([aux] * (bound.num_layers - 1), costliest=True)
        bound.check(space.num_blocks, ends, f" whichever of {', '.join(aux)} is preferred")


class StudySettings(CommonSettings):
    """Settings of `sedona_nni.strategies.study.StudyTuner`.

    A strategy chooses a decoupling in each space, at the cost of as many full trainings:

    - ``sedona`` searches, once for all spaces, and trains what it found once: its search is meant
      to cost ``budget - 1`` trainings, and says what it did cost;
    - ``probe`` probes, once for all spaces, and trains as many leaders (the decouplings of the most
      evidence) as the rest of the budget allows; where there are fewer, with further seeds;
    - ``random`` and ``evolution``, NNI's, train as many decouplings; with the same draws, so that
      evolution's first population is what random begins with;
    - ``uniform:<aux>`` and ``predsim`` train uniform cuts with as many seeds;
    - ``backprop`` trains the undivided backbone with as many seeds, in no space.

    Its *pick* is the training that validates best. Replicates of the same number share what can be
    shared: their training j, from 0, has the seed ``train.seed + 100 * replicate + j``, so that
    strategies can be compared in pairs.

    Attributes:
        spaces: What is chosen from. The uniform cuts leave out a space that they cannot respect.
        budget: What may be spent in each space, in full trainings.
        replicates: How often each strategy is tried.
        pretrain_share: SEDONA's pre-training steps, as a share of a training's steps.
        meta_share: Its meta-steps, likewise.
        search: All else about its search. The seed is that of replicate 0; replicate r has
            100 * r more.
        probe: How to probe; the seed likewise.
    """

    spaces: tuple[StudySpace, ...] = Field(min_length=1)
    budget: int = Field(ge=1, le=100)  # seeds of replicates lie 100 apart
    replicates: Mapping[str, int] = Field(min_length=1)
    pretrain_share: float = Field(default=0.5, gt=0)
    meta_share: float = Field(default=0.1, gt=0)
    search: SearchSettings = SearchSettings()
    probe: ProbeSettings = ProbeSettings()

    @property
    def trials(self) -> list[tuple[str, int]]:
        """Strategy and replicate of every trial: the first replicates of all, then the second, so
        that an early end leaves a fair picture."""
        rounds = range(max(self.replicates.values()))
        return [(s, r) for r in rounds for s, count in self.replicates.items() if r < count]

    @property
    def trainings(self) -> dict[str, int]:
        """See `CommonSettings.trainings`."""
        return dict(self.replicates)

    def search_settings(self, replicate: int, steps: int) -> SearchSettings:
        """Return how SEDONA searches: on the images of a training, for its share of the steps.

        Args:
            replicate: Number of the replicate, from 0.
            steps: Steps of a training.
        """
        return self.search.model_copy(
            update={
                "pretrain_steps": max(1, round(self.pretrain_share * steps)),
                "meta_steps": max(1, round(self.meta_share * steps)),
                "validation_fraction": self.train.validation_fraction,
                "seed": self.search.seed + 100 * replicate,
            }
        )

    def num_leaders(self, strategy: str) -> int:
        """Return how many trainings a strategy that searches can afford in each space."""
        return math.floor(self.budget - self.probe.cost) if strategy == "probe" else 1

    def probe_settings(self, replicate: int) -> ProbeSettings:
        """Return how a replicate probes."""
        return self.probe.model_copy(update={"seed": self.probe.seed + 100 * replicate})

    def check(self, folder: Path) -> None:
        """See `CommonSettings.check`."""
        super().check(folder)
        self.train.method.check(self.aux[:1])
        for name in _OF_THE_STUDY:
            if name in self.search.model_fields_set:
                where = "train" if name == "validation_fraction" else "pretrain_share, meta_share"
                raise InputError(f"search.{name}: must not be given, it follows from {where}")
        if len(set(self.spaces)) < len(self.spaces):
            raise InputError("spaces: must be different from each other")
        task = self.task_in(folder)
        for space in self.spaces:
            check_space(space, task, self.aux)
        for strategy, count in self.replicates.items():
            if count < 1:
                raise InputError.rule(f"replicates.{strategy}", "must be at least 1", count)
            self._check_strategy(strategy, task)

    def _check_strategy(self, strategy: str, task: Task) -> None:
        aux = fixed_aux(strategy)
        if aux is None:
            if strategy not in _KNOWN:
                rule = f"must name some of {', '.join(_KNOWN)}"
                raise InputError.rule("replicates", rule, strategy)
            if strategy == "probe" and self.num_leaders(strategy) < 1:
                rule = f"must leave a training of the budget, {self.budget}"
                raise InputError.rule("probe.cost", rule, self.probe.cost)
            return
        check_auxiliary(aux)
        self.train.method.check([aux])
        reasons = [why_not_uniform(space, task, aux) for space in self.spaces]
        if all(reasons):
            raise InputError(f"replicates.{strategy}: fits into none of the spaces; {reasons[0]}")
