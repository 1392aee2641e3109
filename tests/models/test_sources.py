"""Models from elsewhere, by name: what they are given, how they are cut, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from sedona_nni.errors import InputError
from sedona_nni.models import as_backbone, build_backbone, num_layers
from sedona_nni.models.feature_shape import FeatureShape

NETS = """
from torch import nn

def build(num_classes, image_size, width=8):
    assert image_size in (16, (16, 24))
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(True)),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(True)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes)),
    )

def fixed(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))

def text(num_classes):
    return "no module"

def broken(num_classes):
    raise RuntimeError("out of paint")
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module of one's own that lies in the current folder."""
    name = f"nets_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def test_it_is_the_model_with_the_weights_that_its_own_code_draws() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("torchvision:resnet18", num_classes=5, image_size=32)
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(backbone(images), model(images))
    assert backbone.layer_names[-1] == "layer4.1"


def test_finding_layers_draws_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.device("meta"):
        backbone = build_backbone(
            'torchvision:resnet18 {"boundaries": 3}', num_classes=4, image_size=(32, 64)
        )
    assert all(weight.is_meta for weight in backbone.parameters())
    assert backbone.num_layers == 3
    assert torch.equal(torch.rand(1), expected)


def test_a_transformer_is_told_the_size_of_images() -> None:
    name = 'timm:vit_tiny_patch16_224 {"args": {"depth": 2, "embed_dim": 12}}'
    backbone = build_backbone(name, num_classes=3, image_size=(32, 48))
    assert backbone.shapes[-1] == FeatureShape(12, (2, 3), "tokens", 1)
    assert backbone(torch.rand(2, 3, 32, 48)).shape == (2, 3)


def test_ones_own_function(nets: str) -> None:
    name = f'{nets}:build {{"args": {{"width": 4}}, "boundaries": "all"}}'
    backbone = build_backbone(name, num_classes=3, image_size=(16, 24))
    assert backbone.name == name
    assert FeatureShape(8, (8, 12)) in backbone.shapes
    assert num_layers(name, (16, 24)) == backbone.num_layers
    assert backbone(torch.rand(2, 3, 16, 24)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet81", "model: must be one that torchvision has, like .*'torchvision:r"),
        ("timm:vit_tinny", "model: must be one that timm has, like .*vit_tiny.*'timm:vit_tinny'"),
        ("torchvision:", "model: must be like torchvision:resnet50, .*, but got 'torchvision:'"),
        ("torchvision:resnet18 {]", "model: must be like .*, but got 'torchvision:resnet18 {]'"),
        (
            'torchvision:resnet18 {"args": {"colour": 1}}',
            "model_args: must be what torchvision:resnet18 takes, .*'colour'.*, but got {'colour'",
        ),
        (
            'torchvision:resnet18 {"args": {"num_classes": 5}}',
            "model_args: must not have num_classes, which the images give, but got 5",
        ),
        (
            'torchvision:resnet18 {"boundaries": 99}',
            "boundaries: must be 1 to [0-9]+ layers, but got 99",
        ),
        ("no_such_module:build", "model: no_such_module cannot be loaded .*"),
        ("NETS:bild", "model: must be one that .* has, like build, but got 'NETS:bild'"),
        ("NETS:text", "model: must be made by a function that returns an nn.Module, .*'str'"),
        ("NETS:broken", "model_args: must be what .*: out of paint.*"),
        ("NETS:fixed", "model: must return logits of 3 classes, .*'NETS:fixed, which has 7'"),
    ],
)
def test_refused(nets: str, name: str, message: str) -> None:
    name, message = (text.replace("NETS", nets) for text in (name, message))
    with pytest.raises(InputError, match=f"^{message}") as caught:
        build_backbone(name, num_classes=3, image_size=16)
    assert "\n" not in str(caught.value)


def test_what_belongs_to_our_own_backbones_alone() -> None:
    with pytest.raises(InputError, match=r"^width_multiplier: must be 1 for torchvision:resnet18"):
        build_backbone("torchvision:resnet18", num_classes=3, width_multiplier=2)
    with pytest.raises(InputError, match=r"^stem: must be published for torchvision:resnet18"):
        build_backbone("torchvision:resnet18", num_classes=3, stem="torchvision")


def test_a_module_of_ones_own() -> None:
    model = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.ReLU(True)) for c in (1, 4, 4)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)),
    )
    backbone = as_backbone(model, torch.zeros(1, 1, 10, 12), name="mine")
    assert (backbone.name, backbone.num_classes, backbone.in_channels) == ("mine", 6, 1)
    assert backbone.boundaries[0] == FeatureShape(4, (10, 12))
    images = torch.rand(3, 1, 10, 12)
    assert torch.equal(backbone(images), model(images))
