"""Frank-Wolfe over exactly K-1 cuts: its corners, its steps and what a search makes of them."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from relaxed_reference import random_backbone
from torch import Tensor

from sedona_nni.errors import InputError
from sedona_nni.searches.sedona.frank_wolfe import FrankWolfe
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork, slopes
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings


def arch(boundaries: int, choices: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(boundaries)
    alpha, beta = torch.randn(boundaries, 2).double(), torch.randn(boundaries, choices).double()
    return alpha.requires_grad_(), beta.requires_grad_()


def shares(alpha: Tensor, beta: Tensor) -> Tensor:
    return (alpha.softmax(1)[:, :1] * beta.softmax(1)).detach()


def test_slopes_are_those_of_a_function_of_the_shares() -> None:
    """Of L(z) = <w, z> + z_01 z_12 the slopes are known."""
    alpha, beta = arch(2, 3)
    w = torch.randn(2, 3).double()
    z = alpha.softmax(1)[:, :1] * beta.softmax(1)
    loss = (w * z).sum() + z[0, 1] * z[1, 2]
    expected = -w.clone()
    expected[0, 1] -= z[1, 2].detach()
    expected[1, 2] -= z[0, 1].detach()
    torch.testing.assert_close(
        slopes(alpha, beta, *torch.autograd.grad(loss, [alpha, beta])), expected
    )


@pytest.mark.parametrize("num_blocks", [2, 3, 4])
def test_a_step_goes_to_the_best_corner_of_all(num_blocks: int) -> None:
    alpha, beta = arch(4, 2)
    w = torch.randn(4, 2).double()
    start = shares(alpha, beta)
    loss = (w * alpha.softmax(1)[:, :1] * beta.softmax(1)).sum()
    FrankWolfe(alpha, beta, num_blocks).step(*torch.autograd.grad(loss, [alpha, beta]))

    def corner(cuts: tuple[int, ...], aux: tuple[int, ...]) -> Tensor:
        z = torch.zeros(4, 2).double()
        z[list(cuts), list(aux)] = 1
        return z

    cuts = num_blocks - 1
    corners = [
        corner(at, aux)
        for at in itertools.combinations(range(4), cuts)
        for aux in itertools.product(range(2), repeat=cuts)
    ]
    best = min(corners, key=lambda each: float((w * each).sum()))
    torch.testing.assert_close(shares(alpha, beta), (start + best) / 2)


def test_the_shares_are_the_mean_of_the_start_and_of_all_corners() -> None:
    """With a linear loss it is the same corner each time; none is ever lost to rounding."""
    alpha, beta = (part.detach().float().requires_grad_() for part in arch(3, 2))
    w = torch.tensor([[3.0, 2.0], [-1.0, -2.0], [0.5, 1.0]])
    start = shares(alpha, beta)
    optimizer = FrankWolfe(alpha, beta, 2)
    for _ in range(999):
        loss = (w * alpha.softmax(1)[:, :1] * beta.softmax(1)).sum()
        optimizer.step(*torch.autograd.grad(loss, [alpha, beta]))
    expected = torch.zeros(3, 2)
    expected[1, 1] = 1
    # A thousand roundings of float32
    torch.testing.assert_close(
        shares(alpha, beta), start / 1000 + 0.999 * expected, rtol=1e-2, atol=1e-5
    )
    assert alpha.isfinite().all()
    assert beta.isfinite().all()


def settings(**changes: Any) -> SearchSettings:
    common = {"pretrain_steps": 1, "meta_steps": 2, "inner_steps": 1, "batch_size": 4}
    return SearchSettings(**{**common, "meta_optimizer": "frank_wolfe", **changes})


def test_a_search_by_it_has_k_minus_one_cuts() -> None:
    torch.manual_seed(0)
    network = RelaxedNetwork(random_backbone(random.Random(0), 4), ["conv1", "conv2"])
    search = Search(network, settings(meta_num_blocks=3, start_a_loc=0.1))
    batch = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    for _ in range(3):
        search.advance(iter([batch] * 4), iter([batch] * 4))
    a_loc = search.result("digits").a_loc()
    assert a_loc.sum() == pytest.approx((3 * 0.1 + 2 * 2) / 3, abs=1e-5)  # start and two corners
    assert np.all(a_loc > 0)


@pytest.mark.parametrize(
    "changes", [{"meta_num_blocks": None}, {"meta_num_blocks": 2, "meta_optimizer": "adam"}]
)
def test_it_needs_k_and_others_do_not(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="meta_num_blocks must be given for meta_optimizer"):
        settings(**changes)


def test_more_blocks_than_layers_are_refused() -> None:
    network = RelaxedNetwork(random_backbone(random.Random(0), 3), ["conv1"])
    with pytest.raises(InputError, match=r"^meta_num_blocks: must be from 2 to the number of lay"):
        Search(network, settings(meta_num_blocks=4))
