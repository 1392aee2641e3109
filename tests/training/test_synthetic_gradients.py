import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.cost import Cost, count_parameters
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.task import Task
from sedona_nni.training.loop import train
from sedona_nni.training.methods import build_method, synthetic_gradients
from sedona_nni.training.methods.synthetic_gradients import Synthesizer, SyntheticGradients
from sedona_nni.training.settings import TrainSettings

SETTINGS = TrainSettings(
    method="dni",
    batch_size=20,
    lr=0.05,
    lr_min=0.05,
    momentum=0,
    weight_decay=0,
    label_smoothing=0,
    epochs=2,
)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=200), 0.25)


def settings_for(name: str, **changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({**SETTINGS.model_dump(), "method": name, **changes})


def build(cuts: list[int], seed: int = 0) -> DecoupledNetwork:
    torch.manual_seed(seed)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    decoupling = Decoupling(backbone="vgg11", cuts=cuts, aux=["none"] * len(cuts))
    return build_decoupled(backbone, decoupling)


def method_for(
    network: DecoupledNetwork, splits: Splits, settings: TrainSettings = SETTINGS
) -> SyntheticGradients:
    torch.manual_seed(1)
    method = build_method(network, settings, splits, steps_per_epoch=4)
    assert isinstance(method, SyntheticGradients)
    method.start_epoch(1)
    return method


def go_on(method: SyntheticGradients, splits: Splits, first: int, last: int) -> None:
    batches = BatchStream(splits.train, 20, 1, "cpu").iterate()
    for step, (images, labels) in islice(enumerate(batches), first, last):
        torch.manual_seed(step)
        method.step(images, labels)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# ---- By hand, on a linear network ----------------------------------------------------------------


class Factor(nn.Module):
    """Multiplies by one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.value * features


class Total(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.sum(dim=(1, 2, 3))


def half_squared_error(predicted: Tensor, wanted: Tensor) -> Tensor:
    return (predicted - wanted).square().mean() / 2


def test_a_step_by_hand(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images b of 2x2 pixels p, three blocks h_k = w_k h_{k-1}, synthesizers s_k = v_k h_k.

    The head adds up the map: o_b = sum_p h_3bp, and l = 1/2 sum_b (o_b - y_b)^2 / 2. So
    dl/dh_3bp = (o_b - y_b) / 2 at every pixel.
    """
    values = iter([0.7, -1.1])
    monkeypatch.setattr(synthetic_gradients, "Synthesizer", lambda *_: Factor(next(values)))
    w1, w2, w3, v1, v2, rate = 0.5, -0.8, 1.3, 0.7, -1.1, 0.05
    network = DecoupledNetwork(
        [Block([Factor(w1)], None), Block([Factor(w2)], None), Block([Factor(w3)], Total())]
    )
    method = method_for(network, splits)
    method.criterion = half_squared_error
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.25, 1.5, -1.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([1.0, -2.0], dtype=torch.float64)
    losses = method.step(x.view(2, 1, 2, 2), y)

    h1, h2, h3 = w1 * x, w2 * w1 * x, w3 * w2 * w1 * x
    residual = h3.sum(1) - y
    s1, s2 = v1 * h1, v2 * h2
    g1 = w2 * s2
    g2 = w3 * (residual / 2)[:, None].expand(2, 4)
    expected = {
        "w1": w1 - rate * (s1 * x).sum(),
        "w2": w2 - rate * (s2 * h1).sum(),
        "w3": w3 - rate * ((residual / 2)[:, None] * h2).sum(),
        "v1": v1 - rate * (2 / 2 * (s1 - g1) * h1).sum(),
        "v2": v2 - rate * (2 / 2 * (s2 - g2) * h2).sum(),
    }
    found = dict(
        zip(expected, [*network.parameters(), *method.synthesizers.parameters()], strict=True)
    )
    for name, value in expected.items():  # of size 1: sums of 8 products in another order
        torch.testing.assert_close(found[name].detach(), value, rtol=0, atol=1e-12)
    assert losses == {2: pytest.approx(float((residual**2).mean() / 2), abs=1e-12)}


# ---- With true gradients -------------------------------------------------------------------------


class TrueGradient(nn.Module):
    """Knows what is above it, and returns dl/dh."""

    def __init__(self, rest: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rest = rest
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        inputs = features.detach().requires_grad_()
        loss = nn.functional.cross_entropy(self.rest(inputs), labels)
        (gradient,) = torch.autograd.grad(loss, inputs)
        return gradient + 0 * self.unused


def smooth_blocks() -> list[Block]:
    torch.manual_seed(3)
    layers: Sequence[nn.Module] = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 4, 3)]
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 2 * 2, 3))
    return [
        Block([layer, nn.Tanh()], head if layer is layers[-1] else None).double()
        for layer in layers
    ]


def test_with_true_gradients_it_is_back_propagation(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, plain = DecoupledNetwork(smooth_blocks()), smooth_blocks()
    blocks, head = network.blocks, network.blocks[-1].classifier
    assert head is not None

    def above(index: int) -> Callable[[Tensor], Tensor]:
        return nn.Sequential(*(block.layers for block in blocks[index + 1 :]), head)

    doubles = iter([TrueGradient(above(0)), TrueGradient(above(1))])
    monkeypatch.setattr(synthetic_gradients, "Synthesizer", lambda *_: next(doubles))
    coloured = replace(splits, in_channels=3, image_size=8)
    method = method_for(network, coloured, settings_for("dni", lr=0.5, lr_min=0.5))
    reference = torch.optim.SGD([p for block in plain for p in block.parameters()], 0.5)
    for _ in range(4):
        images = torch.randn(6, 3, 8, 8, dtype=torch.float64)
        labels = torch.randint(3, (6,))
        (loss,) = method.step(images, labels).values()
        features = images
        for block in plain:
            features = block(features)
        expected, _ = plain[-1].local_loss(features, labels, nn.functional.cross_entropy)
        reference.zero_grad()
        expected.backward()
        reference.step()
        # Of size 1, after four steps whose gradients are added up in another order
        torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-10)
        for found, wanted in zip(network.blocks, plain, strict=True):
            for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


# ---- Synthesizers --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_first_guess_is_zero_and_a_later_one_is_not(size: int) -> None:
    torch.manual_seed(0)
    synthesizer = Synthesizer(4, 6, None)
    features, labels = torch.randn(5, 4, size, size), torch.zeros(5, dtype=torch.long)
    assert torch.equal(synthesizer(features, labels), torch.zeros_like(features))
    optimizer = torch.optim.SGD(synthesizer.parameters(), 0.1)
    (synthesizer(features, labels) - features).square().sum().backward()
    optimizer.step()
    guess = synthesizer(features, labels)
    assert guess.shape == features.shape
    assert guess.abs().max() > 0


def test_only_cdni_looks_at_labels(splits: Splits) -> None:
    guesses = {}
    for name in ("dni", "cdni"):
        method = method_for(build([1, 4]), splits, settings_for(name))
        (synthesizer, _) = method.synthesizers.eval()
        nn.init.normal_(synthesizer.last.weight)  # type: ignore[union-attr,arg-type]
        features = torch.rand(2, 8, 16, 16)
        guesses[name] = [
            synthesizer(features, torch.tensor(labels)) for labels in ([3, 7], [3, 8], [7, 3])
        ]
    assert torch.equal(guesses["dni"][0], guesses["dni"][1])
    first, second, third = guesses["cdni"]
    assert torch.equal(first[0], second[0])  # of the image whose label is the same
    assert not torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])


def test_learning_seeps_down_block_by_block(splits: Splits) -> None:
    """A guess of zero teaches nothing: block k < K waits for the synthesizer above it."""
    network = build([1, 4])
    method = method_for(network, splits)
    moved = []
    for step in range(3):
        before = [weights(block) for block in network.blocks]
        go_on(method, splits, step, step + 1)
        moved.append(
            [
                any(not torch.equal(old[name], p) for name, p in block.named_parameters())
                for old, block in zip(before, network.blocks, strict=True)
            ]
        )
    assert moved == [[False, False, True], [False, True, True], [True, True, True]]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_cost_of_synthesizers(splits: Splits) -> None:
    """At the cuts are 8 maps of 16x16 and 16 of 8x8; width 5, 10 classes."""
    options = {"name": "cdni", "synthesizer_width": 5}
    method = method_for(build([1, 3]), splits, settings_for(options))  # type: ignore[arg-type]
    found = method.extra_cost()
    filters = [25 * (8 * 5 + 5 * 5 + 5 * 8), 25 * (16 * 5 + 5 * 5 + 5 * 16)]
    others = [10 * 5 + 4 * 5 + 8, 10 * 5 + 4 * 5 + 16]  # labels, batch norms, last bias
    macs = filters[0] * 16**2 + filters[1] * 8**2 + 2 * 10 * 5
    assert found == Cost(sum(filters) + sum(others), macs)
    default = method_for(build([1, 3]), splits).synthesizers
    assert [part.last.in_channels for part in default] == [8, 16]  # type: ignore[union-attr]
    assert method_for(build([]), splits).extra_cost() == Cost(0, 0)
    assert found.parameters == count_parameters(method.synthesizers)
    method.start_epoch(1)
    assert all(part.training for part in method.synthesizers.modules())


# ---- The whole method ----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_block_is_back_propagation_to_the_bit(splits: Splits, optimizer: str) -> None:
    found = []
    for name in ("dni", "cdni", "greedy"):
        network = build([])
        method = build_method(network, settings_for(name, optimizer=optimizer), splits, 4)
        method.start_epoch(1)
        batches = BatchStream(splits.train, 20, 1, "cpu").iterate()
        for step, (images, labels) in enumerate(islice(batches, 3)):
            torch.manual_seed(step)
            method.step(images, labels)
        found.append(weights(network))
    assert same(found[0], found[2])
    assert same(found[1], found[2])


@pytest.mark.parametrize("name", ["dni", "cdni"])
def test_continued_is_uninterrupted_to_the_bit(splits: Splits, name: str) -> None:
    settings = settings_for(name, optimizer="adam", lr=0.01, lr_min=0.001)
    whole = build([1, 4])
    expected = method_for(whole, splits, settings)
    go_on(expected, splits, 0, 6)

    network = build([1, 4])
    method = method_for(network, splits, settings)
    go_on(method, splits, 0, 3)
    file = io.BytesIO()
    torch.save([network.state_dict(), method.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    network = build([1, 4], seed=99)
    network.load_state_dict(states[0])
    method = method_for(network, splits, settings)
    method.load_state_dict(states[1])
    go_on(method, splits, 3, 6)
    assert same(weights(network), weights(whole))
    assert same(weights(method.synthesizers), weights(expected.synthesizers))


@pytest.mark.slow(reason="three trainings")
@pytest.mark.parametrize("name", ["dni", "cdni"])
def test_a_training_is_repeated_and_continued_to_the_bit(
    splits: Splits, tmp_path: Path, name: str
) -> None:
    """Two epochs of three steps; the second time interrupted after the first epoch."""
    settings = settings_for(
        name, optimizer="adam", lr=0.002, lr_min=0, batch_size=50, ema_decay=0.5, mixup=0.5
    )

    def run(directory: Path | None, seed: int = 3, initial: int = 0, last: int = 2) -> Any:
        def stop(numbers: dict[str, float]) -> None:
            if numbers["epoch"] == last and last < 2:
                raise KeyboardInterrupt

        network = build([1, 4], initial)
        seeded = settings.model_copy(update={"seed": seed})
        train(network, splits, seeded, report=stop, directory=directory)
        return weights(network)

    expected = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, last=1)
    assert same(run(tmp_path, initial=99), expected)
    assert not same(run(None, seed=4), expected)


@pytest.mark.slow(reason="trains")
def test_mixed_precision_comes_near(splits: Splits) -> None:
    """In fp16 with loss scaling synthesizers and blocks move about as far and the same way."""
    found = []
    for amp in ("no", "fp16"):
        network = build([1, 4])
        method = method_for(network, splits, settings_for("dni", lr=1e-3, lr_min=0, amp=amp))
        learning = nn.ModuleList([network, method.synthesizers])
        before = nn.utils.parameters_to_vector(learning.parameters()).detach()
        method.scalers = [
            torch.amp.GradScaler("cpu", init_scale=256.0 * 2**place, enabled=amp == "fp16")
            for place in range(len(network.blocks))
        ]
        go_on(method, splits, 0, 5)
        found.append(nn.utils.parameters_to_vector(learning.parameters()).detach() - before)
    # Kernels of fp16 round in places of their own choice: up to 27 % was seen. What is not scaled
    # back, is forgotten or goes the wrong way is off by 100 % and more
    assert (found[0] - found[1]).norm() < 0.5 * found[0].norm()
