"""Backbones: sizes as published, shapes, initialisation, wrong input, derivatives."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sedona_nni import backbones
from sedona_nni.backbones import (
    ACTIVATIONS,
    BACKBONES,
    Architecture,
    Backbone,
    BackboneContext,
    FeatureShape,
    Layer,
    backbone_names,
    build_backbone,
    initialise,
    num_layers,
)
from sedona_nni.cost import count_parameters
from sedona_nni.errors import InputError


def on_meta(name: str, **settings: object) -> Backbone:
    """Build without weights: sizes only."""
    with torch.device("meta"):
        return build_backbone(name, **{"num_classes": 10, **settings})  # type: ignore[arg-type]


# name, L, trunk, head: width multiplier 1, 3x32x32 images, 10 classes
CIFAR = [
    ("vgg11", 8, 577_808, 1_191_946),
    ("vgg13", 10, 589_424, 1_191_946),
    ("vgg16", 13, 921_840, 1_191_946),
    ("vgg19", 16, 1_254_256, 1_191_946),
    ("resnet18", 8, 700_176, 1_290),
    ("resnet34", 16, 1_333_328, 1_290),
    ("resnet50", 16, 1_479_056, 5_130),
    ("resnet101", 33, 2_675_856, 5_130),
    ("resnet152", 50, 3_662_224, 5_130),
]


def test_the_published_backbones_are_all_there() -> None:
    assert backbone_names() == [name for name, *_ in CIFAR]


@pytest.mark.parametrize(("name", "layers", "trunk", "head"), CIFAR)
def test_parameters_at_cifar_size(name: str, layers: int, trunk: int, head: int) -> None:
    backbone = on_meta(name)
    assert num_layers(name) == backbone.num_layers == layers
    assert len(backbone.boundaries) == layers - 1
    assert len(set(backbone.layer_names)) == layers
    assert count_parameters(backbone.layers) == trunk
    assert count_parameters(backbone.head) == head
    assert count_parameters(backbone) == trunk + head


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet50", 25_557_032),
        ("resnet152", 60_192_808),
        ("vgg19", 143_672_744),
        # torchvision's own of these: 11,689,512 and 44,549,160; VGG there has 2,752 conv biases
        ("resnet18", 11_689_512),
        ("resnet101", 44_549_160),
        ("vgg11", 132_868_840 - 2_752),
    ],
)
def test_parameters_at_imagenet_size(name: str, parameters: int) -> None:
    backbone = on_meta(name, num_classes=1000, image_size=224, width_multiplier=4)
    assert count_parameters(backbone) == parameters


# Output (channels, size) of each run of equal layers, as (number of layers, channels, size)
@pytest.mark.parametrize(
    ("name", "settings", "runs"),
    [
        ("vgg11", {}, [(1, 16, 32), (1, 32, 16), (2, 64, 8), (2, 128, 4), (2, 128, 2)]),
        ("vgg19", {}, [(2, 16, 32), (2, 32, 16), (4, 64, 8), (4, 128, 4), (4, 128, 2)]),
        (
            "vgg11",
            {"image_size": 50, "width_multiplier": 2},  # 50 -> 25 -> 12 -> 6 -> 3
            [(1, 32, 50), (1, 64, 25), (2, 128, 12), (2, 256, 6), (2, 256, 3)],
        ),
        ("resnet18", {}, [(2, 16, 32), (2, 32, 16), (2, 64, 8), (2, 128, 4)]),
        ("resnet50", {}, [(3, 64, 32), (4, 128, 16), (6, 256, 8), (3, 512, 4)]),
        ("resnet18", {"image_size": 64}, [(2, 16, 32), (2, 32, 16), (2, 64, 8), (2, 128, 4)]),
        ("resnet18", {"image_size": 66}, [(2, 16, 17), (2, 32, 9), (2, 64, 5), (2, 128, 3)]),
        ("resnet18", {"image_size": 63}, [(2, 16, 63), (2, 32, 32), (2, 64, 16), (2, 128, 8)]),
        (
            "resnet50",
            {"image_size": 224, "width_multiplier": 4},
            [(3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)],
        ),
        ("resnet18", {"image_size": 8}, [(2, 16, 8), (2, 32, 4), (2, 64, 2), (2, 128, 1)]),
        (
            "vgg11",
            {"width_multiplier": 0.01},
            [(1, 1, 32), (1, 1, 16), (2, 1, 8), (2, 1, 4), (2, 1, 2)],
        ),
    ],
)
def test_stated_shapes_are_the_true_ones(
    name: str, settings: dict[str, float], runs: list[tuple[int, int, int]]
) -> None:
    backbone = on_meta(name, in_channels=1, **settings)
    expected = [FeatureShape(width, size) for number, width, size in runs for _ in range(number)]
    assert backbone.shapes == expected
    features = torch.empty(2, 1, backbone.image_size, backbone.image_size, device="meta")
    for layer, shape in zip(backbone.layers, backbone.shapes, strict=True):
        features = layer(features)
        assert features.shape == (2, shape.channels, shape.size, shape.size)
    assert backbone.head(features).shape == (2, 10)


def test_forward_is_layers_then_head() -> None:
    backbone = build_backbone("vgg11", num_classes=3, in_channels=1, width_multiplier=0.25).eval()
    images = torch.randn(2, 1, 32, 32)
    features = images
    for layer in backbone.layers:
        features = layer(features)
    assert torch.equal(backbone(images), backbone.head(features))


def test_a_pool_belongs_to_the_front_of_the_next_layer() -> None:
    backbone = on_meta("vgg11")
    pools = [isinstance(next(layer.children()), nn.MaxPool2d) for layer in backbone.layers]
    assert pools == [False, True, True, False, True, False, True, False]
    assert isinstance(backbone.head[0], nn.MaxPool2d)  # type: ignore[index]


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
def test_no_convolution_has_a_bias_and_nothing_works_in_place(name: str) -> None:
    parts = list(on_meta(name).modules())
    assert all(part.bias is None for part in parts if isinstance(part, nn.Conv2d))
    activations = [part for part in parts if isinstance(part, nn.ReLU)]
    assert activations
    assert not any(part.inplace for part in activations)


def test_torchvisions_resnet_computes_the_same() -> None:
    """At multiplier 4 and 224 pixels ours is torchvision's network: copy the weights, compare."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    ours = build_backbone("resnet18", num_classes=5, image_size=224, width_multiplier=4).eval()
    theirs = resnet18(num_classes=5).eval()
    weights = iter(theirs.state_dict().values())
    ours.load_state_dict({key: next(weights) for key in ours.state_dict()})
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours(images), theirs(images))


def test_initialisation() -> None:
    """Kaiming normal: standard deviation sqrt(2 / fan_in), biases 0, batch norm 1 and 0."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=2)
    for part in backbone.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            fan_in = part.weight[0].numel()
            relative = part.weight.std().item() / math.sqrt(2 / fan_in)
            # three standard errors of a standard deviation estimated from n numbers
            assert relative == pytest.approx(1, abs=3 / math.sqrt(2 * part.weight.numel()))
            assert part.weight.abs().max() > 2.2 * math.sqrt(2 / fan_in)  # normal, not uniform
        if isinstance(part, nn.Linear):
            assert not part.bias.any()
        if isinstance(part, nn.BatchNorm2d):
            assert (part.weight == 1).all()
            assert (part.bias == 0).all()


def test_initialise_draws_anew_and_follows_the_seed() -> None:
    backbone = build_backbone("resnet18", num_classes=2, width_multiplier=0.25)
    backbone(torch.randn(4, 3, 32, 32))  # moves the running statistics
    torch.manual_seed(5)
    initialise(backbone)
    first = {key: value.clone() for key, value in backbone.state_dict().items()}
    torch.manual_seed(5)
    again = build_backbone("resnet18", num_classes=2, width_multiplier=0.25)
    # building draws torch's default weights first, so seed once more to compare
    torch.manual_seed(5)
    initialise(again)
    assert all(torch.equal(first[key], value) for key, value in again.state_dict().items())
    initialise(again)
    assert not torch.equal(first["head.2.weight"], again.state_dict()["head.2.weight"])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "vgg12",
            {},
            "backbone: must be one of vgg11, vgg13, vgg16, vgg19, resnet18, resnet34, resnet50, "
            "resnet101, resnet152, but got 'vgg12'",
        ),
        ("vgg11", {"image_size": 31}, "image_size: must be at least 32 for vgg11, but got 31"),
        ("resnet18", {"image_size": 7}, "image_size: must be at least 8 for resnet18, but got 7"),
        ("vgg11", {"num_classes": 1}, "num_classes: must be at least 2, but got 1"),
        ("vgg11", {"in_channels": 0}, "in_channels: must be at least 1, but got 0"),
        (
            "vgg11",
            {"width_multiplier": 0.0},
            "width_multiplier: must be a finite number above 0, but got 0.0",
        ),
        (
            "vgg11",
            {"width_multiplier": float("nan")},
            "width_multiplier: must be a finite number above 0, but got nan",
        ),
    ],
)
def test_wrong_input(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        on_meta(name, **settings)
    assert str(caught.value) == message


def test_num_layers_of_an_unknown_backbone() -> None:
    with pytest.raises(InputError, match=r"must be one of vgg11, .*resnet152, but got 'x'"):
        num_layers("x")


def test_another_family_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(depth: int, context: BackboneContext) -> tuple[list[Layer], nn.Module]:
        shape = FeatureShape(context.in_channels, context.image_size)
        layers = [Layer(f"tanh{i}", nn.Tanh(), shape) for i in range(depth)]
        width = shape.channels * shape.size**2
        return layers, nn.Sequential(nn.Flatten(), nn.Linear(width, context.num_classes))

    monkeypatch.setitem(backbones.BACKBONES, "mine", Architecture(3, partial(build, 3), 1))
    assert "mine" in backbone_names()
    backbone = build_backbone("mine", num_classes=2, image_size=4)
    assert backbone.num_layers == num_layers("mine") == 3
    assert backbone(torch.randn(2, 3, 4, 4)).shape == (2, 2)


def test_registered_layer_counts_are_the_true_ones() -> None:
    for name in BACKBONES:
        assert len(on_meta(name).layers) == num_layers(name)


# torch's own forward mode uses torch.jit.script when it is first needed
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50"])
def test_derivatives(name: str) -> None:
    """In float64, in training mode: forward mode and double backward through functional_call.

    With g(w) = dL/dw, the Hessian-vector product H v is taken twice, as the reverse derivative of
    g . v and by forward mode over reverse mode; and v . g by forward mode alone.
    """
    torch.manual_seed(0)
    backbone = build_backbone(
        name, num_classes=3, in_channels=1, width_multiplier=0.125, activation=nn.Softplus
    ).double()
    for dropout in backbone.modules():
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
    images, labels = torch.randn(3, 1, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2])
    weights = {key: value.detach() for key, value in backbone.named_parameters()}
    # Batch statistics are used; running ones are copied so that every call starts from the same
    buffers = {key: value.clone() for key, value in backbone.named_buffers()}
    v = {key: torch.randn_like(value) for key, value in weights.items()}

    def loss(w: dict[str, torch.Tensor]) -> torch.Tensor:
        state = {**w, **{key: value.clone() for key, value in buffers.items()}}
        return F.cross_entropy(functional_call(backbone, state, (images,)), labels)

    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    along = sum((g * v[key]).sum() for g, key in zip(gradient, leaves, strict=True))
    assert isinstance(along, torch.Tensor)
    product = torch.autograd.grad(along, list(leaves.values()))

    _, slope = torch.func.jvp(loss, (weights,), (v,))
    torch.testing.assert_close(slope, along.detach())
    _, forward_over_reverse = torch.func.jvp(torch.func.grad(loss), (weights,), (v,))
    for key, expected in zip(leaves, product, strict=True):
        torch.testing.assert_close(forward_over_reverse[key], expected, rtol=1e-6, atol=1e-9)

    step = 1e-6  # an independent check of the slope: central differences
    moved = [loss({key: weights[key] + s * v[key] for key in weights}) for s in (step, -step)]
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), slope, rtol=1e-6, atol=1e-7)


def test_leaky_relu_everywhere_with_its_own_initialisation() -> None:
    """Kaiming normal with slope a: the variance is 2 / ((1 + a^2) fan_in)."""
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", num_classes=10, activation=ACTIVATIONS["leakyrelu"])
    kinds = {type(part) for part in backbone.modules()}
    assert nn.LeakyReLU in kinds
    assert nn.ReLU not in kinds
    steep = nn.Sequential(nn.Linear(400, 400), nn.LeakyReLU(2.0))
    initialise(steep)
    assert steep[0].weight.var().item() == pytest.approx(2 / (1 + 2**2) / 400, rel=0.02)
