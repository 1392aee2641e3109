"""Training the relaxed network as the search left it."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from block_steps import greedy_step
from torch import nn

from sedona_nni.decouplings.cost import relaxed_cost
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.mixed_losses import MixedLossesProblem
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.relaxed_training import RelaxedClassifier, build_relaxed
from sedona_nni.searches.sedona.release import import_release
from sedona_nni.searches.sedona.release_mode import ReleaseProblem
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.methods.method import build_optimizer
from sedona_nni.training.settings import TrainSettings
from sedona_nni.trials.train import evaluate_saved, run_training

PUBLISHED = Path(__file__).parents[3] / "experiments" / "published" / "vgg19.json"
AUX = ["conv1", "mlp-sr"]
FOUND: dict[str, Any] = {
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": AUX,
    "alpha": [[0.3 * i, 1.0] for i in range(7)],
    "beta": [[0.5, 0.1 * i] for i in range(7)],
}
TASK = Task(width_multiplier=0.25, train_limit=60)


@pytest.mark.slow(reason="searches")
@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({}, InnerProblem),
        ({"release_mode": True}, ReleaseProblem),
        ({"mix": "losses"}, MixedLossesProblem),
    ],
)
def test_a_step_is_that_of_the_search(how: dict[str, Any], kind: type[InnerProblem]) -> None:
    """Three steps of SGD in float64, of which the search's are proven elsewhere; in the mode in
    which alpha and beta were found."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=3, width_multiplier=0.25)
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # both would draw the same masks, but in another order
    found = SearchResult(**FOUND, provenance={"settings": how})
    network = build_relaxed(backbone, found).double()
    classifier = network.blocks[0].classifier
    assert isinstance(classifier, RelaxedClassifier)
    relaxed = copy.deepcopy(classifier.network)
    problem = kind(relaxed, Sgd(momentum=0.9, weight_decay=1e-3), LabelSmoothing(0.1))
    settings = TrainSettings(lr=0.05, momentum=0.9, weight_decay=1e-3)
    optimizers = [build_optimizer(b.parameters(), settings) for b in network.blocks]
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    state = problem.state()
    network.train()
    for _ in range(3):
        images = torch.randn(4, 3, 32, 32).double().contiguous(memory_format=torch.channels_last)
        batch = (images, torch.randint(3, (4,)))
        state, _ = problem.step(state, batch, 0.05, seed=0)
        greedy_step(network, optimizers, *batch, LabelSmoothing(0.1))
    problem.load(state)
    expected = relaxed.state_dict()
    for name, value in classifier.network.state_dict().items():
        if name in ("alpha", "beta"):
            assert torch.equal(value, before[name])
        elif value.is_floating_point():
            # Two programs that add up in their own orders: float64's 1e-16, magnified as batch
            # norms of 4 values are differentiated thrice; some processors came to 1.2e-11
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)
            assert not torch.equal(value, before[name]), name


def test_a_result_says_in_which_mode_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "both.json").write_text(json.dumps({k: FOUND[k] for k in ("alpha", "beta")}))
    imported = import_release(tmp_path / "both.json", None, backbone="vgg11")
    published = SearchResult.load(PUBLISHED)
    assert imported.in_release_mode
    assert published.in_release_mode
    network = RelaxedNetwork(build_backbone("vgg11", num_classes=3, width_multiplier=0.1), AUX)
    for release_mode in (False, True):
        settings = SearchSettings(release_mode=release_mode)
        assert Search(network, settings).result("digits").in_release_mode == release_mode
    for how in ({}, {"settings": {}}, {"settings": None}):
        assert not SearchResult(**FOUND, provenance=how).in_release_mode


@pytest.mark.slow(reason="two trainings")
def test_trained_and_tested_again(tmp_path: Path) -> None:
    found = SearchResult(**FOUND)
    settings = TrainSettings(epochs=1, batch_size=16, lr=0.02)
    results = run_training(TASK, found, settings, directory=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        ".lock",
        "run.json",
        "images.json",
        "search-result.json",
        "model.safetensors",
        "results.json",
    }
    assert SearchResult.load(tmp_path / "search-result.json") == found
    cost = relaxed_cost(build_backbone("vgg11", num_classes=10, width_multiplier=0.25), AUX)
    assert (results["parameters"], results["macs"]) == (cost.parameters, cost.macs)
    saved = evaluate_saved(tmp_path)
    assert saved["test_accuracy"] == results["test_accuracy"] == saved["block_1_accuracy"]
    assert saved["test_loss"] == results["test_loss"]
    with pytest.raises(InputError, match="holds another training"):
        run_training(TASK, Decoupling(backbone="vgg11"), settings, directory=tmp_path)
    again = run_training(TASK, found, settings, directory=tmp_path)
    assert again == results


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg13"}, "must be vgg11 with 8 layers, but got 'vgg13 with 8'"),
        (
            {"alpha": FOUND["alpha"][:3], "beta": FOUND["beta"][:3]},
            "must be vgg11 with 8 layers, but got 'vgg11 with 4'",
        ),
        ({"aux_choices": ["conv1", "conv"]}, "aux: must be one of"),
    ],
)
def test_a_result_that_does_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = SearchResult(**{**FOUND, **changes})
    with pytest.raises(InputError, match=re.escape(message)):
        run_training(TASK, found, TrainSettings(), directory=tmp_path / "new")
    assert not (tmp_path / "new").exists()
