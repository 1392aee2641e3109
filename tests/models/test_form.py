"""Modules that are built alike."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision.models import SwinTransformer

from sedona_nni.models import as_backbone, build_backbone
from sedona_nni.models.form import form_of


def test_repeated_units_of_a_cut_model_are_alike() -> None:
    """The 2nd to 6th bottleneck of ResNet-50's third stage; not the first, nor those of others."""
    with torch.device("meta"):
        backbone = build_backbone("torchvision:resnet50", num_classes=10, image_size=64)
    forms = dict(zip(backbone.layer_names, map(form_of, backbone.layers), strict=True))
    alike = [name for name, form in forms.items() if form == forms["layer3.3"]]
    assert alike == ["layer3.1", "layer3.2", "layer3.3", "layer3.4", "layer3.5"]


def test_what_no_text_of_a_module_shows_counts() -> None:
    """Every second window of a Swin transformer is shifted, which its text does not say."""
    model = SwinTransformer([4, 4], 8, [5], [2], [2, 2], stochastic_depth_prob=0, num_classes=3)
    first, *rest = as_backbone(model, torch.zeros(2, 3, 32, 32)).layers
    one, two, three, four = map(form_of, rest)
    assert one == three != two == four
    assert form_of(first) not in (one, two)


def test_each_difference_is_one() -> None:
    def unit() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1))

    assert form_of(unit()) == form_of(unit())
    others = [unit() for _ in range(6)]
    others[0][0] = nn.Linear(3, 5)
    others[1][1] = nn.Dropout(0.2)
    others[2].eval()
    others[3][0].requires_grad_(False)
    others[4].double()
    others[5].add_module("last", nn.ReLU())
    assert all(form_of(other) != form_of(unit()) for other in others)


def test_what_cannot_be_compared_is_another_thing_each_time() -> None:
    """Functions are what they are; of what is made for one module alone nothing is known."""
    one, same, other = (cast(Any, nn.Identity()) for _ in range(3))
    one.act, same.act, other.act = torch.relu, torch.relu, torch.sigmoid
    assert form_of(one) == form_of(same) != form_of(other)
    one.act, same.act = partial(torch.relu), partial(torch.relu)
    assert form_of(one) != form_of(same)
    one.act = same.act = {"of": [1]}
    assert form_of(one) != form_of(same)
