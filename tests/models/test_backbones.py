"""Backbones: sizes as published, shapes, initialisation, wrong input, derivatives."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import torch
from documented import run_example
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sedona_nni.decouplings.cost import count_parameters, head_cost
from sedona_nni.errors import InputError
from sedona_nni.models import (
    ACTIVATIONS,
    BACKBONES,
    Backbone,
    BackboneContext,
    FeatureShape,
    Layer,
    Stem,
    backbone_names,
    build_backbone,
    initialise,
    num_layers,
    register_backbone,
    stem_words,
)
from sedona_nni.teachers.auxiliary import auxiliary_context, build_auxiliary


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


def units(*widths: int, kernel: int = 3, bias: bool = True) -> int:
    """Count convolution units from 3 channels through these widths: weights, batch norm, bias."""
    pairs = pairwise((3, *widths))
    return sum(kernel**2 * a * b + (3 if bias else 2) * b for a, b in pairs)


def perceptron(*widths: int, norm: int = 2) -> int:
    """Count linear layers with biases; all but the last have ``norm`` more numbers per output."""
    pairs = list(pairwise(widths))
    return sum((a + 1 + norm) * b for a, b in pairs) - norm * widths[-1]


# DGL's and DNI's, likewise. cifar-resnet110: stem, 18 blocks of 16, then two stages whose first
# block widens: 9 * 32 * 48 + 128 and 9 * 64 * 96 + 256
R110 = (27 * 16 + 32) + 18 * 4_672 + (13_952 + 17 * 18_560) + (55_552 + 17 * 73_984)
R56 = (27 * 16 + 32) + 9 * 4_672 + (13_952 + 8 * 18_560) + (55_552 + 8 * 73_984)


def local_resnet(depth: int) -> int:
    """Count those of InfoPro's, whose two shortcuts between stages have weights."""
    shortcuts = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    rest = depth - 1
    stages = depth * 4_672 + (13_952 + rest * 18_560) + (55_552 + rest * 73_984)
    return (27 * 16 + 32) + stages + shortcuts


DGL = [
    ("dgl-cnn6", 6, units(128, 256, 256, 512, 512, 512), perceptron(2048, 2048, 2048, 10)),
    ("dgl-cnn4", 4, units(64, 128, 128, 256), perceptron(1024, 1024, 1024, 10)),
    (
        "dgl-cnn6-buffer",
        6,
        units(128, 128, 256, 256, 512, 512, bias=False),
        perceptron(2048, 2048, 2048, 2048, 10),
    ),
    (
        "dgl-vgg11",
        8,
        units(64, 128, *[256] * 2, *[512] * 4),
        perceptron(512, 4096, 4096, 10, norm=0),
    ),
    (
        "dgl-vgg13",
        10,
        units(64, 64, 128, 128, *[256] * 2, *[512] * 4),
        perceptron(512, 4096, 4096, 10, norm=0),
    ),
    (
        "dgl-vgg16",
        13,
        units(64, 64, 128, 128, *[256] * 3, *[512] * 6),
        perceptron(512, 4096, 4096, 10, norm=0),
    ),
    (
        "dgl-vgg19",
        16,
        units(64, 64, 128, 128, *[256] * 4, *[512] * 8),
        perceptron(512, 4096, 4096, 10, norm=0),
    ),
    ("dni-cnn", 4, units(128, 128, 128, kernel=5), 1_290),
    ("cifar-resnet110", 54, R110, 650),
    ("cifar-resnet56", 27, R56, 650),
    ("local-resnet32", 16, local_resnet(5), 650),
    ("local-resnet110", 55, local_resnet(18), 650),
]


def test_the_published_backbones_are_all_there() -> None:
    assert backbone_names() == [name for name, *_ in CIFAR + DGL]


@pytest.mark.parametrize(("name", "layers", "trunk", "head"), CIFAR + DGL)
def test_parameters_at_cifar_size(name: str, layers: int, trunk: int, head: int) -> None:
    backbone = on_meta(name)
    assert num_layers(name) == backbone.num_layers == layers
    assert len(backbone.boundaries) == layers - 1
    assert len(set(backbone.layer_names)) == layers
    assert count_parameters(backbone.layers) == trunk
    assert count_parameters(backbone.head) == head
    assert count_parameters(backbone) == trunk + head


@pytest.mark.fast_cases(2)
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
        ("dgl-vgg13", 133_053_736),  # vgg13_bn
        ("dgl-vgg19", 143_678_248),  # vgg19_bn
    ],
)
def test_parameters_at_imagenet_size(name: str, parameters: int) -> None:
    multiplier = 1 if name.startswith("dgl") else 4
    backbone = on_meta(name, num_classes=1000, image_size=224, width_multiplier=multiplier)
    assert count_parameters(backbone) == parameters


# Output (channels, size) of each run of equal layers, as (number of layers, channels, size)
@pytest.mark.fast_cases(2)
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
        ("resnet18", {"image_size": 65}, [(2, 16, 17), (2, 32, 9), (2, 64, 5), (2, 128, 3)]),
        (
            "resnet18",
            {"image_size": 64, "stem": "torchvision"},
            [(2, 16, 16), (2, 32, 8), (2, 64, 4), (2, 128, 2)],
        ),
        (
            "resnet50",
            {"image_size": 8, "stem": "torchvision"},
            [(3, 64, 2), (4, 128, 1), (6, 256, 1), (3, 512, 1)],
        ),
        ("resnet18", {"image_size": 63}, [(2, 16, 63), (2, 32, 32), (2, 64, 16), (2, 128, 8)]),
        (
            "resnet50",
            {"image_size": 224, "width_multiplier": 4},
            [(3, 256, 56), (4, 512, 28), (6, 1024, 14), (3, 2048, 7)],
        ),
        ("dgl-cnn6", {}, [(1, 128, 32), (2, 256, 16), (3, 512, 8)]),
        ("dgl-cnn6-buffer", {}, [(2, 128, 32), (2, 256, 16), (2, 512, 8)]),
        ("dgl-cnn4", {"image_size": 28}, [(1, 64, 28), (2, 128, 14), (1, 256, 7)]),
        (
            "dgl-cnn4",
            {"image_size": 8, "width_multiplier": 0.01},
            [(1, 1, 8), (2, 2, 4), (1, 4, 2)],
        ),
        ("dni-cnn", {}, [(1, 128, 10), (1, 128, 3), (2, 128, 1)]),
        ("dni-cnn", {"image_size": 224}, [(1, 128, 74), (1, 128, 24), (1, 128, 8), (1, 128, 1)]),
        ("cifar-resnet110", {}, [(18, 16, 32), (18, 32, 16), (18, 64, 8)]),
        ("cifar-resnet56", {}, [(9, 16, 32), (9, 32, 16), (9, 64, 8)]),
        ("local-resnet32", {}, [(6, 16, 32), (5, 32, 16), (5, 64, 8)]),
        ("cifar-resnet110", {"image_size": 9}, [(18, 16, 9), (18, 32, 5), (18, 64, 3)]),
        ("resnet18", {"image_size": 8}, [(2, 16, 8), (2, 32, 4), (2, 64, 2), (2, 128, 1)]),
        (
            "vgg11",
            {"width_multiplier": 0.01},
            [(1, 1, 32), (1, 1, 16), (2, 1, 8), (2, 1, 4), (2, 1, 2)],
        ),
    ],
)
def test_stated_shapes_are_the_true_ones(
    name: str, settings: dict[str, Any], runs: list[tuple[int, int, int]]
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


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(
    ("size", "stem", "same"),
    [
        (32, "torchvision", True),
        (33, "torchvision", True),
        (64, "torchvision", True),
        (64, "published", False),  # the same weights without the max-pool
        (65, "published", True),
        (65, "torchvision", True),
        (224, "published", True),
    ],
)
def test_torchvisions_resnet_computes_the_same(
    name: str, size: int, stem: Stem, same: bool
) -> None:
    """At multiplier 4 ours is torchvision's network: copy the weights, compare in float64."""
    import torchvision.models

    torch.manual_seed(0)
    form = {"num_classes": 5, "image_size": size, "width_multiplier": 4}
    ours = build_backbone(name, **form, stem=stem).double().eval()
    theirs = getattr(torchvision.models, name)(num_classes=5).double().eval()
    for module in ours.modules():  # statistics that are not the identity
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    weights = iter(ours.state_dict().values())
    theirs.load_state_dict({key: next(weights) for key in theirs.state_dict()})
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    one, other = ours(images), theirs(images)
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-9 * other.abs().max().item()) == same


def test_the_published_stem_is_torchvisions_from_65_pixels_on() -> None:
    sizes = (8, 63, 64, 65, 224)
    form = {"num_classes": 5, "width_multiplier": 0.1}
    for size in sizes:
        with torch.device("meta"):
            words = [
                stem_words(build_backbone("resnet18", **form, image_size=size, stem=stem))
                for stem in ("published", "torchvision")
            ]
        theirs = "7x7 convolution of stride 2, max-pool"
        ours = {8: "3x3 convolution", 63: "3x3 convolution", 64: "7x7 convolution of stride 2"}
        assert words == [f"published, {ours.get(size, theirs)}", f"torchvision, {theirs}"]


@pytest.mark.parametrize("name", ["vgg11", "dgl-cnn4", "cifar-resnet110"])
def test_a_backbone_without_a_choice_of_stem_refuses_another(name: str) -> None:
    assert stem_words(on_meta(name)) is None
    with pytest.raises(InputError, match=rf"^stem: must be published for {name}, but got 'torch"):
        on_meta(name, stem="torchvision")


def test_what_dgl_publishes_of_its_networks() -> None:
    """Its trunk of 6.79M weights; its head of 8.42M weights and 8.41M MACs."""
    backbone = on_meta("dgl-cnn6")
    assert round(count_parameters(backbone.layers) / 1e6, 2) == 6.79
    head = head_cost(backbone)
    assert (round(head.parameters / 1e6, 2), round(head.macs / 1e6, 2)) == (8.42, 8.41)
    for name, biased in (("dgl-cnn6", True), ("dgl-cnn6-buffer", False), ("dgl-vgg13", True)):
        convs = [part for part in on_meta(name).modules() if isinstance(part, nn.Conv2d)]
        assert {part.bias is not None for part in convs} == {biased}
    dropouts = [part for part in on_meta("dgl-vgg13").modules() if isinstance(part, nn.Dropout)]
    assert {part.p for part in dropouts} == {0.0}
    assert {part.p for part in on_meta("vgg13").modules() if isinstance(part, nn.Dropout)} == {0.5}


def test_the_head_of_dgls_networks_step_by_step() -> None:
    backbone = build_backbone("dgl-cnn4", num_classes=3, width_multiplier=1 / 16).eval()
    features = torch.randn(2, 16, 8, 8)
    weights = iter(backbone.head.parameters())
    x = F.avg_pool2d(features, 4).flatten(1)
    for _ in range(2):
        x = F.linear(x, next(weights), next(weights)) / (1 + 1e-5) ** 0.5
        x = x.relu()
        next(weights), next(weights)
    torch.testing.assert_close(backbone.head(features), F.linear(x, next(weights), next(weights)))


def test_the_pools_of_dnis_network() -> None:
    """First the largest, then the mean of each 3x3, after the activation."""
    backbone = on_meta("dni-cnn")
    kinds = [type(layer[-1]) for layer in list(backbone.layers)[:3]]  # type: ignore[index]
    assert kinds == [nn.MaxPool2d, nn.AvgPool2d, nn.AvgPool2d]
    image = torch.randn(1, 128, 1, 1)
    assert torch.equal(nn.AdaptiveAvgPool2d(1)(image), image)  # the fourth layer, at 32 pixels


def test_shortcuts_without_weights() -> None:
    """A block that adds nothing of its own leaves its shortcut: every second pixel, then zeros."""
    backbone = build_backbone("cifar-resnet110", num_classes=2, width_multiplier=0.25).eval()
    widening = backbone.layers[18]
    for name, weight in widening.named_parameters():
        if name.startswith("conv2"):
            nn.init.zeros_(weight)
    features = torch.rand(2, 4, 6, 6)  # what a ReLU leaves is not changed by another
    expected = torch.cat([features[:, :, ::2, ::2], torch.zeros(2, 4, 3, 3)], dim=1)
    assert torch.equal(widening(features), expected)


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
            f"backbone: must be one of {', '.join(BACKBONES)} "
            "(or torchvision:<model>, timm:<model> or <module>:<function>), but got 'vgg12'",
        ),
        ("vgg11", {"image_size": 31}, "image_size: must be at least 32 for vgg11, but got 31"),
        ("resnet18", {"image_size": 7}, "image_size: must be at least 8 for resnet18, but got 7"),
        ("vgg11", {"num_classes": 1}, "num_classes: must be at least 2, but got 1"),
        ("vgg11", {"in_channels": 0}, "in_channels: must be at least 1, but got 0"),
        (
            "vgg11",
            {"width_multiplier": 0.0},
            "width_multiplier: must be above 0 and at most 1,000, but got 0.0",
        ),
        (
            "vgg11",
            {"width_multiplier": float("nan")},
            "width_multiplier: must be above 0 and at most 1,000, but got nan",
        ),
    ],
)
def test_wrong_input(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError) as caught:
        on_meta(name, **settings)
    assert str(caught.value) == message


def test_num_layers_of_an_unknown_backbone() -> None:
    with pytest.raises(InputError, match=r"must be one of vgg11, .*resnet152, .*but got 'x'"):
        num_layers("x")


def test_the_documented_example_works() -> None:
    run_example(register_backbone)
    try:
        assert backbone_names()[-1] == "tiny"
        backbone = build_backbone("tiny", num_classes=2, image_size=4)
        assert backbone.num_layers == num_layers("tiny") == 3
        assert backbone.boundaries == [FeatureShape(8, 4)] * 2
        assert backbone(torch.randn(2, 3, 4, 4)).shape == (2, 2)
        with pytest.raises(InputError, match="image_size: must be at least 4 for tiny, but got 3"):
            build_backbone("tiny", num_classes=2, image_size=3)
    finally:
        BACKBONES.remove("tiny")


def test_a_backbone_has_the_layers_that_it_was_registered_with() -> None:
    @register_backbone("mine", num_layers=3, smallest_image=1)
    def mine(context: BackboneContext) -> tuple[list[Layer], nn.Module]:
        return [Layer("one", nn.Identity(), FeatureShape(3, 4))], nn.Flatten()

    rule = "layers of mine: must be the 3 that it was registered with, but got 1"
    try:
        with pytest.raises(InputError, match=rule):
            build_backbone("mine", num_classes=48, image_size=4)
    finally:
        BACKBONES.remove("mine")


@pytest.mark.slow(reason="builds and trains networks")
def test_registered_layer_counts_are_the_true_ones() -> None:
    for name in BACKBONES:
        assert len(on_meta(name).layers) == num_layers(name)


# torch's own forward mode uses torch.jit.script when it is first needed
@pytest.mark.fast_cases(2)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50", "dgl-cnn4", "dni-cnn"])
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
    leaky = ACTIVATIONS["leakyrelu"]
    networks: list[nn.Module] = []
    for name in ("resnet18", "vgg11"):
        backbone = build_backbone(name, num_classes=10, activation=leaky)
        candidates = [build_auxiliary(c, auxiliary_context(backbone, 0)) for c in ("conv4", "cnn")]
        networks += [backbone, *candidates]
    for network in networks:
        kinds = {type(part) for part in network.modules()}
        assert nn.LeakyReLU in kinds
        assert nn.ReLU not in kinds
    steep = nn.Sequential(nn.Linear(400, 400), nn.LeakyReLU(2.0))
    initialise(steep)
    assert steep[0].weight.var().item() == pytest.approx(2 / (1 + 2**2) / 400, rel=0.02)


@pytest.mark.slow(reason="processes with kernels of their own")
@pytest.mark.parametrize(("isa", "images", "amp"), [("AVX2", 4, False), ("AVX512_CORE", 1, True)])
def test_narrow_resnets_survive_every_kernel(isa: str, images: int, amp: bool) -> None:
    """Strided shortcuts of few channels, trained in the layout of all trainings, step by step."""
    code = f"""
import torch
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place

torch.set_num_threads(2)
for width in (0.125, 0.25):
    network = place(build_backbone("resnet18", num_classes=3, width_multiplier=width), "cpu")
    network.eval()  # whose batch norms take single images
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16, enabled={amp}):
            logits = network(torch.randn({images}, 3, 32, 32))
        logits.float().sum().backward()
"""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "MALLOC_CHECK_": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_narrow_shortcut_is_a_strided_convolution() -> None:
    backbone = build_backbone("resnet18", num_classes=3, width_multiplier=0.125)
    shortcuts = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    (narrow,) = {
        type(m): m for m in shortcuts if m.kernel_size == (1, 1) and m.in_channels < 16
    }.values()
    features = torch.randn(2, narrow.in_channels, 7, 7)
    expected = F.conv2d(features, narrow.weight, stride=2)
    torch.testing.assert_close(narrow(features), expected)


@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50", "dgl-vgg11", "dgl-cnn4"])
def test_stated_shapes_of_rectangles_are_the_true_ones(name: str) -> None:
    """Each side is halved on its own; wide and high images, with sides that are odd."""
    for size in ((32, 48), (37, 64), (65, 33)):
        backbone = on_meta(name, image_size=size)
        assert backbone.image_size == size
        features = torch.empty(2, 3, *size, device="meta")
        for layer, shape in zip(backbone.layers, backbone.shapes, strict=True):
            features = layer(features)
            assert features.shape == shape.of_batch(2)
        assert backbone.head(features).shape == (2, 10)
