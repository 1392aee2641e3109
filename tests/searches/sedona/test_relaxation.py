"""Gradient valves, and that a one-hot relaxation is a decoupled network."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from block_steps import greedy_step
from torch import nn
from torch.autograd import forward_ad

from sedona_nni.decouplings.decoupled import build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork, gradient_valve, tangent_valve
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.methods.method import build_optimizer
from sedona_nni.training.settings import TrainSettings

AUX = ["conv1", "conv2", "mlp-sr"]
VERY_SURE = 800.0  # exp(-800) is 0 in float64


def test_gradient_valve_scales_the_gradient_alone() -> None:
    features = torch.tensor([1.0, 2.0], requires_grad=True)
    passed = gradient_valve(features, torch.tensor(0.25))
    assert torch.equal(passed, features)
    (passed * torch.tensor([3.0, 5.0])).sum().backward()
    assert features.grad is not None
    assert features.grad.tolist() == [0.75, 1.25]


def test_gradient_valve_refuses_to_be_differentiated_twice() -> None:
    features = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = (gradient_valve(features, torch.tensor(0.25)) ** 3).sum()
    (gradient,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_tangent_valve_scales_the_tangent_and_is_differentiable() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=True)
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, at the first dual number
        dual = forward_ad.make_dual(value, torch.tensor([3.0, 5.0]))
        passed, tangent = forward_ad.unpack_dual(tangent_valve(dual, scale))
    assert passed.tolist() == [1.0, 2.0]
    assert tangent.tolist() == [0.75, 1.25]
    to_scale, to_value = torch.autograd.grad(tangent.sum() + passed.sum(), [scale, value])
    assert to_scale.item() == 8.0
    assert to_value.tolist() == [1.0, 1.0]  # values pass unscaled


def test_auxiliary_networks_with_a_loss_of_their_own_are_refused() -> None:
    backbone = build_backbone("vgg11", num_classes=3, width_multiplier=0.25)
    with pytest.raises(InputError, match=r"aux: must learn from its logits alone .* 'predsim'"):
        RelaxedNetwork(backbone, ["conv1", "predsim"])


@pytest.mark.slow(reason="searches")
@pytest.mark.parametrize("cuts", [[], [0], [2], [1, 4], [0, 3, 6], list(range(7))])
def test_one_hot_relaxation_trains_as_the_decoupled_network(cuts: list[int]) -> None:
    """Same weights, three steps of SGD: equal updates of every weight that both have."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=3, width_multiplier=0.25).double()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # both would draw the same masks, but in another order
    relaxed = RelaxedNetwork(backbone, AUX).double()
    aux = [AUX[cut % 3] for cut in cuts]
    with torch.no_grad():
        relaxed.alpha.copy_(torch.tensor([-VERY_SURE, VERY_SURE]).expand_as(relaxed.alpha))
        for cut, name in zip(cuts, aux, strict=True):
            relaxed.alpha[cut] = torch.tensor([VERY_SURE, -VERY_SURE])
            relaxed.beta[cut, AUX.index(name)] = VERY_SURE
    decoupled = build_decoupled(
        copy.deepcopy(backbone), Decoupling(backbone="vgg11", cuts=cuts, aux=aux)
    ).double()
    for block, cut, name in zip(decoupled.blocks, cuts, aux, strict=False):
        block.classifier.load_state_dict(relaxed.candidate(cut, name).state_dict())

    settings = TrainSettings(lr=0.05, momentum=0.9, weight_decay=1e-3)
    optimizers = [build_optimizer(b.parameters(), settings) for b in decoupled.blocks]
    problem = InnerProblem(relaxed, Sgd(momentum=0.9, weight_decay=1e-3), LabelSmoothing(0.1))
    state = problem.state()
    before = {name: value.detach().clone() for name, value in decoupled.named_parameters()}
    decoupled.train()
    for _ in range(3):
        images = torch.randn(4, 3, 32, 32).double().contiguous(memory_format=torch.channels_last)
        batch = (images, torch.randint(3, (4,)))
        state, _ = problem.step(state, batch, 0.05, seed=0)
        greedy_step(decoupled, optimizers, *batch, LabelSmoothing(0.1))
    problem.load(state)

    starts = [0, *(cut + 1 for cut in cuts)]
    for number, (block, start) in enumerate(zip(decoupled.blocks, starts, strict=True)):
        pairs = [
            (f"blocks.{number}.layers.{i}.{name}", parameter, twin)
            for i, layer in enumerate(block.layers)
            for (name, parameter), twin in zip(
                layer.named_parameters(),
                relaxed.backbone.layers[start + i].parameters(),
                strict=True,
            )
        ]
        own = (
            relaxed.candidate(cuts[number], aux[number])
            if number < len(cuts)
            else relaxed.backbone.head
        )
        pairs += [
            (f"blocks.{number}.classifier.{name}", parameter, twin)
            for (name, parameter), twin in zip(
                block.classifier.named_parameters(), own.parameters(), strict=True
            )
        ]
        for name, parameter, twin in pairs:
            moved = parameter.detach() - before[name]
            assert moved.norm() > 0, name
            # Sums in another order, magnified by batch norms of few values: 2e-14 was seen
            torch.testing.assert_close(
                twin.detach() - before[name],
                moved,
                rtol=1e-7,
                atol=1e-11,
                msg=f"{name} moved otherwise",
            )


def test_boundaries_of_one_shape_share_their_candidates() -> None:
    def groups(name: str, **how: Any) -> list[list[int]]:
        network = RelaxedNetwork(build_backbone(name, num_classes=3, **how), AUX)
        return [list(mixed.boundaries) for mixed in network.mixed]

    # 16 channels of 32x32 pixels are the most that are shared
    shallow = [[0], [1], [2, 3]]
    assert groups("vgg19") == [*shallow, [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]
    assert groups("vgg19", width_multiplier=4)[:4] == [[0], [1], [2], [3]]
    assert groups("resnet18", image_size=8) == [[0, 1], [2, 3], [4, 5], [6]]
