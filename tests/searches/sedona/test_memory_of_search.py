"""The memory that is predicted of a search, beside what torch allocates in one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dispatched import TorchDispatchMode, tensors_in
from torch.nn import functional as F

from sedona_nni.data.batches import Batch
from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.inner_step import InnerProblem, Sgd
from sedona_nni.searches.sedona.memory import few_steps, memory_of_search, of_further_steps
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings

MIB = 2**20


def settings(**changed: Any) -> SearchSettings:
    few = {"pretrain_steps": 1, "meta_steps": 1, "memory_size": 1, "batch_size": 32}
    return SearchSettings.model_validate(few | {"validation_batch_size": 160} | changed)


def batch(size: int, pixels: int) -> Batch:
    return torch.randn(size, 3, pixels, pixels), torch.arange(size) % 10


def measured_mib(name: str, width: float, aux: list[str], how: SearchSettings) -> float:
    """Return the peak of a search of a step and a meta-step, with what it holds meanwhile."""
    batches = [batch(how.batch_size, 32) for _ in range(how.inner_steps + 2)]
    validation = [batch(how.validation_batch_size, 32) for _ in range(2)]

    def search() -> Search:
        torch.manual_seed(0)
        backbone = build_backbone(name, num_classes=10, width_multiplier=width)
        made = Search(place(RelaxedNetwork(backbone, aux), "cpu"), how)
        for _ in made.steps(iter(batches), iter(validation)):
            pass
        return made

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the profiler sees no other threads'
    try:
        return peak_memory_mib(search, torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)


def predicted_mib(name: str, width: float, aux: list[str], how: SearchSettings) -> float:
    with torch.device("meta"):
        backbone = build_backbone(name, num_classes=10, width_multiplier=width)
    return memory_of_search(backbone, aux, how).meta_step / MIB


@pytest.mark.fast_cases(2)
@pytest.mark.parametrize(
    ("name", "width", "aux", "changed"),
    [
        ("vgg11", 0.25, ["conv1", "conv2"], {}),
        ("vgg11", 0.5, ["conv1", "mlp-sr"], {"optimizer": "adam", "inner_steps": 6}),
        ("resnet18", 0.25, ["conv1", "conv3"], {"batch_size": 16, "inner_steps": 2}),
        ("vgg11", 0.25, ["conv1", "cnn"], {"release_mode": True, "inner_steps": 4}),
    ],
)
@pytest.mark.usefixtures("torch_norms")
def test_predicted_within_a_tenth(
    name: str, width: float, aux: list[str], changed: dict[str, Any]
) -> None:
    """The rest is what torch's operations take for themselves."""
    how = settings(**changed)
    predicted = predicted_mib(name, width, aux, how)
    assert measured_mib(name, width, aux, how) == pytest.approx(predicted, rel=0.1)


def test_kernels_do_with_less(needs_compiler: None) -> None:
    """They keep less of a batch norm, and a narrow network is full of them."""
    how = settings(inner_steps=2, batch_size=16)
    predicted = predicted_mib("resnet18", 0.25, ["conv1", "conv3"], how)
    measured = measured_mib("resnet18", 0.25, ["conv1", "conv3"], how)
    assert 0.75 * predicted < measured < 0.95 * predicted


def test_more_steps_are_more_vectors() -> None:
    """Of each a gradient vector, up to a leg of 32; then of each leg where it began."""
    with torch.device("meta"):
        backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
        weights = 4 * sum(
            weight.numel() for _, weight in RelaxedNetwork(backbone, ["conv1"]).named_weights()
        )

    def needed(steps: int) -> int:
        return memory_of_search(backbone, ["conv1"], settings(inner_steps=steps)).meta_step

    two = needed(2)
    # When Python frees some small tensors of a dry run is its own affair
    assert needed(5) - two == pytest.approx(3 * weights, abs=2048)
    of_where_it_began = 2 * weights  # and momentum
    assert needed(33) - two == pytest.approx(30 * weights + of_where_it_began, abs=2048)


def test_snapshots_and_threads() -> None:
    with torch.device("meta"):
        backbone = build_backbone("dgl-cnn4", num_classes=10, width_multiplier=0.125, image_size=16)
    one, three = (
        memory_of_search(backbone, ["conv1"], settings(memory_size=size)) for size in (1, 3)
    )
    assert three.snapshots == 3 * one.snapshots
    assert three.meta_step == one.meta_step
    by_two = memory_of_search(backbone, ["conv1", "conv4"], settings(), threads=2)
    assert by_two.meta_step > memory_of_search(backbone, ["conv1", "conv4"], settings()).meta_step


class OnDevice(TorchDispatchMode):
    """Refuses tensors elsewhere: to copy one to a GPU within a step makes it wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {each.device.type for each in tensors_in([args, out])}
        assert devices <= {"meta"}, f"{func} is done in main memory"
        return out


@pytest.mark.parametrize(
    "changed", [{}, {"mix": "losses"}, {"optimizer": "adam"}, {"release_mode": True}]
)
def test_nobody_waits_within_a_step(changed: dict[str, Any]) -> None:
    """A number that is looked at stops a GPU's queue. What is dry has none, so a look is an
    error: `bool`, `float`, `.item()`, a copy to the CPU."""
    with torch.device("meta"):
        backbone = build_backbone("dgl-cnn4", num_classes=10, width_multiplier=0.125, image_size=16)
        with pytest.raises(RuntimeError, match="meta"):
            float(torch.zeros(()))
    memory_of_search(backbone, ["conv1", "mlp-sr"], settings(**changed))


def test_nothing_comes_from_main_memory_within_a_step() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
    with pytest.raises(AssertionError, match="main memory"), OnDevice():
        torch.zeros(())
    how = settings(inner_steps=1)
    memory_of_search(backbone, ["conv2"], how)  # what is made once and kept is made now
    with OnDevice():
        memory_of_search(backbone, ["conv2"], how)


@pytest.mark.parametrize(("release", "shortest"), [(False, 2), (True, 3)])
def test_what_a_search_says_of_itself_is_measured_on_few_steps(
    release: bool, shortest: int
) -> None:
    """A profiler of fifty steps ahead took all memory of a machine after its search."""
    long, short = (settings(inner_steps=steps, release_mode=release) for steps in (50, shortest))
    assert few_steps(long) == few_steps(short) == shortest
    assert few_steps(settings(inner_steps=1)) == 1
    with torch.device("meta"):
        backbone = build_backbone("dgl-cnn4", num_classes=10, image_size=16)
        state = InnerProblem(RelaxedNetwork(backbone, ["conv1"]), Sgd(), F.cross_entropy).state()
    assert of_further_steps(short, state) == 0
    # A leg of 32 has 30 vectors more than one of 2; the other began with weights and momentum
    assert of_further_steps(long, state) == 32 * state.weights.nbytes
