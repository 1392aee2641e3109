"""Training with batch norms by the kernels in C, beside training with torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.kernels import batch_norm as compiled
from sedona_nni.models import build_backbone
from sedona_nni.models.batch_norm import BatchNorm
from sedona_nni.models.normalising import normalising_by_kernels, replaced_forwards
from sedona_nni.models.placement import place
from sedona_nni.task import Task
from sedona_nni.training.methods import build_method
from sedona_nni.training.settings import TrainSettings

TASK = Task(backbone="vgg11", width_multiplier=0.25, image_size=32, train_limit=100)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(TASK, 0.1)


def network(dtype: torch.dtype = torch.float32) -> DecoupledNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, in_channels=1, width_multiplier=0.25)
    halves = Decoupling(backbone="vgg11", cuts=[2], aux=["conv1"])
    return place(build_decoupled(backbone, halves), "cpu").to(dtype)


def one_step(splits: Splits, dtype: torch.dtype, **settings: Any) -> tuple[DecoupledNetwork, int]:
    """Return the network after a step, and how many calls of the kernels it took."""
    learner = network(dtype)
    method = build_method(learner, TrainSettings(batch_size=20, **settings), splits, 10)
    torch.manual_seed(1)
    images, labels = torch.randn(20, 1, 32, 32, dtype=dtype), torch.arange(20) % 10
    calls = 0
    kernel = compiled.normalise

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return kernel(*arguments)

    with pytest.MonkeyPatch.context() as patch, method.by_kernels():
        patch.setattr(compiled, "normalise", counted)
        method.start_epoch(1)
        method.step(images, labels)
    return learner, calls


def norms_of(module: nn.Module) -> list[BatchNorm]:
    return [part for part in module.modules() if isinstance(part, BatchNorm)]


def test_a_step_is_that_of_torch(
    needs_compiler: None, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, where the order of sums is nothing; norms of backbone and auxiliary network."""
    ours, calls = one_step(splits, torch.float64, label_smoothing=0.0)
    assert calls == len(norms_of(ours)) - 1  # the wide end of `conv1` is computed in another way
    monkeypatch.setattr(compiled, "fits", lambda *_: False)
    plain, none = one_step(splits, torch.float64, label_smoothing=0.0)
    assert none == 0
    for (name, value), other in zip(
        ours.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("amp", ["no", "bf16"])
def test_not_in_mixed_precision(needs_compiler: None, splits: Splits, amp: str) -> None:
    """There all is as it would be without: activations in place, for instance."""
    settings = TrainSettings.model_validate({"batch_size": 20, "amp": amp})
    learner = network()
    with build_method(learner, settings, splits, 10).by_kernels():
        replaced = [module for module in learner.modules() if "forward" in vars(module)]
    assert bool(replaced) == (amp == "no")
    assert not any("forward" in vars(module) for module in learner.modules())


def test_frozen_norms_stay_as_they_are(needs_compiler: None) -> None:
    """What is in evaluation mode, as some freeze their norms, uses and keeps its statistics."""
    unit = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval()
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    expected = unit(x)
    before = [buffer.clone() for buffer in unit.buffers()]
    with replaced_forwards(normalising_by_kernels(unit)):
        torch.testing.assert_close(unit(x), expected, rtol=0, atol=0)
    assert all(map(torch.equal, unit.buffers(), before))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.SyncBatchNorm(3),
    ],
)
def test_norms_that_are_left_alone(norm: nn.Module) -> None:
    assert normalising_by_kernels(nn.Sequential(norm)) == {}


def test_without_kernels_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    from sedona_nni.kernels import Kernels
    from sedona_nni.models import normalising

    monkeypatch.setattr(normalising, "kernels", lambda: Kernels(None, "none"))
    assert normalising_by_kernels(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())) == {}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shares_add_up(needs_compiler: None, threads: int) -> None:
    """However many threads divide the work; 3 x 43,690 numbers are no whole number of strips."""
    from sedona_nni.kernels import kernels

    if not kernels().threads:
        pytest.skip("these kernels use one thread")
    torch.manual_seed(0)
    x, e = (torch.randn(43690, 3, dtype=torch.float64) for _ in range(2))
    weight, bias = torch.randn(2, 3, dtype=torch.float64)
    before = torch.get_num_threads()

    def run(count: int) -> list[Tensor]:
        torch.set_num_threads(count)
        y, _, moments = compiled.normalise(x, None, (weight, None), (bias, None), 1e-5, 0.1)
        return [y, moments[:2], *compiled.normalise_back(e, x, weight, bias, 0.1, moments)]

    try:
        found, expected = run(threads), run(1)
        again = run(threads)
    finally:
        torch.set_num_threads(before)
    for own, other, repeated in zip(found, expected, again, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-12)
        assert torch.equal(own, repeated)
