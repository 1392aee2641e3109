"""Selection by perturbation: what is compared, on what, and how it goes on."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from relaxed_reference import random_backbone, random_case

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.choice import discretise
from sedona_nni.searches.sedona.perturbation import decided, perturbed
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone
from sedona_nni.trials.search import run_search

AUX = ["conv1", "mlp"]


def test_a_decided_boundary_is_one_hot_and_then_as_it_was() -> None:
    network = RelaxedNetwork(random_backbone(random.Random(0), 3), AUX)
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()
    before = copy.deepcopy((network.alpha, network.beta))
    with decided(network, 1, 0):
        assert network.a[1].tolist() == [0, 1]
        assert torch.equal(network.b, before[1].softmax(1))
    with decided(network, 1, 2):
        assert network.a[1].tolist() == [1, 0]
        assert network.b[1].tolist() == [0, 1]
        assert torch.equal(network.a[0], before[0].softmax(1)[0])
    assert torch.equal(network.alpha, before[0])
    assert torch.equal(network.beta, before[1])


@pytest.mark.parametrize("choice", [0, 1])
def test_it_is_training_with_the_choice_made(choice: int) -> None:
    """The same steps with alpha and beta written by hand, one after the other."""
    case = random_case(1)
    problem, network = case.problem, case.problem.network
    batches, seed = case.train_batches, case.seed
    lrs = [0.1 / (1 + t) for t in range(len(batches))]
    loss, accuracy = perturbed(
        problem, case.start, 0, choice, batches, case.validation_batch, lrs=lrs, seed=seed
    )
    with torch.no_grad():
        network.alpha[0] = torch.tensor([50.0, -50.0] if choice else [-50.0, 50.0])
        if choice:
            network.beta[0] = -50.0
            network.beta[0, choice - 1] = 50.0
    state = case.start
    for t, batch in enumerate(batches):
        state, _ = problem.step(state, batch, lrs[t], seed + t)
    expected, right, *_ = problem.validation(state, case.validation_batch)
    # e^-100 and e^-120 are not 0 in float64
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    assert float(accuracy) == float(right)


TASK = Task(backbone="dgl-cnn4", width_multiplier=0.1, image_size=8, train_limit=120)


SETTINGS = SearchSettings(
    pretrain_steps=2,
    meta_steps=2,
    inner_steps=1,
    batch_size=8,
    validation_batch_size=16,
    perturbation_steps=3,
    seed=3,
)


def searched(
    directory: Path | None = None,
    report: Any = lambda numbers: None,
    settings: SearchSettings = SETTINGS,
) -> SearchResult:
    """Search, with a checkpoint after each step."""
    torch.manual_seed(0)
    network = RelaxedNetwork(task_backbone(TASK), AUX)
    splits = load_splits(TASK, settings.validation_fraction)
    search = Search(network, settings)
    parts = splits.train, splits.validation
    search.run(*parts, report=report, directory=directory, checkpoint_every=1)
    return search.result("digits")


class Interrupted(Exception):
    pass


def test_a_search_compares_each_choice_and_goes_on_where_it_was(tmp_path: Path) -> None:
    reports: list[dict[str, float]] = []
    whole = searched(report=reports.append)
    assert whole.perturbed is not None
    assert [len(row) for row in whole.perturbed] == [3, 3, 3]
    assert [numbers["step"] for numbers in reports] == [*range(1, 2 + 2 + 9 + 1)]
    assert [numbers["meta_loss"] for numbers in reports[4:]] == [*np.ravel(whole.perturbed)]
    assert len({*np.ravel(whole.perturbed)}) == 9

    def interrupt(numbers: dict[str, float]) -> None:
        if numbers["step"] == 9:
            raise Interrupted

    with pytest.raises(Interrupted):
        searched(tmp_path, interrupt)
    assert searched(tmp_path).perturbed == whole.perturbed


def test_choices_count_also_where_the_search_ends_at_a_rate_of_0() -> None:
    """Rates begin anew: at the rate of the last training step all losses would be the same."""
    reports: list[dict[str, float]] = []
    settings = SETTINGS.model_copy(update={"lr_min": 0.0})
    found = searched(report=reports.append, settings=settings)
    assert len({*np.ravel(found.perturbed)}) == 9
    assert [numbers["lr"] for numbers in reports[4:]] == [0.1] * 9


def test_a_search_trial_compares_each_choice() -> None:
    """What it also does, as measuring its memory, takes no images of the comparison's."""
    found = run_search("sedona", TASK, SETTINGS, aux=AUX)
    assert np.shape(found["search_result"]["perturbed"]) == (3, 3)
    without = SETTINGS.model_copy(update={"perturbation_steps": 0})
    plain = run_search("sedona", TASK, without, aux=AUX)
    of_each = SETTINGS.perturbation_steps * SETTINGS.batch_size + SETTINGS.validation_batch_size
    assert found["images"] - plain["images"] == 9 * of_each


FOUND = {
    "backbone": "mine",
    "dataset": "digits",
    "aux_choices": AUX,
    "alpha": [(3, 0), (0, 1), (0, 1)],
    "beta": [[1, 0], [1, 0], [1, 0]],
}


def test_the_choice_is_by_worth_and_not_by_size() -> None:
    assert discretise(SearchResult(**FOUND), 2).in_words() == "cut after layer 0 (conv1)"
    found = SearchResult(**FOUND, perturbed=[[0.5, 0.6, 0.7], [0.5, 0.5, 0.3], [0.5, 0.6, 0.4]])
    assert discretise(found, 2).in_words() == "cut after layer 1 (mlp)"
    chosen = discretise(found, 0)
    assert chosen.cuts == [1, 2]
    assert chosen.provenance["rule"] == "lower loss with the cut"


def test_a_ragged_result_is_refused() -> None:
    with pytest.raises(ValidationError, match="perturbed rows must have an entry for no cut and"):
        SearchResult(**FOUND, perturbed=[[0.5, 0.6]] * 3)
