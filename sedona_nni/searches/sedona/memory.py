"""What a search takes of memory, counted without doing it.

Notation: n weights, u vectors of optimizer state for each, T steps ahead in legs of at most m
(`hypergradient.legs`).

A meta-step of few steps ahead is run dry, see `sedona_nni.decouplings.dry_run`, by the code of a
real one: its peak has the graph of the backbone, those of as many groups of boundaries as are
worked on at a time, the weights, and the states that a search holds meanwhile. Further steps add
what is kept of them,

    4 (m - 2) n         the gradient vectors of a leg
    4 (1 + u) n T/m     where each leg but the first began

Snapshots, 4 (1 + u) n each, are in main memory wherever the search is. What records of CUDA graphs
keep is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sedona_nni.data.batches import Batch
from sedona_nni.decouplings.dry_run import LiveMemory, dry_features, dry_run
from sedona_nni.models import Backbone
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.hypergradient import hypergradient, legs
from sedona_nni.searches.sedona.inner_step import VALIDATION_PIECE, InnerProblem, TrainingState
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.release_mode import release_hypergradient
from sedona_nni.searches.sedona.search import inner_optimizer, problem_kind
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = ["SearchMemory", "few_steps", "memory_of_search", "of_further_steps"]


@dataclass(frozen=True)
class SearchMemory:
    """Bytes that a search takes.

    Attributes:
        meta_step: At the peak of a meta-step, on its device, with all that the search holds there;
            but without images to come.
        snapshots: In main memory, when the weight memory is full.
    """

    meta_step: int
    snapshots: int


def memory_of_search(
    backbone: Backbone,
    aux_names: Sequence[str],
    settings: SearchSettings,
    *,
    on_gpu: bool = False,
    threads: int = 1,
) -> SearchMemory:
    """Count what a search takes.

    Of torch's operations; `sedona_nni.kernels` do with up to a fifth less. What operations take for
    themselves is not seen.

    Args:
        backbone: Made under ``torch.device("meta")``.
        aux_names: Auxiliary networks at every boundary.
        settings: How to search.
        on_gpu: Whether it is on a GPU.
        threads: Of a CPU: so many groups of boundaries are worked on at a time.

    Examples:
        >>> import torch
        >>> from sedona_nni import SearchSettings, build_backbone
        >>> from sedona_nni.searches.sedona.memory import memory_of_search
        >>> with torch.device("meta"):
        ...     backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
        >>> settings = SearchSettings(batch_size=64, validation_batch_size=256)
        >>> needed = memory_of_search(backbone, ["conv1"], settings)
        >>> round(needed.meta_step / 2**20), round(needed.snapshots / 2**20)
        (38, 50)
    """
    network = place(_relaxed(backbone, aux_names), "meta")

    def batch(size: int) -> Batch:
        labels = torch.empty(size, dtype=torch.long, device="meta")
        return dry_features(backbone.images, size), labels

    with dry_run(), LiveMemory(on_cpu=not on_gpu) as live:
        live.follow([*network.parameters(), *network.buffers()])
        problem = _dry(settings, 1 if on_gpu else threads)(
            network, inner_optimizer(settings), LabelSmoothing(settings.label_smoothing)
        )
        states = [problem.state(), problem.state()]  # where training is, and the snapshot
        validated = settings.validation_batch_size
        if not on_gpu:
            validated = min(validated, VALIDATION_PIECE)
        differentiate = release_hypergradient if settings.release_mode else hypergradient
        differentiate(
            problem,
            states[-1],
            [batch(settings.batch_size) for _ in range(few_steps(settings))],
            batch(validated),
            lrs=[settings.lr] * few_steps(settings),
            seed=0,
        )
    state = states[0].weights.nbytes + states[0].slots.nbytes
    return SearchMemory(
        live.peak + of_further_steps(settings, states[0]), settings.memory_size * state
    )


def few_steps(settings: SearchSettings) -> int:
    """Return T of a look ahead that shows all that a longer one has, but for `of_further_steps`."""
    # The first step back is half of one; the release's last step ahead is not gone back through
    return min(settings.inner_steps, 3 if settings.release_mode else 2)


def of_further_steps(settings: SearchSettings, state: TrainingState) -> int:
    """Return the bytes that a meta-step needs beyond one of `few_steps`.

    Args:
        settings: How to search.
        state: Of the training, any.
    """
    back = [
        max(1, steps - settings.release_mode)
        for steps in (settings.inner_steps, few_steps(settings))
    ]
    all_legs, few = legs(back[0]), back[1]
    vector = state.weights.nbytes
    return (len(all_legs[0]) - few) * vector + (len(all_legs) - 1) * (vector + state.slots.nbytes)


def _relaxed(backbone: Backbone, aux_names: Sequence[str]) -> RelaxedNetwork:
    with torch.device("meta"):
        return RelaxedNetwork(backbone, aux_names)


def _dry(settings: SearchSettings, threads: int) -> type[InnerProblem]:
    """Return the kind of problem, with as many graphs at a time as threads have, on one thread."""

    class Dry(problem_kind(settings)):  # type: ignore[misc]
        @contextmanager
        def workers(self) -> Iterator[tuple[int, Callable[..., Iterable[Any]]]]:
            yield threads, map

    return Dry
