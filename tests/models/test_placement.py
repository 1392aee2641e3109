"""One layout of memory for whatever trains, judges or measures a network."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from layouts import watched_layouts
from relaxed_reference import NUM_CLASSES, random_backbone

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.decouplings.layer_time import compute_in_time
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import lay_out, place
from sedona_nni.searches.probing.probing import local_losses
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.train import evaluate_saved, run_training

CPU = torch.device("cpu")
ONE_LAYOUT = {torch.channels_last}
TASK = Task(width_multiplier=0.125, train_limit=60)
SETTINGS = TrainSettings(epochs=1, batch_size=20, lr=0.02, ensemble=2)
CUT = Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv1", "predsim"])
RELAXED = SearchResult(
    backbone="vgg11",
    dataset="digits",
    aux_choices=["conv1", "mlp-sr"],
    alpha=[[0.3 * i, 1.0] for i in range(7)],
    beta=[[0.5, 0.1 * i] for i in range(7)],
)


def backbone() -> Any:
    return build_backbone("vgg11", num_classes=10, width_multiplier=0.125)


def test_a_network_is_moved_and_laid_out() -> None:
    network = backbone()
    assert place(network, "cpu") is network
    with watched_layouts() as seen:
        network(torch.randn(2, 3, 32, 32))
        network(lay_out(torch.randn(2, 3, 32, 32)))
    assert seen == ONE_LAYOUT
    assert {p.device.type for p in place(network, "meta").parameters()} == {"meta"}


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("decoupling", [CUT, RELAXED])
def test_a_saved_model_tests_as_it_was_trained(
    decoupling: Decoupling | SearchResult, tmp_path: Path
) -> None:
    """To the bit, within one process; and so on every processor, as the kernels are the same."""
    with watched_layouts() as trained:  # and its memory measured
        results = run_training(TASK, decoupling, SETTINGS, directory=tmp_path)
    with watched_layouts() as tested:
        saved = evaluate_saved(tmp_path)
    assert trained == tested == ONE_LAYOUT
    for name in ("test_accuracy", "test_loss", "test_ensemble_accuracy"):
        assert saved[name] == results[name]


def test_probing() -> None:
    splits = load_splits(TASK, 0.1)
    with watched_layouts() as seen:
        local_losses(backbone(), CUT, splits, SETTINGS, 2, CPU)
    assert seen == ONE_LAYOUT


def test_a_search_trains_and_validates() -> None:
    """Its weights are views of a vector and contiguous; there the maps decide."""
    network = RelaxedNetwork(random_backbone(random.Random(3), 3), ["conv1", "conv2"])
    problem = InnerProblem(network, Sgd(), LabelSmoothing(0.1))
    batch = torch.randn(8, 3, 8, 8), torch.randint(NUM_CLASSES, (8,))
    with watched_layouts() as trained:
        state, _ = problem.step(problem.state(), batch, 0.1, seed=0)
    with watched_layouts() as validated:
        problem.validation(state, batch)
    assert trained == validated == ONE_LAYOUT


def test_layers_are_timed() -> None:
    with watched_layouts() as seen:
        compute_in_time(backbone(), ["conv1", "mlp-sr"], device=CPU, batch_size=4)
    assert seen == ONE_LAYOUT
