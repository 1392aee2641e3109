"""SEDONA as a search among others: run on a task, watched, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from sedona_nni.data.batches import BatchStream
from sedona_nni.decouplings.cost import count_parameters, peak_memory_mib, relaxed_cost
from sedona_nni.models.placement import place
from sedona_nni.searches.kind import Findings, SearchKind, SearchSetup
from sedona_nni.searches.sedona.frank_wolfe import FrankWolfe
from sedona_nni.searches.sedona.memory import few_steps, of_further_steps
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork, check_candidates
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings, StudyOptions
from sedona_nni.searches.sedona.watch import Watch, judge
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone, task_layers

__all__ = ["Sedona"]


class Sedona(SearchKind[SearchSettings]):
    """Differentiates through training, see `sedona_nni.searches.sedona.search`.

    It reports ``decided`` (mean of |a^loc - a^up|); as ``default`` and ``loss`` the validation
    accuracy and loss of the final head with the weights that have been trained most; and the means
    over the steps since the last report of what else `Search.advance` returns. Before the first
    meta-step ``meta_loss`` is ``loss``: what it is without a look ahead. By default that is every
    1.3 % of the steps: a smooth curve for little validation; and so often a checkpoint is written.

    Its results also have ``loss``, as reported last, and with the same weights ``test_accuracy``
    and ``test_loss``; ``decided``; ``parameters`` and ``macs`` (per image) of backbone and all
    auxiliary networks; ``peak_memory_mib`` of a meta-step with weights, optimizer state and one
    snapshot; ``history``, of what was reported: ``step``, ``default`` and ``meta_loss``; and
    ``relaxation``, about as often from the end of pre-training on: ``step``, ``a_loc`` (each time
    L-1 numbers) and ``aux``, the softmax of beta (each time L-1 rows of C), to 4 decimals.
    """

    name = "sedona"
    field = "search"
    settings = SearchSettings
    outcome = SearchResult
    noun = "relaxation"
    default_is_accuracy = True
    study_options = StudyOptions
    fixed_in_study = MappingProxyType(
        {
            "pretrain_steps": "pretrain_share, meta_share",
            "meta_steps": "pretrain_share, meta_share",
            "validation_fraction": "train",
        }
    )

    def validation_fraction(self, settings: SearchSettings, train: TrainSettings | None) -> float:
        """See `SearchKind.validation_fraction`: the search's own."""
        return settings.validation_fraction

    def for_study(
        self, settings: SearchSettings, options: StudyOptions, train: TrainSettings, steps: int
    ) -> SearchSettings:
        """See `SearchKind.for_study`: on the images of a training, for its share of the steps."""
        return settings.model_copy(
            update={
                "pretrain_steps": max(1, round(options.pretrain_share * steps)),
                "meta_steps": max(1, round(options.meta_share * steps)),
                "validation_fraction": train.validation_fraction,
            }
        )

    def check(self, setup: SearchSetup, settings: SearchSettings) -> None:
        """See `SearchKind.check`: auxiliary networks must be such that can be mixed at every
        boundary, and there must be as many layers as blocks."""
        with torch.device("meta"):
            check_candidates(task_backbone(setup.task), setup.aux)
        if settings.meta_num_blocks is not None:
            boundaries = task_layers(setup.task) - 1
            FrankWolfe(
                torch.zeros(boundaries, 2), torch.zeros(boundaries, 1), settings.meta_num_blocks
            )

    def run(self, setup: SearchSetup, settings: SearchSettings) -> Findings:
        """See `SearchKind.run`."""
        splits = setup.splits
        data = None if splits.identity is None else splits.identity.fingerprint
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = RelaxedNetwork(task_backbone(setup.task), setup.aux)
        search = Search(network.to(setup.device), settings, data)
        watch = Watch(search, setup)
        with watch.bar:
            search.run(
                splits.train,
                splits.validation,
                report=watch.note,
                directory=setup.directory,
                checkpoint_every=watch.every,
            )
        outcome = search.result(setup.task.dataset)
        validation, test = (judge(search, part) for part in (splits.validation, splits.test))
        return Findings(
            outcome,
            default=validation.accuracies[-1],
            images=search.images(splits.train, splits.validation),
            numbers={
                "loss": validation.loss,
                "test_accuracy": test.accuracies[-1],
                "test_loss": test.loss,
                "decided": float(abs(2 * outcome.a_loc() - 1).mean()),
                "parameters": count_parameters(network),
                "macs": relaxed_cost(network.backbone, network.aux_choices).macs,
                "peak_memory_mib": _peak_memory_mib(setup, settings),
                **watch.kept,
            },
        )

    def in_words(self, results: Mapping[str, Any]) -> str:
        """See `SearchKind.in_words`."""
        return f"validation accuracy of the relaxed network {results['default']:.1%}"


def _peak_memory_mib(setup: SearchSetup, settings: SearchSettings) -> float:
    """Run a meta-step of a network of its own, made within the measurement.

    It is one of few steps ahead, as each takes some hundred MiB of what watches it; what more of
    them need is known.
    """
    device, splits = setup.device, setup.splits
    steps = few_steps(settings)
    one_of_each = {"pretrain_steps": 1, "meta_steps": 1, "perturbation_steps": 0}
    short = settings.model_copy(update={**one_of_each, "inner_steps": steps})
    made: list[Search] = []
    train = BatchStream(splits.train, settings.batch_size, 0, device).iterate()
    validation = BatchStream(splits.validation, settings.validation_batch_size, 0, device).iterate()
    batches = (
        [next(train) for _ in range(steps + 2)],
        [next(validation) for _ in range(2)],
    )

    def one_meta_step() -> Search:
        network = place(RelaxedNetwork(task_backbone(setup.task), setup.aux), device)
        search = Search(network, short)
        for _ in search.steps(*(iter(part) for part in batches)):
            pass
        made.append(search)
        return search

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        peak = peak_memory_mib(one_meta_step, device)
    return peak + of_further_steps(settings, made[0].state) / 2**20
