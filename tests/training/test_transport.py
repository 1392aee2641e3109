"""A transport cost on top of any block's loss, by hand, and what it takes of memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.task import Task
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=100), 0.25)


def three_layers() -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d]:
    """1 to 4 channels, 4 to 4, and 4 to 4 pixels by pixel."""
    torch.manual_seed(0)
    return nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)


def network() -> DecoupledNetwork:
    first, second, third = three_layers()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    return DecoupledNetwork([Block([first, second, third], head)])


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 1, 5, 5, generator=generator), torch.arange(6)


def moved(images: Tensor) -> Tensor:
    """By the second and the third layer; the first changes the shape."""
    first, second, third = three_layers()
    one = first(images)
    two = second(one)
    three = third(two)
    return ((two - one) ** 2).sum() / len(images) + ((three - two) ** 2).sum() / len(images)


def test_a_sum_beyond_half_precision() -> None:
    """In mixed precision the cost is not."""
    (block,) = network().blocks
    images = torch.full((1, 1, 64, 64), 100.0)
    with torch.autocast("cpu", torch.float16):
        _, _, cost = block.through(images, transports=True)
    assert cost is not None
    torch.testing.assert_close(cost, moved(images), rtol=1e-2, atol=0)  # of half ones' 11 bits
    assert cost > torch.finfo(torch.float16).max


@pytest.mark.parametrize("checkpointed", [False, True])
def test_how_far_layers_move_what_they_are_given(checkpointed: bool) -> None:
    images, _ = batch()
    (block,) = network().blocks
    block.checkpointed = checkpointed
    output, _, cost = block.through(images, transports=True)
    assert cost is not None
    assert torch.equal(output, block(images))
    torch.testing.assert_close(cost, moved(images))


@pytest.mark.parametrize("method", ["greedy", "sequential"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_follows_loss_and_transport(method: str, accumulate: int, splits: Splits) -> None:
    settings = TrainSettings.model_validate(
        {
            "method": method,
            "accumulate": accumulate,
            "transport": 0.3,
            "momentum": 0,
            "weight_decay": 0,
            "label_smoothing": 0,
        }
    )
    trained, other = network(), network()
    images, labels = batch()
    learning = build_method(trained, settings, splits, 5)
    learning.start_epoch(1)
    rate = learning.optimizers[0].param_groups[0]["lr"]
    losses = learning.step(images, labels)
    (block,) = other.blocks
    assert block.classifier is not None
    output, _, cost = block.through(images, transports=True)
    assert cost is not None
    loss = F.cross_entropy(block.classifier(output), labels) + 0.15 * cost
    loss.backward()
    torch.testing.assert_close(losses[0], loss.detach())
    for found, weight in zip(trained.parameters(), other.parameters(), strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(found, weight - rate * weight.grad)


def test_none_is_the_step_without_it_to_the_bit(splits: Splits) -> None:
    found = []
    for changes in ({}, {"transport": 0}):
        trained = network()
        learning = build_method(trained, TrainSettings.model_validate(changes), splits, 5)
        learning.start_epoch(1)
        learning.step(*batch())
        found.append(nn.utils.parameters_to_vector(trained.parameters()))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transport": -1}, "greater than or equal to 0"),
        ({"transport": 1, "method": "ddg"}, "transport must be 0 for the method ddg, whose blocks"),
        (
            {"transport": 1, "parallel": {"replicas": 2}},
            "transport must be 0 with replicas, but got 1",
        ),
    ],
)
def test_where_it_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(changes)
