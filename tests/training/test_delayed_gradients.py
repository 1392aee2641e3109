import io
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.task import Task
from sedona_nni.training.loop import train
from sedona_nni.training.methods import build_method
from sedona_nni.training.methods.delayed_gradients import DelayedGradients
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import Stage

# Schedules begin before blocks that wait do; `train` keeps the warning off
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

SETTINGS = TrainSettings(method="ddg", epochs=2, batch_size=20, lr=0.05, label_smoothing=0.0)
STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=200), 0.25)


def build(cuts: list[int], seed: int = 0) -> DecoupledNetwork:
    """A VGG-11 with dropout in its head and, so that a lower block has some, after layer 0."""
    torch.manual_seed(seed)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    backbone.layers[0].append(nn.Dropout(0.2))
    decoupling = Decoupling(backbone="vgg11", cuts=cuts, aux=["none"] * len(cuts))
    return build_decoupled(backbone, decoupling)


def method_for(
    network: DecoupledNetwork, splits: Splits, settings: TrainSettings = SETTINGS
) -> DelayedGradients:
    method = build_method(network, settings, splits, STEPS_PER_EPOCH)
    assert isinstance(method, DelayedGradients)
    method.start_epoch(1)
    return method


def batches(splits: Splits) -> Iterator[tuple[Tensor, Tensor]]:
    return BatchStream(splits.train, 20, 1, "cpu").iterate()


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# ---- Against an explicit simulation --------------------------------------------------------------


def small_network() -> DecoupledNetwork:
    """Three blocks with batch norm, one of them of two layers, in float64."""
    torch.manual_seed(5)

    def unit(c_in: int, c_out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.BatchNorm2d(c_out), nn.Tanh())

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    return DecoupledNetwork(
        [
            Block([unit(3, 4)], None),
            Block([unit(4, 5), unit(5, 4)], None),
            Block([unit(4, 4)], head),
        ]
    ).double()


def simulated(**options: Any) -> TrainSettings:
    method = {"name": "ddg", **options}
    changes = {"weight_decay": 0.01, "momentum": 0.8, "method": method}
    return TrainSettings.model_validate({**SETTINGS.model_dump(), **changes})


def made_batches(steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    for _ in range(steps):
        yield torch.randn(7, 3, 6, 6, dtype=torch.float64), torch.randint(3, (7,))


@pytest.mark.parametrize("beta", [1.0, 0.6])
@pytest.mark.parametrize("update_every", [1, 2, 3])
def test_equals_a_simulation_with_saved_weights(
    splits: Splits, beta: float, update_every: int
) -> None:
    """Block k = 1, 2, 3 finds at step t the full gradient of batch t-3+k at the weights of step
    t-3+k, times beta^(3-k), and follows the mean of each `update_every` of them, with momentum and
    decay, at the rate of step t; before there are so many it stays put."""
    settings = simulated(beta=beta, update_every=update_every)
    network = small_network()
    plain = small_network()  # never cut
    plain_blocks = [block.layers for block in plain.blocks]
    plain_head = plain.blocks[-1].classifier
    assert plain_head is not None
    current = [
        [p.detach().clone() for p in block.parameters()] for block in plain.blocks
    ]  # w^t by block
    momenta = [[torch.zeros_like(p) for p in block] for block in current]
    gradients: list[list[list[Tensor]]] = []  # of step s, by block

    method = method_for(network, splits, settings)
    for t, (images, labels) in enumerate(made_batches(3 + 2 * update_every)):
        rate = method.schedules[0].get_last_lr()[0]
        (loss,) = method.step(images, labels).values()

        with torch.no_grad():
            for block, values in zip(plain.blocks, current, strict=True):
                for parameter, value in zip(block.parameters(), values, strict=True):
                    parameter.copy_(value)
        plain.zero_grad()
        features = images
        for layers in plain_blocks:
            features = layers(features)
        expected_loss = nn.functional.cross_entropy(plain_head(features), labels)
        expected_loss.backward()
        gradients.append(
            [[p.grad.clone() for p in block.parameters()] for block in plain.blocks]  # type: ignore[union-attr]
        )
        for k in (1, 2, 3):
            seen = t - 3 + k + 1
            if seen <= 0 or seen % update_every:
                continue
            latest = [each[k - 1] for each in gradients[seen - update_every : seen]]
            for value, momentum, *found in zip(
                current[k - 1], momenta[k - 1], *latest, strict=True
            ):
                gradient = beta ** (3 - k) * torch.stack(found).mean(0)
                momentum.mul_(0.8).add_(gradient + 0.01 * value)
                value.sub_(rate * momentum)

        # Of size 1, after up to six steps; batch norms magnify what another order of sums does
        torch.testing.assert_close(loss, expected_loss.detach(), rtol=0, atol=1e-10)
        for block, values in zip(network.blocks, current, strict=True):
            for parameter, value in zip(block.parameters(), values, strict=True):
                torch.testing.assert_close(parameter.detach(), value, rtol=0, atol=1e-10)
        for found, buffer in zip(network.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(found, buffer, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("beta", "update_every"), [(1.0, 1), (0.6, 2)])
def test_equals_a_simulation_of_replay(splits: Splits, beta: float, update_every: int) -> None:
    """Block k goes forward again with what it was given of batch t-3+k and its weights of step t,
    and backward with the error that block k+1 has found in doing so at step t-1."""
    settings = simulated(beta=beta, update_every=update_every, replay=True)
    network, plain = small_network(), small_network()
    momenta = [[torch.zeros_like(p) for p in block.parameters()] for block in plain.blocks]
    sums = [[torch.zeros_like(p) for p in block.parameters()] for block in plain.blocks]
    counts = [0, 0, 0]
    given: list[list[Tensor]] = [[], [], []]
    errors: list[Tensor | None] = [None, None, None]

    method = method_for(network, splits, settings)
    for t, (images, labels) in enumerate(made_batches(4 + 2 * update_every)):
        rate = method.schedules[0].get_last_lr()[0]
        (loss,) = method.step(images, labels).values()

        before, errors = errors, [None, None, None]
        features = images
        for index, block in enumerate(plain.blocks):
            given[index].append(features)
            with torch.no_grad():
                features = block(features)
            s = t - 2 + index
            if s < 0:
                continue
            buffers = {name: buffer.clone() for name, buffer in block.named_buffers()}
            inputs = given[index][s].clone().requires_grad_()
            block.zero_grad()
            if index == 2:
                assert block.classifier is not None
                expected = nn.functional.cross_entropy(block.classifier(block(inputs)), labels)
                expected.backward()
                torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-10)
            else:
                block(inputs).backward(before[index])
            for name, buffer in block.named_buffers():
                buffer.copy_(buffers[name])
            assert inputs.grad is not None
            if index:
                errors[index - 1] = beta * inputs.grad
            counts[index] += 1
            for total, parameter in zip(sums[index], block.parameters(), strict=True):
                assert parameter.grad is not None
                total.add_(parameter.grad / update_every)
            if counts[index] % update_every:
                continue
            with torch.no_grad():
                own = zip(block.parameters(), momenta[index], sums[index], strict=True)
                for parameter, momentum, total in own:
                    momentum.mul_(0.8).add_(total + 0.01 * parameter)
                    parameter.sub_(rate * momentum)
                    total.zero_()

        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(network.state_dict()[name], tensor, rtol=0, atol=1e-10)
    assert all(waited.outputs is None for queue in method.waiting for waited in queue)


def test_copies_of_weights_are_as_many_as_there_are_updates_between(splits: Splits) -> None:
    """Four blocks: the lowest waits three steps, in which it is updated three times, or once."""
    for update_every, distinct in [(1, 3), (3, 2), (4, 1)]:
        network = build([0, 2, 4])
        settings = SETTINGS.model_validate(
            {**SETTINGS.model_dump(), "method": {"name": "ddg", "update_every": update_every}}
        )
        method = method_for(network, splits, settings)
        for images, labels in islice(itertools.cycle(batches(splits)), 3 + 4 * update_every):
            method.step(images, labels)
        assert len({id(waited.weights) for waited in method.waiting[0]}) <= distinct


def test_a_lowest_block_that_is_frozen_stays_as_it_is(splits: Splits) -> None:
    """And those above it learn."""
    network = build([2])
    lower, upper = network.blocks
    lower.requires_grad_(False)
    method = method_for(network, splits)
    before = [[weight.clone() for weight in block.parameters()] for block in (lower, upper)]
    for _, (images, labels) in zip(range(3), batches(splits), strict=False):
        method.step(images, labels)
    assert all(map(torch.equal, lower.parameters(), before[0]))
    assert not any(map(torch.equal, upper.parameters(), before[1]))


def test_who_waits_and_for_how_long(splits: Splits) -> None:
    """Of four blocks the first is updated from the fourth step on; queues end up 3, 2, 1 long."""
    network = build([0, 2, 4])
    method = method_for(network, splits)
    lengths = []
    moved = []
    for images, labels in islice(batches(splits), 5):
        before = [weights(block.layers) for block in network.blocks]
        method.step(images, labels)
        after = [dict(block.layers.named_parameters()) for block in network.blocks]
        moved.append(
            [
                any(not torch.equal(old[name], new[name]) for name in new)
                for old, new in zip(before, after, strict=True)
            ]
        )
        lengths.append([len(queue) for queue in method.waiting])
    assert lengths == [[1, 1, 1], [2, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, 1]]
    assert moved == [
        [False, False, False, True],
        [False, False, True, True],
        [False, True, True, True],
        [True, True, True, True],
        [True, True, True, True],
    ]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_rehearsal_comes_to_the_most_that_is_ever_kept(splits: Splits) -> None:
    method = method_for(build([0, 2, 4]), splits)
    images, labels = next(batches(splits))
    method.rehearse(images, labels)
    assert [len(queue) for queue in method.waiting] == [3, 2, 1]
    assert all(optimizer.state for optimizer in method.optimizers)


class Alone(Stage):
    """What a rank hears in a rehearsal: errors of zero."""

    def send(self, *tensors: Tensor) -> None:
        self.sent = tensors[0]

    def receive_error(self) -> Tensor:
        return torch.zeros_like(self.sent)

    def send_error(self, error: Tensor) -> None:
        pass


def test_a_rehearsal_of_a_rank_comes_to_it_as_well(splits: Splits) -> None:
    """The second of four blocks, alone in its process."""
    network = build([0, 2, 4])
    images, labels = next(batches(splits))
    features = network.blocks[0](images).detach()
    alone = DecoupledNetwork([network.blocks[1]])
    method = build_method(alone, SETTINGS, splits, STEPS_PER_EPOCH, Alone(4, 1))
    assert isinstance(method, DelayedGradients)
    method.rehearse(features, labels)
    assert [len(queue) for queue in method.waiting] == [2]
    assert all(optimizer.state for optimizer in method.optimizers)


def test_updates_that_would_never_come_are_refused(splits: Splits) -> None:
    """10 steps, of which the lowest of four blocks hears nothing in three."""
    for update_every, possible in ((7, True), (8, False)):
        given = {"epochs": 1, "method": {"name": "ddg", "update_every": update_every}}
        settings = SETTINGS.model_validate({**SETTINGS.model_dump(), **given})
        rule = r"^method\.update_every: must be at most 7, the gradients of .*, but got 8$"
        with nullcontext() if possible else pytest.raises(InputError, match=rule):
            build_method(build([0, 2, 4]), settings, splits, 10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_one_block_is_back_propagation_to_the_bit(splits: Splits, optimizer: Any) -> None:
    results = []
    for name in ("ddg", "greedy"):
        settings = TrainSettings.model_validate(
            {**SETTINGS.model_dump(), "method": name, "optimizer": optimizer}
        )
        network = build([])
        method = build_method(network, settings, splits, STEPS_PER_EPOCH)
        method.start_epoch(1)
        for step, (images, labels) in enumerate(islice(batches(splits), 3)):
            torch.manual_seed(step)
            loss = method.step(images, labels)[0]
        results.append((weights(network), loss))
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


# ---- Interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interrupted_after", "options"),
    [
        (1, {}),
        (2, {}),
        (4, {}),
        (3, {"update_every": 2, "beta": 0.5}),
        (4, {"update_every": 3}),
        (4, {"replay": True}),
        (3, {"replay": True, "update_every": 2}),
    ],
)
def test_continued_is_uninterrupted_to_the_bit(
    splits: Splits, interrupted_after: int, options: dict[str, Any]
) -> None:
    """With graphs under way, dropout in the lowest block and running statistics."""
    settings = TrainSettings.model_validate(
        {**SETTINGS.model_dump(), "method": {"name": "ddg", **options}}
    )

    def go_on(method: DelayedGradients, first: int, last: int) -> None:
        for step, (images, labels) in islice(enumerate(batches(splits)), first, last):
            torch.manual_seed(step)
            method.step(images, labels)

    whole = build([2, 4])
    go_on(method_for(whole, splits, settings), 0, 6)

    network = build([2, 4])
    method = method_for(network, splits, settings)
    go_on(method, 0, interrupted_after)
    file = io.BytesIO()
    torch.save([network.state_dict(), method.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    network = build([2, 4], seed=99)
    network.load_state_dict(states[0])
    method = method_for(network, splits, settings)
    method.load_state_dict(states[1])
    go_on(method, interrupted_after, 6)
    assert same(weights(network), weights(whole))


@pytest.mark.slow(reason="three trainings")
def test_a_training_is_repeated_and_continued_to_the_bit(splits: Splits, tmp_path: Path) -> None:
    """Two epochs of three steps; the second time interrupted after the first epoch."""
    settings = SETTINGS.model_copy(update={"batch_size": 50, "ema_decay": 0.5, "mixup": 0.5})

    def run(directory: Path | None, seed: int = 3, initial: int = 0, last: int = 2) -> Any:
        def stop(numbers: dict[str, float]) -> None:
            if numbers["epoch"] == last and last < 2:
                raise KeyboardInterrupt

        network = build([2, 4], initial)
        seeded = settings.model_copy(update={"seed": seed})
        train(network, splits, seeded, report=stop, directory=directory)
        return weights(network)

    expected = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, last=1)
    assert same(run(tmp_path, initial=99), expected)
    assert not same(run(None, seed=4), expected)


def test_mixed_precision_comes_near(splits: Splits) -> None:
    """In fp16 updates are about the same, also when the loss scale doubles at every step."""
    settings = SETTINGS.model_copy(update={"lr": 1e-3})
    found = []
    for amp in ("no", "fp16"):
        network = build([2, 4])
        before = nn.utils.parameters_to_vector(network.parameters())
        method = method_for(network, splits, settings.model_copy(update={"amp": amp}))
        method.scalers = [
            torch.amp.GradScaler(
                "cpu", init_scale=64.0 * 2**place, growth_interval=1, enabled=amp == "fp16"
            )
            for place in range(len(network.blocks))
        ]
        for step, (images, labels) in enumerate(islice(batches(splits), 4)):
            torch.manual_seed(step)
            method.step(images, labels)
        found.append((nn.utils.parameters_to_vector(network.parameters()) - before).detach())
    assert (found[0] - found[1]).norm() < 0.2 * found[0].norm()
