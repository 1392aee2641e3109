"""Decouplings by rule: blocks of n layers, none forgotten; what DGL published of its splits."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch

from sedona_nni.decouplings.cost import block_costs, count_parameters
from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling, uniform_cuts
from sedona_nni.decouplings.rules import cuts_every, decoupling_by_rule, is_rule
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone, num_layers
from sedona_nni.teachers.auxiliary import auxiliary_context, build_auxiliary


def sizes(cuts: list[int], layers: int) -> list[int]:
    """Layers of each block."""
    return [
        len(block)
        for block in Decoupling(backbone="", cuts=cuts, aux=[""] * len(cuts)).blocks(layers)
    ]


# DGL's README: K of every command; VGG-13 in blocks of 3 as 3, 3, 3, 1
@pytest.mark.parametrize(
    ("backbone", "block_size", "expected"),
    [
        ("dgl-vgg13", 1, [1] * 10),
        ("dgl-vgg13", 3, [3, 3, 3, 1]),
        ("dgl-vgg19", 4, [4] * 4),
        ("dgl-vgg19", 8, [8] * 2),
        ("resnet152", 25, [25] * 2),
        ("dgl-cnn6", 1, [1] * 6),
        ("dgl-cnn6", 2, [2] * 3),
    ],
)
def test_published_splits(backbone: str, block_size: int, expected: list[int]) -> None:
    layers = num_layers(backbone)
    assert sizes(cuts_every(layers, block_size), layers) == expected


@pytest.mark.parametrize(
    ("backbone", "block_size", "expected"),
    [
        ("dgl-vgg16", 5, [5, 5, 3]),  # the release forgets the last three convolutions
        ("dgl-vgg13", 4, [4, 4, 2]),  # and here two
        ("dgl-cnn6", 4, [4, 2]),  # and here, with them, the classifier
        ("dgl-cnn6", 6, [6]),
    ],
)
def test_no_layer_is_forgotten(backbone: str, block_size: int, expected: list[int]) -> None:
    """All of the backbone is in the decoupled network, however the layers are counted off."""
    decoupling = decoupling_by_rule(f"every:{block_size}:mlp", backbone, num_layers(backbone))
    with torch.device("meta"):
        whole = build_backbone(backbone, num_classes=10)
        network = build_decoupled(whole, decoupling)
    assert [len(block.layers) for block in network.blocks] == expected
    assert network.blocks[-1].classifier is whole.head
    kept = sum(count_parameters(block.layers) for block in network.blocks)
    assert kept == count_parameters(whole.layers)


@pytest.mark.parametrize("layers", range(1, 21))
def test_blocks_of_equal_size_and_a_rest(layers: int) -> None:
    for block_size in range(1, layers + 1):
        *full, rest = sizes(cuts_every(layers, block_size), layers)
        assert set(full) <= {block_size}
        assert 1 <= rest <= block_size
        assert sum(full) + rest == layers


@pytest.mark.slow(reason="builds large networks")
def test_the_published_split_of_resnet_152() -> None:
    """Stem and 25 blocks, through 14 of the third stage; its auxiliary network of 57.6M weights
    beside a whole network of 58.1M but for the classifier."""
    with torch.device("meta"):
        backbone = build_backbone("resnet152", num_classes=1000, image_size=224, width_multiplier=4)
    decoupling = decoupling_by_rule("every:25:mlp-sr", "resnet152", 50)
    assert decoupling.cuts == uniform_cuts(50, 2) == [24]
    assert backbone.layer_names[24] == "stage3_14"
    lower, _ = block_costs(backbone, decoupling)
    assert round(lower.auxiliary.parameters / 1e6, 1) == 57.6
    assert round(count_parameters(backbone.layers) / 1e6, 1) == 58.1
    shape = backbone.boundaries[24]
    assert (shape.channels, shape.size) == (1024, 14)


def test_the_published_split_of_resnet_110() -> None:
    """Stem, 18 blocks of width 16 and 8 of width 32; then 28. No count of equal blocks gives it."""
    with torch.device("meta"):
        backbone = build_backbone("cifar-resnet110", num_classes=10)
        decoupling = Decoupling(backbone="cifar-resnet110", cuts=[25], aux=["mlp-sr"])
        network = build_decoupled(backbone, decoupling)
    assert [len(block.layers) for block in network.blocks] == [26, 28]
    assert [shape.channels for shape in backbone.shapes[:26]] == [16] * 18 + [32] * 8
    where = auxiliary_context(backbone, 25).shape
    assert (where.channels, where.size) == (32, 16)  # fixed in the release


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("backbone", "settings"),
    [
        ("dgl-cnn6", {}),
        ("dgl-cnn4", {}),
        ("cifar-resnet110", {}),
        ("dgl-vgg13", {"image_size": 224}),
        ("dgl-vgg19", {"image_size": 224}),
        ("resnet152", {"image_size": 224, "width_multiplier": 4}),
    ],
)
def test_mlp_sr_is_dgls_wherever_dgl_uses_it(backbone: str, settings: dict[str, float]) -> None:
    """SEDONA's form pools to one pixel where DGL's has four; on DGL's own maps both have four."""
    with torch.device("meta"):
        network = build_backbone(backbone, num_classes=10, **settings)  # type: ignore[arg-type]
        for boundary in range(network.num_layers - 1):
            where = auxiliary_context(network, boundary)
            auxiliary = build_auxiliary("mlp-sr", where)
            assert auxiliary.classifier.in_features == 4 * where.shape.channels  # type: ignore[union-attr]


def test_rules_in_words() -> None:
    assert decoupling_by_rule("backprop", "vgg11", 8) == Decoupling(backbone="vgg11")
    uniform = decoupling_by_rule("uniform:3:cnn", "vgg11", 8)
    assert (uniform.cuts, uniform.aux) == ([1, 4], ["cnn", "cnn"])
    every = decoupling_by_rule("every:3:mlp", "vgg11", 8)
    assert (every.cuts, every.aux) == ([2, 5], ["mlp", "mlp"])
    assert all(a < b for a, b in pairwise(every.cuts))
    for text, expected in (("backprop", True), ("every:1", True), ("uniform", True)):
        assert is_rule(text) == expected
    for text in ("found.json", "backprop.json", "results/uniform.json"):
        assert not is_rule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("every:9:cnn", "block_size: must be from 1 to the number of layers, 8, but got 9"),
        ("every:0:cnn", "block_size: must be from 1 to the number of layers, 8, but got 0"),
        ("uniform:9:cnn", "num_blocks: must be from 1 to the number of layers, 8, but got 9"),
        ("every:x:cnn", "decoupling: must be like every:3:mlp-sr, but got 'every:x:cnn'"),
        ("every:-1:cnn", "decoupling: must be like every:3:mlp-sr, but got 'every:-1:cnn'"),
        ("every:3", "decoupling: must be like every:3:mlp-sr, but got 'every:3'"),
        ("uniform", "decoupling: must be like uniform:4:mlp-sr, but got 'uniform'"),
    ],
)
def test_wrong_rules(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        decoupling_by_rule(text, "vgg11", 8)
