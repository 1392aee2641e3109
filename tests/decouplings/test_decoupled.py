import pytest
import torch

from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import Backbone, build_backbone
from sedona_nni.teachers.auxiliary import ConvAuxiliary, PredSim


@pytest.fixture
def backbone() -> Backbone:
    return build_backbone("vgg11", num_classes=10, width_multiplier=0.25)


def test_blocks_are_the_backbones_own_layers_in_order(backbone: Backbone) -> None:
    layers, head = list(backbone.layers), backbone.head
    decoupling = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv2", "predsim"])
    network = build_decoupled(backbone, decoupling)
    assert [list(block.layers) for block in network.blocks] == [layers[:2], layers[2:5], layers[5:]]
    classifiers = [block.classifier for block in network.blocks]
    assert isinstance(classifiers[0], ConvAuxiliary)
    assert isinstance(classifiers[1], PredSim)
    assert classifiers[2] is head


def test_forward_is_the_backbones_forward(backbone: Backbone) -> None:
    images = torch.randn(3, 3, 32, 32)
    backbone.eval()
    network = build_decoupled(backbone, Decoupling(backbone="vgg11", cuts=[3], aux=["mlp-sr"]))
    network.eval()
    logits = network.classifier_logits(images)
    assert torch.equal(network(images), backbone(images))
    assert torch.equal(logits[-1], network(images))
    assert torch.equal(logits[0], network.blocks[0].classifier(network.features(images)[0]))


def test_local_losses(backbone: Backbone) -> None:
    """An auxiliary network with a loss of its own is asked for it, the others use the criterion."""
    decoupling = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv1", "predsim"])
    network = build_decoupled(backbone, decoupling).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])

    def criterion(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.sum() * 0 + 7

    found = [
        block.local_loss(features, labels, criterion)
        for block, features in zip(network.blocks, network.features(images), strict=True)
    ]
    assert [loss.item() == 7 for loss, _ in found] == [True, False, True]
    for (_, logits), expected in zip(found, network.classifier_logits(images), strict=True):
        assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    ("decoupling", "message"),
    [
        (Decoupling(backbone="vgg19"), "decoupling.backbone: must be vgg11, but got 'vgg19'"),
        (Decoupling(backbone="vgg11", cuts=[7], aux=["conv1"]), "cuts: must be boundaries"),
        (Decoupling(backbone="vgg11", cuts=[2], aux=["conv"]), "aux: must be one of"),
    ],
)
def test_what_does_not_fit(backbone: Backbone, decoupling: Decoupling, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_decoupled(backbone, decoupling)
