"""Less memory within a block: batches in parts, and layers computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import train
from sedona_nni.training.methods import block_step, build_method
from sedona_nni.training.settings import TrainSettings

NO_SCALING = torch.amp.GradScaler("cpu", enabled=False)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=80), 0.25)


def plain_block() -> Block:
    """Without batch norm, which would see each part as its batch."""
    torch.manual_seed(1)
    layers = [nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh()), nn.Conv2d(5, 4, 3, stride=2)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 2 * 2, 6))
    return Block(layers, head).double()


@pytest.mark.parametrize("parts", [2, 3, 7, 20])
@pytest.mark.parametrize("shares", [False, True])
def test_parts_add_up_to_the_batch(parts: int, shares: bool) -> None:
    """Also 7 images in 3 parts, of 3, 3 and 1; and labels that are shares of classes."""
    torch.manual_seed(2)
    images, labels = torch.randn(7, 3, 8, 8).double(), torch.randint(6, (7,))
    targets = nn.functional.one_hot(labels, 6).double() if shares else labels
    found = []
    for accumulate in (1, parts):
        block = plain_block()
        optimizer = torch.optim.SGD(block.parameters(), lr=1.0)
        criterion = LabelSmoothing(0.1)
        features, loss, _ = block_step(
            block, optimizer, images, targets, criterion, NO_SCALING, accumulate=accumulate
        )
        assert not features.requires_grad
        assert not loss.requires_grad
        found.append([features, loss, *(weight.detach() for weight in block.parameters())])
    for whole, in_parts in zip(*found, strict=True):
        # The sum of parts is rounded in another order
        torch.testing.assert_close(in_parts, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize(
    ("backbone", "cuts"), [("vgg11", [2]), ("resnet18", []), ("dgl-cnn4", [0, 2])]
)
def test_layers_computed_again_change_nothing(
    splits: Splits, backbone: str, cuts: list[int]
) -> None:
    """Neither weights nor batch norms' statistics, nor what dropout draws."""
    found = []
    for checkpoint in ("no", "layers"):
        torch.manual_seed(0)
        network = build_decoupled(
            build_backbone(backbone, num_classes=10, width_multiplier=0.125),
            Decoupling(backbone=backbone, cuts=cuts, aux=["conv1"] * len(cuts)),
        )
        given = {"epochs": 2, "batch_size": 20, "lr": 0.05, "checkpoint": checkpoint}
        history: list[dict[str, float]] = []
        train(network, splits, TrainSettings.model_validate(given), report=history.append)
        found.append((network.state_dict(), history))
    (kept, kept_history), (again, again_history) = found
    assert kept_history == again_history
    for name, weights in kept.items():
        assert torch.equal(again[name], weights), name


class Counting(nn.Module):
    """Returns its input times how often it has been run."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.count += 1
        return features * self.count.clone()


def sharing() -> nn.Module:
    """Two of them with one count between them."""
    first, second = Counting(), Counting()
    second.count = first.count
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), first, second)


@pytest.mark.parametrize(
    "unit",
    [
        lambda: spectral_norm(nn.Conv2d(4, 4, 3, padding=1)),
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.InstanceNorm2d(4, track_running_stats=True)
        ),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(0.5)),
        lambda: sharing(),
    ],
)
def test_layers_computed_again_begin_where_they_began(unit: Callable[[], nn.Module]) -> None:
    """Where a layer keeps something between batches, e.g. a power iteration."""
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        block = Block([unit()], nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 6, 3)))
        block.checkpointed = checkpointed
        inputs = torch.randn(5, 4, 6, 6)
        loss, _ = block.local_loss(block(inputs), torch.arange(5) % 3, nn.CrossEntropyLoss())
        loss.backward()
        found.append([*(weight.grad for weight in block.parameters()), *block.buffers()])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=0)  # the same kernels, twice


def step_peak_mib(splits: Splits, **changes: Any) -> float:
    network = place(
        DecoupledNetwork(
            build_decoupled(
                build_backbone("resnet18", num_classes=10, width_multiplier=0.25),
                Decoupling(backbone="resnet18"),
            ).blocks
        ),
        "cpu",
    )
    settings = TrainSettings.model_validate({"batch_size": 32, **changes})
    method = build_method(network, settings, splits, 10)
    images, labels = torch.randn(32, 3, 32, 32), torch.arange(32) % 10
    return peak_memory_mib(lambda: method.rehearse(images, labels), torch.device("cpu"))


@pytest.mark.slow(reason="measures memory")
def test_both_need_less_memory(splits: Splits) -> None:
    plain = step_peak_mib(splits)
    assert step_peak_mib(splits, accumulate=4) < 0.6 * plain
    assert step_peak_mib(splits, checkpoint="layers") < 0.8 * plain


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 2, "method": "ddg"}, "accumulate must be 1 for the method ddg"),
        ({"accumulate": 2, "method": "cdni"}, "accumulate must be 1 for the method cdni"),
        ({"checkpoint": "layers", "method": "ddg"}, "checkpoint must be no for the method ddg"),
        ({"checkpoint": "blocks"}, "Input should be 'no' or 'layers'"),
        ({"parallel": "blocks", "method": "dni"}, "parallel must be no for the method dni, as a"),
        ({"parallel": "pipeline"}, "Input should be 'blocks'"),
        ({"parallel": {"name": "blocks", "replicas": 0}}, "replicas must be 1 or more, but got 0"),
        ({"parallel": {"replicas": 2}, "method": "ddg"}, "replicas must be 1 for the method ddg"),
        (
            {"parallel": "blocks", "method": {"name": "asynchronous", "order": "round-robin"}},
            "parallel must be no for the method asynchronous, as order and slow_block",
        ),
    ],
)
def test_what_does_not_go_together(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(fields)


def test_how_long_processes_wait_does_not_tell_trainings_apart() -> None:
    """So one that was interrupted goes on with more patience."""
    hasty = TrainSettings.model_validate({"parallel": {"patience_s": 2, "start_s": 5}})
    assert hasty == TrainSettings.model_validate({"parallel": "blocks"})
    assert hasty != TrainSettings.model_validate({"parallel": {"wire": "bf16"}})
    assert hasty != TrainSettings()
