"""Asynchronous greedy learning: the buffers, whose turn it is, and who learns from what."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.batches import MemoryImages
from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork
from sedona_nni.errors import InputError
from sedona_nni.training.loop import train
from sedona_nni.training.methods import block_step, build_method
from sedona_nni.training.methods.asynchronous import AsynchronousLearning, ReplayBuffer
from sedona_nni.training.settings import TrainSettings

EPOCH = 10  # steps


def put(buffer: ReplayBuffer, number: int) -> None:
    buffer.put(torch.tensor([10.0 * number]), torch.tensor([number]))


def draws(buffer: ReplayBuffer, count: int) -> list[int | None]:
    """The labels of the next draws."""
    found: list[int | None] = []
    for _ in range(count):
        batch = buffer.draw()
        if batch is not None:
            assert batch[0].item() == 10 * batch[1].item()
        found.append(None if batch is None else int(batch[1]))
    return found


# ---- The buffer ----------------------------------------------------------------------------------


def test_draws_by_hand() -> None:
    """Three places. The numbers in brackets: batch and draws, from the oldest to the newest."""
    buffer = ReplayBuffer(3)
    assert draws(buffer, 1) == [None]
    put(buffer, 1)  # [1:0]
    put(buffer, 2)  # [1:0, 2:0]
    assert draws(buffer, 1) == [2]  # [1:0, 2:1]
    put(buffer, 3)  # [1:0, 2:1, 3:0]
    put(buffer, 4)  # full, 1 goes: [2:1, 3:0, 4:0]
    assert draws(buffer, 2) == [4, 3]  # [2:1, 3:1, 4:1]
    assert draws(buffer, 4) == [4, 3, 2, 4]  # [2:2, 3:2, 4:3]
    put(buffer, 5)  # [3:2, 4:3, 5:0]
    assert draws(buffer, 3) == [5, 5, 5]  # not before it was drawn as often: [3:2, 4:3, 5:3]
    assert draws(buffer, 2) == [3, 5]
    put(buffer, 6)
    put(buffer, 7)
    put(buffer, 8)  # the whole content is new: [6:0, 7:0, 8:0]
    assert draws(buffer, 3) == [8, 7, 6]


def test_a_full_ring_begins_with_its_newest() -> None:
    """Where the published code draws 2, 4, 3."""
    buffer = ReplayBuffer(3)
    for number in (1, 2, 3, 4):
        put(buffer, number)
    assert draws(buffer, 3) == [4, 3, 2]


def test_nothing_is_drawn_too_often() -> None:
    buffer = ReplayBuffer(2, max_draws=2)
    put(buffer, 1)
    put(buffer, 2)
    assert draws(buffer, 6) == [2, 1, 2, 1, None, None]
    put(buffer, 3)
    assert draws(buffer, 3) == [3, 3, None]
    once = ReplayBuffer(1, max_draws=1)
    put(once, 1)
    assert draws(once, 2) == [1, None]


# ---- Turns ---------------------------------------------------------------------------------------


def tiny(num_blocks: int = 3) -> DecoupledNetwork:
    torch.manual_seed(0)
    widths = [3, *range(5, 5 + num_blocks)]
    return DecoupledNetwork(
        [
            Block(
                [nn.Sequential(nn.Conv2d(below, own, 1), nn.BatchNorm2d(own), nn.ReLU())],
                nn.Sequential(nn.Flatten(), nn.Linear(4 * own, 4)),
            )
            for below, own in pairwise(widths)
        ]
    )


def method(network: DecoupledNetwork, **options: Any) -> AsynchronousLearning:
    fields = {"epochs": 2, "lr": 0.1, "schedule": "cosine", **options.pop("train", {})}
    settings = TrainSettings.model_validate(
        {**fields, "method": {"name": "asynchronous", **options}}
    )
    built = build_method(network, settings, None, EPOCH)  # type: ignore[arg-type]
    assert isinstance(built, AsynchronousLearning)
    built.start_epoch(1)
    return built


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Four images of one class; the number can be told from the images."""
    torch.manual_seed(number)
    images = torch.randn(4, 3, 2, 2)
    images[0, 0, 0, 0] = number
    return images, torch.full((4,), number % 4)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Who learns from which batch, as (block from 0, number modulo 4), in their order."""
    seen: list[tuple[int, int]] = []
    real = block_step

    def step(block: Block, optimizer: Any, features: Tensor, labels: Tensor, *rest: Any) -> Any:
        first = block.layers[0]
        assert isinstance(first, nn.Sequential)
        assert isinstance(first[1], nn.BatchNorm2d)
        seen.append((first[1].num_features - 5, int(labels[0])))  # the width tells the block
        return real(block, optimizer, features, labels, *rest)

    monkeypatch.setattr("sedona_nni.training.methods.method.block_step", step)
    return seen


def test_turns_and_draws_by_hand(turns: list[tuple[int, int]]) -> None:
    """Going around, two places per buffer: at the start everybody twice, the newest first.

    After the batches 0 and 1 the first buffer holds [0, 1]; block 1 draws 1, then 0, and leaves
    [1, 0] to block 2, which so draws 0, then 1. From then on everyone gets what has just come.
    """
    learner = method(tiny(), buffer=2, order="round-robin")
    found = [sorted(learner.step(*batch(number))) for number in range(4)]
    start = [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert turns == [*start, (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3)]
    assert found == [[0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert learner.updates == [4, 4, 4]
    assert learner.numbers()["block_2_epochs"] == 4 / EPOCH


def test_round_robin_with_one_place_is_greedy_learning_after_the_start() -> None:
    """Against loops written here. At the start the first block learns from the batches 0 and 1;
    the second twice from what the first made of 1; the third from what the second made of it the
    second time, twice. Then every step updates everyone once, as greedy learning does."""
    network, reference = tiny(), tiny()
    learner = method(network, order="round-robin")
    losses = [learner.step(*batch(number)) for number in range(5)]

    optimizers = [
        torch.optim.SGD(b.parameters(), 0.1, 0.9, 0, 1e-4, fused=True) for b in reference.blocks
    ]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.001) for o in optimizers]
    criterion = learner.criterion

    def learn(index: int, features: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        block = reference.blocks[index]
        out = block.layers(features)
        assert block.classifier is not None
        loss = criterion(block.classifier(out), labels)
        optimizers[index].zero_grad()
        loss.backward()
        optimizers[index].step()
        schedules[index].step()
        return out.detach(), loss.item()

    reference.train()
    learn(0, *batch(0))
    features, first = learn(0, *batch(1))
    labels = batch(1)[1]
    mean = []
    for index in (1, 2):
        below = features
        pairs = [learn(index, below, labels) for _ in range(2)]
        features = pairs[-1][0]
        mean.append(sum(loss for _, loss in pairs) / 2)
    # Losses are means of float32 there and of float64 here
    assert [losses[1][i].item() for i in range(3)] == pytest.approx([first, *mean], rel=1e-5)
    for number in range(2, 5):
        features, labels = batch(number)
        for index in range(3):
            features, loss = learn(index, features, labels)
            assert losses[number][index].item() == pytest.approx(loss, rel=1e-5)
    for name, value in network.state_dict().items():
        assert torch.equal(value, reference.state_dict()[name]), name


@pytest.mark.slow(reason="trains")
def test_a_slowed_block_has_fewer_turns(turns: list[tuple[int, int]]) -> None:
    """Shares 4 : 1 : 4 in 900 turns, within four standard deviations."""
    learner = method(tiny(), slow_block=2, slowdown=4, train={"epochs": 1000})
    number = 0
    while len(turns) < 900:
        learner.step(*batch(number))
        number += 1
    counts = np.bincount([block for block, _ in turns[:900]])
    expected = np.array([400, 100, 400])
    margins = 4 * np.sqrt(expected * (1 - expected / 900))
    assert np.all(np.abs(counts - expected) < margins)


def test_random_turns_follow_from_the_seed(turns: list[tuple[int, int]]) -> None:
    def run(seed: int) -> list[tuple[int, int]]:
        turns.clear()
        network = tiny()
        torch.manual_seed(seed)
        learner = method(network, buffer=3)
        for number in range(15):
            learner.step(*batch(number))
        return list(turns)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_turn_is_skipped_when_all_is_used_up(turns: list[tuple[int, int]]) -> None:
    """With every batch used once, each block learns from every batch at most once, in order or
    newest first, and the last block's losses are missing where it had nothing new."""
    learner = method(tiny(2), buffer=1, max_draws=1, slow_block=1, slowdown=3)
    for number in range(4):
        learner.step(*batch(number))
    own = [label for block, label in turns if block == 1]
    assert len(own) == len(set(own)) <= 4
    assert own[0] == 1  # the start: block 1's second turn found nothing
    assert learner.updates == [4, len(own)]


def test_what_is_drawn_again_is_what_was_put_in() -> None:
    network = tiny(2)
    learner = method(network, buffer=1, slow_block=1, slowdown=50)
    seen: list[Tensor] = []
    network.blocks[1].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0]))
    learner.step(*batch(0))
    learner.step(*batch(1))
    assert len(seen) > 2
    assert all(torch.equal(features, seen[0]) for features in seen)


def test_a_block_that_is_done_goes_on_to_feed_the_others() -> None:
    """Two epochs of 10 updates each. The first block is done long before the slowed second."""
    network = tiny(2)
    learner = method(network, buffer=1, slow_block=2, slowdown=4)
    for number in range(20):
        learner.step(*batch(number))
    assert learner.updates[0] == 20
    assert not learner.finished(2)
    assert not network.blocks[0].training
    before = copy.deepcopy(network.blocks[0].state_dict())
    while not learner.finished(2):
        learner.start_epoch(3)
        number += 1
        losses = learner.step(*batch(number))
        assert 0 not in losses
        drawn = learner.buffers[0].newest[0]
        expected = network.blocks[0].layers(batch(number)[0])
        assert torch.equal(drawn, expected)
    assert learner.updates == [20, 20]
    assert number > 30
    for name, value in network.blocks[0].state_dict().items():
        assert torch.equal(value, before[name]), name
    rate = learner.schedules[1].get_last_lr()[0]
    assert rate == pytest.approx(0.001)  # its own schedule is at its end


def test_a_milestone_starts_anew(turns: list[tuple[int, int]]) -> None:
    """Two blocks that go around; after its tenth update a block's rate falls."""
    milestones = {"schedule": "multistep", "milestones": [1], "epochs": 2}
    learner = method(tiny(2), order="round-robin", train=milestones)
    for number in range(14):
        learner.step(*batch(number))
    order = [block for block, _ in turns]
    assert order[:18] == [0, 0, 1, 1] + [0, 1] * 7  # nine updates each
    assert order[18] == 0  # its tenth: everybody is to learn twice
    assert order[19:22] == [0, 0, 1]  # the other one's tenth: once more everybody twice
    assert order[22:] == [0, 0, 1, 1]
    rates = [schedule.get_last_lr()[0] for schedule in learner.schedules]
    assert rates == pytest.approx([0.01, 0.01])


def test_the_slowed_block_must_exist() -> None:
    with pytest.raises(InputError, match="slow_block: must be at most the number of blocks, 2"):
        method(tiny(2), slow_block=3, slowdown=2)


def test_training_ends_when_every_block_has_learned_enough() -> None:
    """40 images in batches of 4: an epoch of the first block is ten of its turns."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 3, 2, 2), generator=generator, dtype=torch.uint8)
    images = MemoryImages(pixels, np.arange(40) % 4, (0.5,) * 3, (0.5,) * 3)
    splits = Splits(images, images, images, num_classes=4, image_size=2)
    slowed = {"name": "asynchronous", "slow_block": 1, "slowdown": 3}
    history: list[dict[str, float]] = []
    settings = TrainSettings.model_validate({"method": slowed, "epochs": 2, "batch_size": 4})
    train(tiny(2), splits, settings, report=history.append)
    assert [history[-1][f"block_{number}_epochs"] for number in (1, 2)] == [2, 2]
    assert history[0]["block_2_epochs"] > 1.5 * history[0]["block_1_epochs"]
    assert len(history) == math.ceil(history[-1]["block_1_epochs"])
