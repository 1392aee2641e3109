"""Whatever the cuts and auxiliary networks: a block learns from its own loss and from nothing else.

Everything in float64, on random decouplings of two small backbones.
"""

import copy

import numpy as np
import pytest
import torch
from block_steps import greedy_step
from torch import Tensor

from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone, num_layers
from sedona_nni.teachers.auxiliary import Seen, auxiliary_names
from sedona_nni.teachers.losses import LabelSmoothing

CASES = [(backbone, seed) for backbone in ("vgg11", "resnet18") for seed in range(10)]
CRITERION = LabelSmoothing(0.1)


def random_case(backbone: str, seed: int) -> tuple[DecoupledNetwork, Tensor, Tensor]:
    """A random decoupling into 2 to 5 blocks, in training mode, and a batch."""
    rng = np.random.default_rng(seed)
    boundaries = num_layers(backbone) - 1
    count = rng.integers(1, 5)
    decoupling = Decoupling(
        backbone=backbone,
        cuts=sorted(rng.choice(boundaries, count, replace=False).tolist()),
        aux=rng.choice(auxiliary_names(), count).tolist(),
    )
    torch.manual_seed(seed)
    built = build_backbone(backbone, num_classes=5, width_multiplier=0.125)
    network = build_decoupled(built, decoupling).double().train()
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    return network, images, torch.randint(5, (6,))


def local_losses(network: DecoupledNetwork, images: Tensor, labels: Tensor) -> list[Tensor]:
    features = network.features(images)
    inputs = [images, *(each.detach() for each in features[:-1])]
    return [
        block.local_loss(output, labels, CRITERION, Seen(images, given))[0]
        for block, output, given in zip(network.blocks, features, inputs, strict=True)
    ]


def updates(network: DecoupledNetwork, images: Tensor, labels: Tensor) -> list[list[Tensor]]:
    """What one greedy step with plain gradient descent at rate 1 subtracts from each weight."""
    network = copy.deepcopy(network)
    before = [[p.detach().clone() for p in block.parameters()] for block in network.blocks]
    optimizers = [torch.optim.SGD(block.parameters(), lr=1.0) for block in network.blocks]
    torch.manual_seed(1)
    greedy_step(network, optimizers, images, labels, CRITERION)
    return [
        [old - new.detach() for old, new in zip(olds, block.parameters(), strict=True)]
        for olds, block in zip(before, network.blocks, strict=True)
    ]


@pytest.mark.parametrize(("backbone", "seed"), CASES)
def test_a_blocks_loss_reaches_its_own_weights_only(backbone: str, seed: int) -> None:
    network, images, labels = random_case(backbone, seed)
    losses = local_losses(network, images, labels)
    for index, loss in enumerate(losses):
        network.zero_grad()
        loss.backward()
        for other, block in enumerate(network.blocks):
            gradients = [p.grad for p in block.parameters() if p.grad is not None]
            if other == index:
                # All but those of a momentum copy
                assert len(gradients) == sum(p.requires_grad for p in block.parameters())
                first = next(block.layers.parameters()).grad
                assert first is not None
                assert first.abs().max() > 0
            else:
                assert all(torch.count_nonzero(gradient) == 0 for gradient in gradients)


@pytest.mark.fast_cases(9)
@pytest.mark.parametrize(("backbone", "seed"), CASES)
def test_immediate_backward_is_the_gradient_of_the_sum(backbone: str, seed: int) -> None:
    network, images, labels = random_case(backbone, seed)
    found = updates(network, images, labels)

    reference = copy.deepcopy(network)
    torch.manual_seed(1)  # one generator feeds all dropout, and only the head has any
    torch.stack(local_losses(reference, images, labels)).sum().backward()
    for block, block_updates in zip(reference.blocks, found, strict=True):
        for parameter, update in zip(block.parameters(), block_updates, strict=True):
            if not parameter.requires_grad:
                assert not update.any()
                continue
            assert parameter.grad is not None
            # One backward pass through all blocks adds up in another order than one for each
            torch.testing.assert_close(update, parameter.grad, rtol=1e-7, atol=1e-10)


@pytest.mark.fast_cases(8)
@pytest.mark.parametrize(("backbone", "seed"), CASES)
def test_nothing_above_a_cut_changes_what_happens_below(backbone: str, seed: int) -> None:
    """To the bit: with other weights in all upper blocks the lowest block's update is the same."""
    network, images, labels = random_case(backbone, seed)
    expected = updates(network, images, labels)
    with torch.no_grad():
        for block in list(network.blocks)[1:]:
            for parameter in block.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    found = updates(network, images, labels)
    assert all(torch.equal(a, b) for a, b in zip(expected[0], found[0], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(expected[1], found[1], strict=True))


def test_a_block_is_done_before_the_next_one_starts() -> None:
    network, images, labels = random_case("vgg11", 0)
    lower, upper = network.blocks[0], network.blocks[1]
    weight = next(lower.parameters())
    before = weight.detach().clone()
    seen: list[bool] = []
    upper.register_forward_pre_hook(
        lambda block, inputs: seen.append(
            not torch.equal(weight, before) and weight.grad is None and inputs[0].grad_fn is None
        )
    )
    optimizers = [torch.optim.SGD(block.parameters(), lr=1.0) for block in network.blocks]
    greedy_step(network, optimizers, images, labels, CRITERION)
    assert seen == [True]
