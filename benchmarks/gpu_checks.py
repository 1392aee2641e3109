"""What must be right on a GPU: functions that pytest and ``python -m benchmarks gpu`` both call.

A check is given a device and returns the numbers that it judged by. Each makes its data itself and
needs nothing of NNI. On the CPU they hold, too, and prove less: there is no GPU to compare.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F

from sedona_nni.data.batches import Batch, MemoryImages
from sedona_nni.data.sets import Splits
from sedona_nni.decouplings.cost import peak_memory_mib
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place
from sedona_nni.searches.sedona.checkpoint import load_checkpoint, save_checkpoint
from sedona_nni.searches.sedona.cuda_graphs import Graphs
from sedona_nni.searches.sedona.hypergradient import Hypergradient, hypergradient
from sedona_nni.searches.sedona.inner_step import InnerProblem, PulledBack, Sgd
from sedona_nni.searches.sedona.memory import memory_of_search
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import TrainResult, train
from sedona_nni.training.precision import float32_products
from sedona_nni.training.settings import Precision, TrainSettings

__all__ = ["CHECKS", "NotApplicable", "blobs"]

Check = Callable[[torch.device], dict[str, float]]

_MIB = 2**20
_WIDTH = 0.125
_CLASSES = 4
_SIZE = 16
_CUT = Decoupling(backbone="vgg11", cuts=[2, 4], aux=["conv1", "predsim"])


class NotApplicable(Exception):
    """The check says nothing about this device."""


def blobs(count: int, *, size: int, num_classes: int = _CLASSES) -> Splits:
    """Return made-up images that can be learned: noise, with a brighter band for each class.

    Args:
        count: Training images; a quarter as many validate, and as many test.
        size: Height and width, pixels.
        num_classes: Number of classes.
    """
    rng = np.random.default_rng(0)

    def part(number: int) -> MemoryImages:
        labels = np.arange(number) % num_classes
        pixels = rng.integers(0, 160, (number, 3, size, size), dtype=np.uint8)
        height = max(1, size // num_classes)
        for image, label in zip(pixels, labels, strict=True):
            image[:, label * height % size :][:, :height] += 80
        return MemoryImages(torch.from_numpy(pixels), labels, (0.4,) * 3, (0.2,) * 3)

    train_, validation, test = part(count), part(max(2, count // 4)), part(max(2, count // 4))
    return Splits(train_, validation, test, num_classes, size)


def _network() -> DecoupledNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=_CLASSES, width_multiplier=_WIDTH)
    return build_decoupled(backbone, _CUT)


def _relaxed() -> RelaxedNetwork:
    backbone = build_backbone(
        "dgl-cnn4", num_classes=_CLASSES, image_size=_SIZE, width_multiplier=_WIDTH
    )
    return RelaxedNetwork(backbone, ["conv1", "conv3"])


def gradient_isolation(device: torch.device) -> dict[str, float]:
    """A block's loss has a gradient in the block's own weights and in no other."""
    network = place(_network(), device).train()
    images = torch.randn(8, 3, 32, 32, device=device)
    labels = torch.arange(8, device=device) % _CLASSES
    least = float("inf")
    for index, block in enumerate(network.blocks):
        network.zero_grad(set_to_none=True)
        block.local_loss(network.features(images)[index], labels, F.cross_entropy)[0].backward()
        for other, others in enumerate(network.blocks):
            gradients = [parameter.grad for parameter in others.parameters()]
            if other == index:
                norms = [float(g.norm()) for g in gradients if g is not None]
                assert len(norms) == len(gradients), f"block {index} has weights that do not learn"
                least = min(least, max(norms))
            else:
                assert gradients == [None] * len(gradients), f"block {index} teaches block {other}"
    assert 0 < least < float("inf")
    return {"least_norm": least}


def _problem() -> tuple[InnerProblem, list[Batch], Batch]:
    """A small relaxed network in float64, two training batches and a validation batch."""
    torch.manual_seed(0)
    network = _relaxed().double()
    with torch.no_grad():
        network.alpha.normal_()
        network.beta.normal_()

    def batch() -> Batch:
        return torch.randn(6, 3, _SIZE, _SIZE).double(), torch.randint(_CLASSES, (6,))

    problem = InnerProblem(network, Sgd(0.9, 1e-4), LabelSmoothing(0.1))
    return problem, [batch() for _ in range(2)], batch()


def _hypergradient(
    device: torch.device | str, dtype: torch.dtype, graphs: Graphs | None = None
) -> Tensor:
    """Return it for the same problem, whatever the device and the precision."""
    made, train_batches, validation_batch = _problem()
    network = place(made.network.to(dtype), device)
    for part in network.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0  # each device draws other masks
    problem = InnerProblem(network, made.optimizer, made.criterion)
    if graphs is not None:
        problem.launch = graphs

    def there(batch: Batch) -> Batch:
        return batch[0].to(device, dtype), batch[1].to(device)

    found: Hypergradient = hypergradient(
        problem,
        problem.state(),
        [there(batch) for batch in train_batches],
        there(validation_batch),
        lrs=[0.01] * len(train_batches),
        seed=0,
    )
    return torch.cat([found.alpha, found.beta], dim=1).double().cpu()


@functools.cache
def _exact_hypergradient() -> Tensor:
    return _hypergradient("cpu", torch.float64)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def hypergradient_in_float64(device: torch.device) -> dict[str, float]:
    """It is that of the CPU, but for the order of sums."""
    expected = _exact_hypergradient()
    error = _relative(_hypergradient(device, torch.float64), expected)
    # Sums of some 1e5 terms in another order: 1e-13, and ReLUs do not flip at that
    assert error < 1e-9, f"the hypergradient is off by {error:.1e} of its norm"
    return {"relative_error": error, "norm": float(expected.norm())}


def hypergradient_in_float32(device: torch.device) -> dict[str, float]:
    """It comes near that of float64 on the CPU; how near in TF32 is told."""
    expected = _exact_hypergradient()
    errors = {}
    for name, allowed in (("float32", False), ("tf32", True)):
        with float32_products(tf32=allowed):
            errors[name] = _relative(_hypergradient(device, torch.float32), expected)
    # A rounding of 6e-8 can flip a ReLU or the choice of a maximum, which moves it by percents
    assert errors["float32"] < 0.05, f"the hypergradient is off by {errors['float32']:.1e}"
    return {f"relative_error_{name}": error for name, error in errors.items()}


class _Interrupted(Exception):
    pass


def search_goes_on(device: torch.device) -> dict[str, float]:
    """A search that was interrupted and goes on ends as one that was not."""
    settings = SearchSettings(
        pretrain_steps=2, meta_steps=2, inner_steps=2, num_snapshots=2, memory_size=2, lr=0.02,
        meta_optimizer="sgd", meta_lr=0.5, meta_weight_decay=0, seed=3,
    )  # fmt: skip

    def batches(start: int) -> Iterator[Batch]:
        while True:
            generator = torch.Generator().manual_seed(start)
            images = torch.randn(4, 3, _SIZE, _SIZE, generator=generator).to(device)
            yield images, torch.randint(_CLASSES, (4,), generator=generator).to(device)
            start += 1

    def search() -> Search:
        torch.manual_seed(0)
        return Search(place(_relaxed(), device), settings)

    def go_on(this: Search, until: int) -> Search:
        train = batches(this.train_batches_used)
        validation = batches(1000 + this.validation_batches_used)
        while this.step < until:
            this.advance(train, validation)
        return this

    def found(this: Search) -> Tensor:
        return torch.cat([this.network.alpha.detach(), this.network.beta.detach()], dim=1).cpu()

    whole = found(go_on(search(), settings.pretrain_steps + settings.meta_steps))
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(go_on(search(), 3), Path(directory))
        resumed = search()
        load_checkpoint(resumed, Path(directory))
        again = found(go_on(resumed, resumed.total_steps))
    error = _relative(again.double(), whole.double())
    # Equal to the bit on a CPU; on a GPU atomic additions come in another order each time
    assert error <= (0 if device.type == "cpu" else 0.02), f"differs by {error:.1e} of its norm"
    assert float(whole.norm()) > 0
    return {"relative_difference": error}


def training_goes_on(device: torch.device) -> dict[str, float]:
    """A training that was interrupted and goes on ends as one that was not."""
    splits = blobs(64, size=32)
    settings = TrainSettings(epochs=2, batch_size=16, lr=0.02)

    def run(directory: Path | None = None, last: int = 2) -> TrainResult:
        def report(numbers: dict[str, float]) -> None:
            if numbers["epoch"] == last < 2:
                raise _Interrupted

        network = _network()
        return train(network, splits, settings, device=device, report=report, directory=directory)

    whole = run()
    with tempfile.TemporaryDirectory() as directory:
        with contextlib.suppress(_Interrupted):
            run(Path(directory), last=1)
        again = run(Path(directory))
    difference = abs(again.validation_loss - whole.validation_loss)
    # See `search_goes_on`
    assert difference <= (0 if device.type == "cpu" else 0.05 * whole.validation_loss)
    return {"validation_loss": whole.validation_loss, "difference": difference}


def mixed_precision(device: torch.device) -> dict[str, float]:
    """Training in fp16 and bf16 computes in them, keeps float32 weights, and learns as well."""
    splits = blobs(64, size=32)
    losses: dict[str, list[float]] = {}

    def learn(amp: Precision, dtype: torch.dtype) -> list[float]:
        network = _network()
        seen: set[torch.dtype] = set()
        epochs: list[float] = []
        network.blocks[1].layers[0].register_forward_hook(
            lambda module, inputs, output: seen.add(output.dtype)
        )
        settings = TrainSettings(epochs=3, batch_size=16, lr=0.02, amp=amp)
        train(
            network,
            splits,
            settings,
            device=device,
            report=lambda numbers: epochs.append(numbers["train_loss"]),
        )
        assert seen == {dtype}, f"{amp}: computed in {seen}"
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert epochs[-1] < epochs[0], f"{amp} does not learn: {epochs}"
        return epochs

    losses["no"] = learn("no", torch.float32)
    losses["bf16"] = learn("bf16", torch.bfloat16)
    losses["fp16"] = learn("fp16", torch.float16)
    for amp in ("bf16", "fp16"):
        # bf16 has 8 bits, and fp16 skips steps until its scale fits: here up to 6 %
        assert abs(losses[amp][0] / losses["no"][0] - 1) < 0.2, f"{amp}: {losses}"
    return {
        f"{when}_loss_{amp}": epochs[index]
        for amp, epochs in losses.items()
        for when, index in (("first", 0), ("last", -1))
    }


def peak_memory(device: torch.device) -> dict[str, float]:
    """The peak that is reported is that of what is alive at once."""

    def step() -> None:
        kept = torch.ones(16 * _MIB, dtype=torch.uint8, device=device)
        for _ in range(3):
            passing = kept + 1
            del passing
        torch.ones(4 * _MIB, dtype=torch.uint8, device=device)

    peak = peak_memory_mib(step, device)
    assert abs(peak - 32) < 0.5, f"{peak} MiB instead of 32"

    def one_block() -> DecoupledNetwork:
        network = place(_network(), device).train()
        loss = network(torch.randn(32, 3, 32, 32, device=device)).sum()
        loss.backward()
        return network

    weights = sum(p.numel() * 4 for p in _network().parameters()) / _MIB
    trained = peak_memory_mib(one_block, device)
    assert trained > weights, f"{trained} MiB, where the weights alone are {weights} MiB"
    return {"peak_mib": peak, "trained_mib": trained}


def memory_of_a_search(device: torch.device) -> dict[str, float]:
    """A meta-step takes as much as was predicted."""
    settings = SearchSettings(
        pretrain_steps=1, meta_steps=1, memory_size=1, batch_size=32, validation_batch_size=64
    )
    aux = ["conv1", "conv2", "conv3"]

    def batches(size: int) -> Iterator[Batch]:
        images = torch.randn(size, 3, 32, 32, device=device)
        return itertools.repeat((images, torch.arange(size, device=device) % _CLASSES))

    of_both = batches(settings.batch_size), batches(settings.validation_batch_size)

    def search() -> Search:
        torch.manual_seed(0)
        backbone = build_backbone("vgg11", num_classes=_CLASSES, width_multiplier=0.25)
        made = Search(place(RelaxedNetwork(backbone, aux), device), settings)
        for _ in made.steps(*of_both):
            pass
        return made

    with torch.device("meta"):
        dry = build_backbone("vgg11", num_classes=_CLASSES, width_multiplier=0.25)
    predicted = memory_of_search(dry, aux, settings, on_gpu=device.type != "cpu").meta_step / _MIB
    measured = peak_memory_mib(search, device)
    # Of a CPU only one thread is seen, and its kernels do with less
    least = 0.5 if device.type == "cpu" else 0.8
    assert least * predicted < measured < 1.25 * predicted, f"{measured} MiB for {predicted}"
    return {"measured_mib": measured, "predicted_mib": predicted}


def _vgg19(device: torch.device, graphs: Graphs | None) -> dict[str, Callable[[], object]]:
    """Return a relaxed step and a step back of VGG-19."""
    torch.manual_seed(0)
    backbone = build_backbone("vgg19", num_classes=10)
    network = place(RelaxedNetwork(backbone, ["conv1", "conv2", "conv3", "conv4"]), device)
    problem = InnerProblem(network, Sgd(0.9, 1e-4), LabelSmoothing(0.1))
    if graphs is not None:
        problem.launch = graphs
    state = problem.state()
    batch = torch.randn(64, 3, 32, 32, device=device), torch.arange(64, device=device) % 10
    gradient, _, _ = problem.gradient(state, batch, 0)
    after = PulledBack(
        torch.randn_like(state.weights),
        torch.zeros_like(state.slots),
        torch.zeros_like(state.statistics),
        torch.zeros_like(network.alpha),
        torch.zeros_like(network.beta),
    )
    return {
        "relaxed_step": lambda: problem.gradient(state, batch, 0),
        "step_back": lambda: problem.pull_back(state, gradient, batch, 0.01, 0, after),
    }


def launches(device: torch.device) -> dict[str, float]:
    """How many kernels a step has, how long the GPU has none, and what CUDA graphs gain."""
    if device.type == "cpu":
        raise NotApplicable("nothing is launched on a CPU")
    found = {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    for suffix, graphs in (("", None), ("_by_graphs", Graphs(device))):
        for kind, step in _vgg19(device, graphs).items():
            name = f"{kind}{suffix}"
            step()
            with torch.profiler.profile(activities=activities) as profile:
                step()
                torch.cuda.synchronize(device)
            on_gpu = [e.time_range for e in profile.events() if e.device_type == DeviceType.CUDA]
            busy = sum(each.elapsed_us() for each in on_gpu)
            whole = max(each.end for each in on_gpu) - min(each.start for each in on_gpu)
            found[f"{name}_kernels"] = float(len(on_gpu))
            found[f"{name}_idle_share"] = max(0.0, 1 - busy / whole)
            assert len(on_gpu) > 100
            began = time.perf_counter()
            for _ in range(5):
                step()
            torch.cuda.synchronize(device)
            found[f"{name}_s"] = (time.perf_counter() - began) / 5
    return found


def hypergradient_by_graphs(device: torch.device) -> dict[str, float]:
    """Recorded steps compute what steps do, in float64."""
    if device.type == "cpu":
        raise NotApplicable("nothing is recorded on a CPU")
    error = _relative(_hypergradient(device, torch.float64, Graphs(device)), _exact_hypergradient())
    assert error < 1e-9, f"the hypergradient is off by {error:.1e} of its norm"
    return {"relative_error": error}


def device_claims(device: torch.device) -> dict[str, float]:
    """While all GPUs are held nobody else gets one; a GPU that is let go is free."""
    if device.type == "cpu":
        raise NotApplicable("a CPU is not claimed")
    from sedona_nni.strategies.nni_border.devices import (
        claim_device,  # of the plugin, but without NNI
    )

    got: list[torch.device] = []
    done = threading.Event()

    def claim() -> None:
        with claim_device("cuda") as mine:
            got.append(mine)
            done.set()

    other = threading.Thread(target=claim, daemon=True)
    with contextlib.ExitStack() as held:
        number = torch.cuda.device_count()
        all_ = [held.enter_context(claim_device("cuda")) for _ in range(number)]
        assert len({each.index for each in all_}) == number
        other.start()
        assert not done.wait(2), "a GPU was given away twice"
    assert done.wait(20), "a GPU that is free again was not given away"
    other.join()
    return {"gpus": number}


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        gradient_isolation,
        hypergradient_in_float64,
        hypergradient_in_float32,
        search_goes_on,
        training_goes_on,
        mixed_precision,
        peak_memory,
        memory_of_a_search,
        launches,
        hypergradient_by_graphs,
        device_claims,
    )
}
