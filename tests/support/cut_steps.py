"""One step of a model, and of the same model cut, compared to the bit.

Both call the same kernels on the same numbers in one process, so nothing may differ.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedona_nni.models.cutting.cut_model import CutModel, cut_model
from sedona_nni.models.cutting.cut_points import Boundaries


def one_step(network: nn.Module, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return logits, gradients and buffers of a step, which may draw random numbers."""
    torch.manual_seed(5)
    model.zero_grad(set_to_none=True)
    logits = network(images)
    F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1]).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return {"logits": logits.detach(), **gradients, **buffers}


def assert_cut_is_the_model(model: nn.Module, images: Tensor, boundaries: Boundaries) -> CutModel:
    """Check a model, cut there, in training and in evaluation; it is returned."""
    cut = cut_model(model, images, boundaries)
    for training in (True, False):
        before = copy.deepcopy(model.state_dict())
        expected = one_step(model.train(training), model, images)
        model.load_state_dict(before)
        model.train(not training)
        found = one_step(cut.train(training), model, images)
        assert found.keys() == expected.keys()
        wrong = [name for name, value in expected.items() if not torch.equal(found[name], value)]
        assert not wrong, (boundaries, training, wrong)
    return cut
