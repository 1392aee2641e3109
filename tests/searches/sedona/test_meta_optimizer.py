"""The optimizers of alpha and beta: torch's numbers without torch's optimizers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sedona_nni.searches.sedona.meta_optimizer import MetaAdam, MetaOptimizer, MetaSgd

ROOT = Path(__file__).parents[3]

SEARCH = """
import sys
from sedona_nni.searches.sedona.search import search
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.data.sets import load_splits
from sedona_nni.task import Task
from sedona_nni.training.task_backbone import task_backbone

task = Task(backbone="dgl-cnn4", width_multiplier=0.0625, image_size=8, train_limit=60)
settings = SearchSettings(pretrain_steps=1, meta_steps=1, inner_steps=1, batch_size=8)
search(RelaxedNetwork(task_backbone(task), ["conv1", "mlp"]), load_splits(task, 0.4), settings)
print(*{"torch._dynamo", "sklearn", "scipy"} & set(sys.modules))
"""


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda a, b: MetaAdam(a, b, lr=0.1, betas=(0.5, 0.99), weight_decay=0.01),
            lambda a, b: torch.optim.Adam([a, b], lr=0.1, betas=(0.5, 0.99), weight_decay=0.01),
        ),
        (
            lambda a, b: MetaSgd(a, b, lr=0.1, momentum=0.9, weight_decay=0.01),
            lambda a, b: torch.optim.SGD([a, b], lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (
            lambda a, b: MetaSgd(a, b, lr=0.1, momentum=0.0, weight_decay=0.0),
            lambda a, b: torch.optim.SGD([a, b], lr=0.1),
        ),
    ],
)
def test_steps_are_those_of_torch(
    ours: Callable[[Tensor, Tensor], MetaOptimizer],
    theirs: Callable[[Tensor, Tensor], torch.optim.Optimizer],
) -> None:
    """To the bit, as they are the same functions; what is remembered has torch's names."""
    torch.manual_seed(0)
    arch = torch.randn(3, 2), torch.randn(3, 4)
    expected = [part.clone().requires_grad_() for part in arch]
    optimizer, reference = ours(*arch), theirs(*expected)
    for _ in range(3):
        gradients = [torch.randn_like(part) for part in arch]
        optimizer.step(*gradients)
        for part, gradient in zip(expected, gradients, strict=True):
            part.grad = gradient.clone()
        reference.step()
    assert all(map(torch.equal, arch, expected))
    for index, state in enumerate(optimizer.state):
        kept = reference.state_dict()["state"].get(index, {})
        assert state.keys() == {name for name, value in kept.items() if value is not None}
        assert all(torch.equal(value, kept[name]) for name, value in state.items())


@pytest.mark.slow(reason="a process that imports torch")
def test_a_search_imports_no_compiler() -> None:
    """Seconds of its start and some 100 MiB, for nothing; nor SciPy for the digits."""
    done = subprocess.run(
        [sys.executable, "-c", SEARCH], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
