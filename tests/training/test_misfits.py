"""Networks and settings that do not go with what `train` is given: one line, and no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sedona_nni as sn


def splits() -> sn.Splits:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    part = sn.MemoryImages(pixels, np.arange(40) % 4, mean=(0.5,), std=(0.3,))
    return sn.Splits(part, part, part, num_classes=4, image_size=16)


def network(
    channels: int = 3,
    classes: int = 4,
    change: Callable[[nn.Module], object] = lambda model: None,
    rule: str = "uniform:2:conv1",
) -> sn.DecoupledNetwork:
    model = nn.Sequential(
        nn.Conv2d(channels, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )
    change(model)
    kind = next(model.parameters()).dtype
    backbone = sn.as_backbone(model, torch.zeros(2, channels, 16, 16, dtype=kind), boundaries="all")
    decoupling = sn.decoupling_by_rule(rule, backbone.name, backbone.num_layers)
    return sn.build_decoupled(backbone, decoupling)


SETTINGS = sn.TrainSettings(epochs=1, batch_size=20, optimizer="adam", lr=0.003, lr_min=0)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"classes": 2}, "network: must have a logit for each of the 4 classes, but got 2"),
        (
            {"channels": 1},
            "network: must take images of the shape (3, 16, 16), but got 'RuntimeErr",
        ),
        (
            {"change": nn.Module.double},
            "network: must have weights in float32; half precision is the setting amp, but got "
            "'torch.float64 at blocks.0.layers.0.",
        ),
        (
            {"change": lambda model: model.requires_grad_(False), "rule": "backprop"},
            "network: must have weights that learn in each block, but got 'a block without'",
        ),
    ],
)
def test_a_network_that_does_not_go_with_the_images(how: dict[str, Any], message: str) -> None:
    with pytest.raises(sn.InputError) as caught:
        sn.train(network(**how), splits(), SETTINGS)
    assert str(caught.value).startswith(message)


def test_too_little_memory_stays_what_it_is() -> None:
    class Hungry(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not x.is_meta:
                raise torch.OutOfMemoryError("of the GPU")
            return x

    hungry = network(change=lambda model: model.insert(3, Hungry()))
    with pytest.raises(torch.OutOfMemoryError):
        sn.train(hungry, splits(), SETTINGS)


def test_another_error_stays_what_it_is() -> None:
    """Of code that runs in evaluation, and fails in training: nothing to be said of the images."""

    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training and not x.is_meta:
                raise RuntimeError("of my own")
            return x

    broken = network(change=lambda model: model.insert(3, Failing()))
    with pytest.raises(RuntimeError, match="of my own"):
        sn.train(broken, splits(), SETTINGS)


def test_processes_are_not_started_by_a_function() -> None:
    parallel = sn.TrainSettings.model_validate({**SETTINGS.model_dump(), "parallel": "blocks"})
    with pytest.raises(sn.InputError, match="parallel: must be None in one process; the command"):
        sn.train(network(), splits(), parallel)
    # What is not cut is one process wherever it is trained
    assert sn.train(network(rule="backprop"), splits(), parallel).best_epoch == 1


def test_paths_may_be_texts(tmp_path: Path) -> None:
    trained = network()
    sn.train(trained, splits(), SETTINGS, directory=str(tmp_path / "trained"))
    sn.load_weights(network(), str(tmp_path / "trained" / "model.safetensors"))
    sn.export(trained, str(tmp_path / "plain.safetensors"))
    two = sn.Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
    two.save(str(tmp_path / "two.json"))
    assert sn.load_decoupling(str(tmp_path / "two.json")) == two
    assert sn.Decoupling.load(str(tmp_path / "two.json")) == two
    for load in (sn.load_outcome, sn.load_decoupling, sn.Decoupling.load):
        with pytest.raises(sn.InputError, match="cannot be read"):
            load(str(tmp_path / "none.json"))
    with pytest.raises(sn.InputError, match=r"weights: .*none\.pt"):
        sn.build_backbone("vgg11", num_classes=4, weights=str(tmp_path / "none.pt"))
