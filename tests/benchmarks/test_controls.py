"""Scores that no search has made."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import mean

import pytest
import torch
from torch import nn

from benchmarks.record import header
from benchmarks.tabular import views
from benchmarks.tabular.__main__ import DATA, main
from benchmarks.tabular.controls import CONTROLS, ZeroCosts, controls, zero_costs
from benchmarks.tabular.table import Entry, Table, Training
from benchmarks.tabular.zero_cost import ZERO_COST
from sedona_nni.decouplings.compute import compute_in_macs
from sedona_nni.decouplings.decoupled import Block
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.task_backbone import task_backbone

TASK = Task(backbone="vgg11", width_multiplier=0.1, train_limit=40)


def linear_block() -> Block:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 5, bias=False)]
    return Block(layers, nn.Linear(5, 3, bias=False))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])


def test_synflow_of_two_linear_layers() -> None:
    """R is linear in either matrix, so the sum of w dR/dw is R for each of the two."""
    block = linear_block()
    lower, upper = (weight.detach().double().abs() for weight in block.parameters())
    flow = float((upper @ lower @ torch.ones(12, 1, dtype=torch.float64)).sum())
    score = ZERO_COST["synflow"](block, *batch(), LabelSmoothing(0))
    assert score == pytest.approx(math.log(2 * flow))


def test_jacob_cov_of_a_linear_network() -> None:
    """All images have the same Jacobian: of the correlations, all 1, one eigenvalue is 4."""
    score = ZERO_COST["jacob_cov"](linear_block(), *batch(), LabelSmoothing(0))
    expected = -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in (4, 0, 0, 0))
    assert score == pytest.approx(expected, rel=1e-6)  # eigenvalues of 0 to 1e-15


def test_grad_norm_is_of_the_layers_alone() -> None:
    images, labels = batch()
    block = linear_block()
    logits = block.classifier(block(images))  # type: ignore[misc]
    to_logits = (logits.softmax(1) - nn.functional.one_hot(labels, 3)) / len(labels)
    assert isinstance(block.classifier, nn.Linear)
    expected = (to_logits @ block.classifier.weight).T @ images.flatten(1)
    score = ZERO_COST["grad_norm"](block, images, labels, LabelSmoothing(0))
    assert score == pytest.approx(float(expected.detach().norm()), rel=1e-5)  # float32


@pytest.fixture(scope="module")
def table() -> Table:
    with torch.device("meta"):
        compute = compute_in_macs(task_backbone(TASK), ("conv1", "conv2"))
    training = Training(
        seed=1,
        validation_accuracy=0.5,
        test_accuracy=0.5,
        validation_loss=1,
        test_loss=1,
        best_epoch=1,
        block_curves=((0.5,),),
        train_losses=(1,),
        time_s=1,
    )
    entries = [
        Entry(
            cuts=(cut,),
            aux=("conv1",),
            parameters=100 - cut,
            macs=1000 + cut,
            largest_share=1 - cut / 10,
            peak_memory_mib=1,
            trainings=(training,),
        )
        for cut in (1, 4)
    ]
    return Table(
        headers=(header(n=1),),
        task=TASK,
        aux_choices=("conv1", "conv2"),
        train=TrainSettings(epochs=1, batch_size=8, seed=1, validation_fraction=0.5),
        compute=compute,
        entries=tuple(entries),
    )


def test_each_control_prefers_what_its_name_says(table: Table, tmp_path: Path) -> None:
    among = table.decouplings(2)
    preferred = {
        name: among[scores.index(max(scores))].cuts[0]
        for name, (scores,) in controls(table, among, tmp_path / "none.json").items()
    }
    assert preferred == {
        "cuts low": 1,
        "cuts high": 4,
        "layers alone": 1,
        "even blocks": 4,
        "few MACs": 1,
        "many MACs": 4,
        "few parameters": 4,
        "many parameters": 1,
    }
    assert preferred.keys() == CONTROLS.keys()


def test_zero_cost_scores_depend_on_the_seed_alone(table: Table) -> None:
    among = table.decouplings(2)
    once, again, other = (zero_costs(table, among, seed) for seed in (31, 31, 32))
    assert once == again
    assert once["grad_norm"] != other["grad_norm"]
    assert all(math.isfinite(score) for scores in once.values() for score in scores)


def test_zero_cost_scores_are_kept_and_stand_among_the_controls(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.save(tmp_path / "table.json")
    kept = tmp_path / "found" / views.ZERO_COSTS
    options = ["--seeds", "31,32", "--table", str(tmp_path / "table.json")]
    monkeypatch.setattr("sys.argv", ["benchmarks.tabular", "zero-cost", str(kept), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    among = table.decouplings(2)
    scores = ZeroCosts.load(kept).of(among)
    assert scores.keys() == ZERO_COST.keys()
    for seed, row in ((31, 0), (32, 1)):
        again = zero_costs(table, among, seed)
        for name, found in scores.items():
            assert found[row] == pytest.approx(again[name], rel=1e-4)  # another process's sums
    other = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
    with pytest.raises(InputError, match="scores: must be there of all decouplings"):
        ZeroCosts.load(kept).of([other])


def test_controls_stand_beside_what_is_judged() -> None:
    found = DATA.parents[1] / "found" / DATA.stem
    said = views.judge(found, DATA).results["controls"]
    assert [*said] == [*CONTROLS, *ZERO_COST, "an epoch of each", "a training of each"]
    assert [len(each) for each in said.values()] == [1] * len(CONTROLS) + [3] * 3 + [4] * 2
    early, late = (
        mean(each["correlation"] for each in said[f"{what} of each"])
        for what in ("an epoch", "a training")
    )
    assert 0.3 < early < late
    low, high = (said[name][0]["correlation"] for name in ("cuts low", "cuts high"))
    assert low == pytest.approx(-high)
    assert all(0 <= each["regret"] < 0.1 for row in said.values() for each in row)
