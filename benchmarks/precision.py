"""How far the search's numbers in float32 and bf16 are from those in float64.

Compared are whole vectors, by |got - exact| / |exact|:

    gradient         g(w, alpha, beta) of one relaxed step, in float32, and under bf16 autocast as
                     ``sedona-nni train --relaxed`` with ``amp: bf16`` computes it
    hypergradient    d / d (alpha, beta) after T steps, in the default and in the release mode

each from the same weights and images, which float32 can hold. Dropout is off: its masks are other
ones in another precision. The hypergradient is also computed

    with torch's sums     by torch's own batch norm, see `sedona_nni.models.batch_norm`
    with a smooth ReLU    with softplus instead of ReLU: no kinks, so rounding is all there is
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.search_steps import LR, MOMENTUM, WEIGHT_DECAY, StepSetting
from benchmarks.view import Table
from sedona_nni.data.batches import Batch
from sedona_nni.models import Activation, batch_norm, build_backbone
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.relaxed_training import RelaxedClassifier
from sedona_nni.searches.sedona.release_mode import ReleaseProblem, release_hypergradient
from sedona_nni.teachers.losses import LabelSmoothing

__all__ = ["all_errors", "errors", "precision_table", "torchs_sums"]

_CRITERION = LabelSmoothing(0.1)


@contextmanager
def torchs_sums() -> Iterator[None]:
    """Compute batch norm as torch does, one number after another."""
    with mock.patch.object(batch_norm, "_ROWS", sys.maxsize):
        yield


def all_errors(settings: Sequence[StepSetting], threads: int) -> dict[str, dict[str, float]]:
    """Return the `errors` of several settings by backbone, computed on so many threads."""
    with ProcessPoolExecutor(
        threads, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        found = pool.map(errors, settings)
        return {setting.backbone: each for setting, each in zip(settings, found, strict=True)}


def errors(setting: StepSetting) -> dict[str, float]:
    """Return the relative errors of a backbone, by what was compared."""
    exact, single = torch.float64, torch.float32
    gradient = _gradient(setting, exact)
    found = {
        "gradient, float32": _error(_gradient(setting, single), gradient),
        "gradient, bf16": _error(_gradient(setting, single, bf16=True), gradient),
    }
    for mode, release in (("hypergradient", False), ("release mode", True)):
        expected = _hypergradient(setting, exact, release)
        found[mode] = _error(_hypergradient(setting, single, release), expected)
        with torchs_sums():
            got = _hypergradient(setting, single, release)
        found[f"{mode}, torch's sums"] = _error(got, expected)
    expected, got = (
        _hypergradient(setting, dtype, False, activation=nn.Softplus) for dtype in (exact, single)
    )
    found["hypergradient, smooth"] = _error(got, expected)
    return found


def precision_table(title: str, by_backbone: dict[str, dict[str, float]]) -> Table:
    """Return a table of errors, one row per backbone."""
    columns: Sequence[str] = list(next(iter(by_backbone.values())))
    return Table(
        title,
        ["backbone", *columns],
        [
            [name, *(f"{found[column]:.0e}" for column in columns)]
            for name, found in by_backbone.items()
        ],
    )


def _error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def _problem(
    setting: StepSetting, dtype: torch.dtype, release: bool, activation: Activation
) -> tuple[InnerProblem, list[Batch], Batch]:
    torch.manual_seed(0)
    backbone = build_backbone(
        setting.backbone,
        num_classes=setting.num_classes,
        image_size=setting.image_size,
        width_multiplier=setting.width_multiplier,
        activation=activation,
    )
    network = RelaxedNetwork(backbone, setting.aux)
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    *train, validation = ((images.to(dtype), labels) for images, labels in _batches(setting))
    kind = ReleaseProblem if release else InnerProblem
    problem = kind(network.to(setting.device, dtype), Sgd(MOMENTUM, WEIGHT_DECAY), _CRITERION)
    return problem, train, validation


def _batches(setting: StepSetting) -> Iterator[Batch]:
    train, validation = setting.batches()
    yield from train
    yield validation


def _hypergradient(
    setting: StepSetting,
    dtype: torch.dtype,
    release: bool,
    activation: Activation = nn.ReLU,
) -> Tensor:
    problem, train, validation = _problem(setting, dtype, release, activation)
    function = release_hypergradient if release else hypergradient
    result = function(problem, problem.state(), train, validation, lrs=[LR] * len(train), seed=0)
    return torch.cat([result.alpha, result.beta], dim=1)


def _gradient(setting: StepSetting, dtype: torch.dtype, *, bf16: bool = False) -> Tensor:
    problem, (batch, *_), _ = _problem(setting, dtype, release=False, activation=nn.ReLU)
    if not bf16:
        return problem.gradient(problem.state(), batch, seed=0)[0]
    network = problem.network.train()
    with torch.autocast(setting.device, torch.bfloat16):
        loss, _ = RelaxedClassifier(network).local_loss(*batch, _CRITERION)
    gradients = torch.autograd.grad(loss, [weight for _, weight in network.named_weights()])
    return torch.cat([gradient.flatten() for gradient in gradients])
