"""Models that are cut learn by every method, as backbones of ours do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.task import Task
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import train
from sedona_nni.training.settings import TrainSettings

SIZE = 16


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=80, image_size=SIZE), 0.25)


def learned(
    splits: Splits, model: str, cut: int, aux: str, args: dict[str, Any], **changes: Any
) -> dict[str, Tensor]:
    """Train a small model with one cut; return its state."""
    fields = {"model": f"small_models:{model}", "model_args": args, "image_size": SIZE}
    task = Task.model_validate(fields)
    decoupling = Decoupling(backbone=task.backbone, cuts=[cut], aux=[aux])
    settings = TrainSettings.model_validate({"epochs": 1, "batch_size": 20, "lr": 0.05, **changes})
    network = initial_network(task, decoupling, settings.seed)
    train(network, splits, settings)
    return network.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize(
    ("method", "aux"),
    [
        ("greedy", "conv1"),
        ("sequential", "linear"),
        ("asynchronous", "conv1"),
        ("ddg", "none"),
        ("dni", "none"),
    ],
)
def test_activations_in_place_change_nothing_that_is_kept(
    method: str, aux: str, splits: Splits
) -> None:
    """Where units begin with them: neither what the block below or a buffer keeps, nor what an
    auxiliary network sees."""
    found = [
        learned(splits, "activation_first", 1, aux, {"in_place": in_place}, method=method)
        for in_place in (True, False)
    ]
    assert same(*found)


@pytest.mark.parametrize(
    ("model", "args"), [("vit", {"dropout": 0.3}), ("convnext", {}), ("resnet", {})]
)
def test_what_is_computed_again_draws_the_same(
    model: str, args: dict[str, Any], splits: Splits
) -> None:
    """Dropout and stochastic depth; batch norms see a batch once."""
    found = [
        learned(splits, model, 1, "linear", args, checkpoint=checkpoint)
        for checkpoint in ("layers", "no")
    ]
    assert same(*found)


@pytest.mark.parametrize(("model", "cut"), [("vit", 0), ("swin", 2)])
@pytest.mark.parametrize("method", ["greedy", "sequential", "asynchronous", "ddg"])
def test_every_method_lets_tokens_and_channels_that_come_last_cross(
    model: str, cut: int, method: str, splits: Splits
) -> None:
    aux = "none" if method == "ddg" else "conv1"
    state = learned(splits, model, cut, aux, {}, method=method)
    start = initial_network(
        Task.model_validate({"model": f"small_models:{model}", "image_size": SIZE}),
        Decoupling(backbone=f"small_models:{model}", cuts=[cut], aux=[aux]),
        TrainSettings().seed,
    ).state_dict()
    assert all(each.isfinite().all() for each in state.values())
    for block in ("blocks.0.layers.", "blocks.1."):
        assert any(not torch.equal(state[x], start[x]) for x in state if x.startswith(block))


@pytest.mark.parametrize(("model", "cut"), [("vit", 0), ("swin", 2)])
def test_gradients_are_guessed_of_maps_alone(model: str, cut: int, splits: Splits) -> None:
    with pytest.raises(InputError, match=r"^method: must be another where no maps cross .* 'dni'$"):
        learned(splits, model, cut, "none", {}, method="dni")
