"""Sequential greedy learning: what learns, what is frozen, what is judged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training import loop
from sedona_nni.training.evaluation import Evaluation
from sedona_nni.training.loop import train
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings

STEPS = 3  # per epoch
SETTINGS = TrainSettings.model_validate(
    {
        "method": "sequential",
        "epochs": 2,
        "batch_size": 50,
        "lr": 0.02,
        "validation_fraction": 0.25,
        "seed": 3,
    }
)
THREE_BLOCKS = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv2", "mlp-sr"])


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=200), 0.25)


def build() -> DecoupledNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    return build_decoupled(backbone, THREE_BLOCKS)


def states(network: DecoupledNetwork) -> list[list[Tensor]]:
    """Weights and running statistics, block by block."""
    return [[t.clone() for t in block.state_dict().values()] for block in network.blocks]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def history(splits: Splits) -> list[tuple[dict[str, float], list[list[Tensor]]]]:
    """The numbers and the states of the blocks after each epoch; the first entry is the start."""
    network = build()
    seen: list[tuple[dict[str, float], list[list[Tensor]]]] = [({}, states(network))]
    train(network, splits, SETTINGS, report=lambda n: seen.append((n, states(network))))
    return seen


def test_one_block_learns_and_all_others_stay_as_they_are(history: Any) -> None:
    """To the bit, running statistics included; two epochs for each of three blocks."""
    assert len(history) == 1 + 6
    for epoch in range(1, 7):
        learning = (epoch - 1) // 2
        before, after = history[epoch - 1][1], history[epoch][1]
        assert [same(a, b) for a, b in zip(before, after, strict=True)] == [
            block != learning for block in range(3)
        ]


def test_the_numbers_are_those_of_the_highest_block_that_has_learned(history: Any) -> None:
    for epoch in range(1, 7):
        numbers = history[epoch][0]
        highest = (epoch - 1) // 2 + 1
        assert numbers["epoch"] == epoch
        assert numbers["default"] == numbers[f"block_{highest}_accuracy"]
        assert {name for name in numbers if name.startswith("block")} == {
            f"block_{highest}_train_loss",  # the others learn no more
            *(f"block_{number}_accuracy" for number in range(1, highest + 1)),
        }
        assert numbers["train_loss"] == numbers[f"block_{highest}_train_loss"] > 0
    rates = [numbers["lr"] for numbers, _ in history[1:]]
    assert rates == pytest.approx([(0.02 + 0.001) / 2, 0.001] * 3)  # a schedule for each block
    frozen = [numbers["block_1_accuracy"] for numbers, _ in history[2:]]
    assert len(set(frozen)) == 1


def test_the_first_block_learns_as_in_parallel(splits: Splits, history: Any) -> None:
    """To the bit: nothing comes down to it in either method."""
    network = build()
    seen: list[list[list[Tensor]]] = []
    settings = TrainSettings.model_validate({**SETTINGS.model_dump(), "method": "greedy"})
    train(network, splits, settings, report=lambda n: seen.append(states(network)))
    for epoch in (1, 2):
        found = [same(a, b) for a, b in zip(seen[epoch - 1], history[epoch][1], strict=True)]
        assert found == [True, False, False]


def test_the_next_block_learns_on_the_average_that_is_kept(splits: Splits) -> None:
    """And not on the weights of the last step, which are not."""
    network = build()
    settings = SETTINGS.model_copy(update={"ema_decay": 0.9})
    method = build_method(place(network, "cpu"), settings, splits, STEPS)
    batches = BatchStream(splits.train, 50, 3, "cpu").iterate()
    for epoch in (1, 2):
        method.start_epoch(epoch)
        for _ in range(STEPS):
            method.step(*next(batches))
    average = [each.clone() for each in method.result.blocks[0].state_dict().values()]
    assert not same(states(network)[0], average)
    method.start_epoch(3)
    assert same(states(network)[0], average)
    learned = states(network)[1]
    method.step(*next(batches))
    assert same(states(network)[0], average)
    assert not same(states(network)[1], learned)


def test_the_second_block_learns_from_the_frozen_first(splits: Splits, history: Any) -> None:
    """Against a loop written here: the first block as it is after its epochs, in evaluation."""
    network = place(build(), "cpu")  # as in training, for the same bits
    for block, state in zip(network.blocks, history[2][1], strict=True):
        for tensor, value in zip(block.state_dict().values(), state, strict=True):
            tensor.copy_(value)
    first, second = network.blocks[0].eval(), network.blocks[1].train()
    optimizer = torch.optim.SGD(
        second.parameters(), 0.02, momentum=0.9, weight_decay=1e-4, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS, 0.001)
    batches = BatchStream(splits.train, 50, 3, "cpu").iterate(start=2 * STEPS)
    losses = []
    for step in range(2 * STEPS, 4 * STEPS):
        images, labels = next(batches)
        torch.manual_seed(loop.dropout_seed(3, step))
        with torch.no_grad():
            features = first.layers(images)
        assert isinstance(second.classifier, nn.Module)
        loss = LabelSmoothing(0.1)(second.classifier(second.layers(features)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert same(list(second.state_dict().values()), history[4][1][1])
    # Added up in float32 there and in float64 here
    assert history[4][0]["train_loss"] == pytest.approx(np.mean(losses[STEPS:]), rel=1e-5)


def test_the_best_epoch_is_one_of_the_last_blocks(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However good the lower classifiers were."""
    validated = iter([0.9, 0.8, 0.7, 0.7, 0.3, 0.4, 0.5])  # two for each block, and the test

    def judge(network: DecoupledNetwork, *arguments: Any) -> Evaluation:
        return Evaluation(
            1.0, [next(validated)] * len(network.blocks), 0.0, [*range(len(network.blocks))]
        )

    monkeypatch.setattr(loop, "evaluate", judge)
    result = train(build(), splits, SETTINGS)
    assert (result.best_epoch, result.validation_accuracy) == (6, 0.4)
    assert result.test.accuracies == [0.5] * 3
