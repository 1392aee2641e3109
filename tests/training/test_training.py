import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from block_steps import greedy_step
from full_disk import full_disk
from pydantic import ValidationError
from torch import Tensor, nn

from sedona_nni.data.batches import BatchStream, MemoryImages, evaluation_batches
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import Block, DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.models.placement import place
from sedona_nni.task import Task
from sedona_nni.training import loop
from sedona_nni.training.evaluation import ensemble_votes, evaluate
from sedona_nni.training.loop import DivergedError, train
from sedona_nni.training.methods import TrainingMethod, build_method, greedy
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import CHECKPOINT_FILE

STEPS = 3  # per epoch, with the settings below
SETTINGS = TrainSettings(epochs=3, batch_size=50, lr=0.02, validation_fraction=0.25, seed=3)
SLOWED = {"name": "asynchronous", "buffer": 2, "slow_block": 3, "slowdown": 2}
THREE_BLOCKS = Decoupling(backbone="vgg11", cuts=[1, 4], aux=["conv2", "mlp-sr"])
ONE_BLOCK = Decoupling(backbone="vgg11")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=200), 0.25)


def build(decoupling: Decoupling, seed: int = 0) -> DecoupledNetwork:
    torch.manual_seed(seed)
    backbone = build_backbone(decoupling.backbone, num_classes=10, width_multiplier=0.25)
    return build_decoupled(backbone, decoupling)


def changed(**fields: Any) -> TrainSettings:
    return TrainSettings.model_validate({**SETTINGS.model_dump(), **fields})


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


# ---- The step and the loop -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [("greedy", "sgd"), ("greedy", "adam"), ("sequential", "sgd"), ("asynchronous", "sgd")],
)
def test_one_block_is_plain_back_propagation_to_the_bit(
    splits: Splits, method: str, optimizer: Any
) -> None:
    """Against a loop written here, with batch norm, dropout, momentum, decay and a schedule."""
    settings = changed(method=method, optimizer=optimizer, epochs=2)
    network = build(ONE_BLOCK)
    plain = build_backbone("vgg11", num_classes=10, width_multiplier=0.25)
    plain.load_state_dict(dict(zip(plain.state_dict(), network.state_dict().values(), strict=True)))
    place(plain, "cpu")  # another layout would be another order of sums, and other bits
    after_each_epoch: list[list[Tensor]] = []
    numbers: list[dict[str, float]] = []

    def report(epoch_numbers: dict[str, float]) -> None:
        numbers.append(epoch_numbers)
        after_each_epoch.append([tensor.clone() for tensor in network.state_dict().values()])

    train(network, splits, settings, report=report)

    reference: torch.optim.Optimizer = (
        torch.optim.SGD(plain.parameters(), 0.02, momentum=0.9, weight_decay=1e-4, fused=True)
        if optimizer == "sgd"
        else torch.optim.Adam(plain.parameters(), 0.02, weight_decay=1e-4, fused=True)
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 2 * STEPS, 0.001)
    batches = BatchStream(splits.train, 50, 3, "cpu").iterate()
    for epoch in range(2):
        plain.train()
        losses = []
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            images, labels = next(batches)
            torch.manual_seed(loop.dropout_seed(3, step))
            loss = F.cross_entropy(plain(images), labels, label_smoothing=0.1 * 10 / 9)
            reference.zero_grad()
            loss.backward()
            reference.step()
            schedule.step()
            losses.append(loss.item())
        expected = list(plain.state_dict().values())
        found = after_each_epoch[epoch]
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        # Added up in float32 there and in float64 here
        assert numbers[epoch]["train_loss"] == pytest.approx(sum(losses) / STEPS, rel=1e-5)
    assert numbers[-1]["lr"] == pytest.approx(0.001)


def test_report_and_result(splits: Splits) -> None:
    network = build(THREE_BLOCKS)
    seen: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    result = train(
        network, splits, SETTINGS, report=lambda numbers: seen.append((numbers, weights(network)))
    )
    blocks = {
        f"block_{number}_{name}" for number in (1, 2, 3) for name in ("accuracy", "train_loss")
    }
    assert [set(numbers) for numbers, _ in seen] == [
        {"default", "loss", "train_loss", "lr", "epoch", "epochs"} | blocks
    ] * 3
    assert [numbers["epoch"] for numbers, _ in seen] == [1, 2, 3]
    assert all(numbers["default"] == numbers["block_3_accuracy"] for numbers, _ in seen)
    assert all(numbers["train_loss"] == numbers["block_3_train_loss"] for numbers, _ in seen)
    assert len({numbers["block_1_train_loss"] for numbers, _ in seen}) == 3

    accuracies = [numbers["default"] for numbers, _ in seen]
    best = int(np.argmax(accuracies))  # the first of equals
    assert result.best_epoch == best + 1
    assert result.validation_accuracy == accuracies[best]
    assert result.validation_loss == seen[best][0]["loss"]
    assert same(weights(network), seen[best][1])
    assert result.test == evaluate(network, splits.test, SETTINGS, "cpu")
    assert result.time_s > 0


def test_best_epoch_is_kept_when_a_later_one_is_worse(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.2, 0.6, 0.6, 0.1, 0.5])  # the last is the test
    monkeypatch.setattr(
        loop,
        "evaluate",
        lambda *arguments: loop.Evaluation(1.0, [next(accuracies)], 0.0, [0]),
    )
    network = build(ONE_BLOCK)
    seen: list[dict[str, Tensor]] = []
    settings = SETTINGS.model_copy(update={"epochs": 4})
    result = train(network, splits, settings, report=lambda numbers: seen.append(weights(network)))
    assert (result.best_epoch, result.validation_accuracy) == (2, 0.6)
    assert result.test.accuracies == [0.5]
    assert same(weights(network), seen[1])
    assert not same(weights(network), seen[3])


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("method", ["greedy", "sequential", {"name": "asynchronous", "buffer": 2}])
def test_same_seed_same_result_to_the_bit(splits: Splits, method: Any) -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        history: list[dict[str, float]] = []
        network = build(THREE_BLOCKS, seed=0)
        torch.manual_seed(time.time_ns())  # whatever happens to be there
        settings = changed(method=method, seed=seed, epochs=2)
        train(network, splits, settings, report=history.append)
        return weights(network), history

    first, again, other = run(3), run(3), run(4)
    assert same(first[0], again[0])
    assert first[1] == again[1]
    assert not same(first[0], other[0])


def test_every_block_learns(splits: Splits) -> None:
    network = build(THREE_BLOCKS)
    before = weights(network)
    optimizers = build_method(network, SETTINGS, splits, STEPS).optimizers
    images, labels = next(BatchStream(splits.train, 50, 0, "cpu").iterate())
    criterion = nn.CrossEntropyLoss()
    network.train()
    first = greedy_step(network, optimizers, images, labels, criterion)
    for _ in range(5):
        last = greedy_step(network, optimizers, images, labels, criterion)
    assert torch.all(last[:2] < first[:2])  # the head has dropout and may still be worse
    for name, parameter in network.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_the_global_generator_is_left_alone(splits: Splits) -> None:
    network = build(ONE_BLOCK)
    before = torch.get_rng_state()
    train(network, splits, SETTINGS.model_copy(update={"epochs": 1}))
    assert torch.equal(torch.get_rng_state(), before)


def test_multistep_schedule(splits: Splits) -> None:
    settings = SETTINGS.model_copy(
        update={"schedule": "multistep", "milestones": [1, 2], "lr": 0.01, "lr_decay": 0.2}
    )
    rates: list[float] = []
    train(build(ONE_BLOCK), splits, settings, report=lambda numbers: rates.append(numbers["lr"]))
    assert rates == pytest.approx([0.002, 0.0004, 0.0004])


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision(splits: Splits, amp: Any) -> None:
    """Convolutions run in the lower precision and come to nearly the same losses."""
    images, labels = next(BatchStream(splits.train, 16, 0, "cpu").iterate())
    losses, dtypes = [], []
    for precision in ("no", amp):
        network = build(THREE_BLOCKS).train()
        network.blocks[1].layers[0].register_forward_hook(
            lambda module, inputs, output: dtypes.append(output.dtype)
        )
        optimizers = build_method(network, SETTINGS, splits, STEPS).optimizers
        torch.manual_seed(0)
        losses.append(
            greedy_step(network, optimizers, images, labels, nn.CrossEntropyLoss(), precision)
        )
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    assert dtypes == [torch.float32, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]]
    # bf16 has 8 bits of mantissa: up to 1 % off here, and kernels round where they like
    torch.testing.assert_close(losses[0], losses[1], rtol=0.1, atol=0.1)
    result = train(build(ONE_BLOCK), splits, SETTINGS.model_copy(update={"amp": amp, "epochs": 1}))
    assert np.isfinite(result.validation_loss)


def test_divergence_has_an_error_of_its_own(splits: Splits) -> None:
    settings = SETTINGS.model_copy(update={"lr": 1e12})
    with pytest.raises(DivergedError, match=r"diverged in epoch 1: .* lr 1000000000000"):
        train(build(ONE_BLOCK), splits, settings)


# ---- Evaluation ----------------------------------------------------------------------------------


class Lookup(nn.Module):
    """A classifier whose logits for the image of brightness n/255 are row n of a table."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__()
        self.table = torch.tensor(probabilities).log()

    def forward(self, features: Tensor) -> Tensor:
        return self.table[(features[:, 0, 0, 0] * 255).round().long()]


def test_evaluation_by_hand() -> None:
    """Four images of two classes and three classifiers that see through them by table.

    The head is right about images 0 and 3 only; its plain loss is
    -(ln .9 + ln .4 + ln .4 + ln .6) / 4. With the block below, sure about image 1 (product of
    probabilities .1*.6 < .9*.4) but not about image 2 (.55*.6 > .45*.4), three are right.
    """
    network = DecoupledNetwork(
        [
            Block([nn.Identity()], Lookup([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])),
            Block([nn.Identity()], Lookup([[0.6, 0.4], [0.1, 0.9], [0.55, 0.45], [0.4, 0.6]])),
            Block([nn.Identity()], Lookup([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.4, 0.6]])),
        ]
    )
    pixels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
    images = MemoryImages(pixels, np.array([0, 1, 1, 1]), (0.0,), (1.0,))
    settings = TrainSettings(evaluation_batch_size=3, label_smoothing=0.0, ensemble=2)
    found = evaluate(network, images, settings, "cpu")
    assert found.accuracies == [0.0, 0.75, 0.5]
    assert found.ensemble_accuracy == 0.75
    assert found.loss == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.6]).mean(), rel=1e-5)  # float32
    more = settings.model_copy(update={"ensemble": 9})
    assert evaluate(network, images, more, "cpu").ensemble_accuracy == 0.25
    alone = settings.model_copy(update={"ensemble": 1})
    assert evaluate(network, images, alone, "cpu").ensemble_accuracy == 0.5


def test_votes_of_an_ensemble_by_hand() -> None:
    """Three classifiers, lowest first, give class 0 the probabilities .9, .3 and .45.

    Log-probabilities: .9 * .3 * .45 = .1215 against .1 * .7 * .55 = .0385, class 0.
    Logits, here the logarithms, with weights 1, 2, 4: ln(.9/.1) + 2 ln(.3/.7) + 4 ln(.45/.55)
    = 2.1972 - 1.6946 - .8027 = -.3001, class 1.
    Probabilities likewise: .9 + 2 * .3 + 4 * .45 = 3.3 of 7, class 1; alike, 1.65 of 3 is class 0.
    """
    firsts = [0.9, 0.3, 0.45]
    tables = [torch.tensor([[p, 1 - p]]).log() for p in firsts]
    expected = {
        "log-probabilities": np.log(0.1215 / 0.0385),
        "logits": -0.3001,
        "probabilities": 3.3 - 3.7,
    }
    network = DecoupledNetwork([Block([nn.Identity()], Lookup([[p, 1 - p]])) for p in firsts])
    pixels = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    images = MemoryImages(pixels, np.array([1]), (0.0,), (1.0,))
    for vote, margin in expected.items():
        votes = ensemble_votes(tables, vote)  # type: ignore[arg-type]
        assert (votes[0, 0] - votes[0, 1]).item() == pytest.approx(margin, abs=1e-4)
        settings = TrainSettings(ensemble=3, ensemble_vote=vote)  # type: ignore[arg-type]
        found = evaluate(network, images, settings, "cpu")
        assert found.ensemble_accuracy == (margin < 0)


def test_evaluation_changes_nothing(splits: Splits) -> None:
    network = build(THREE_BLOCKS).train()
    before = weights(network)
    found = evaluate(network, splits.validation, SETTINGS, "cpu")
    assert same(weights(network), before)
    assert found == evaluate(network, splits.validation, SETTINGS, "cpu")  # no dropout either
    images, labels = next(evaluation_batches(splits.validation, 1000, "cpu"))
    right = (network(images).argmax(1) == labels).float().mean().item()
    assert found.accuracies[-1] == pytest.approx(right)


# ---- Interruptions -------------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("fields", "killed_at"),
    [
        *(({}, steps) for steps in [(0,), (2,), (3,), (5,), (7, 8), (9,), (4, 5, 6)]),
        ({"optimizer": "adam"}, (5,)),
        (
            {"optimizer": "adamw", "warmup_epochs": 1, "clip_norm": 0.1, "ema_decay": 0.9},
            (2, 4, 8),
        ),
        ({"schedule": "multistep", "milestones": [1]}, (2, 4, 7)),
        ({"augmentation": "trivialaugment", "mixup": 0.5, "cutmix": 1.0}, (2, 4)),
        ({"method": "sequential", "epochs": 1}, (2, 4, 8)),
        ({"method": "sequential", "ema_decay": 0.5}, (10,)),
        ({"method": {"name": "asynchronous", "buffer": 3, "max_draws": 2}, "mixup": 1}, (1, 4, 8)),
        ({"method": SLOWED, "schedule": "multistep", "milestones": [1]}, (4, 11)),
        ({"method": SLOWED, "warmup_epochs": 2, "nesterov": True, "ema_decay": 0.5}, (5,)),
    ],
)
def test_interrupted_and_continued_is_uninterrupted_to_the_bit(
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    killed_at: tuple[int, ...],
) -> None:
    """Killed just before the given steps, 3 per epoch; 9 is after the last of greedy learning."""
    settings = changed(**fields)

    def run(directory: Path, seed: int) -> tuple[dict[str, Tensor], list[Any], list[Any]]:
        network = build(THREE_BLOCKS, seed)
        history: list[dict[str, float]] = []
        result = train(network, splits, settings, report=history.append, directory=directory)
        return weights(network), history, [result.best_epoch, result.validation_loss, result.test]

    expected = run(tmp_path / "whole", seed=0)

    steps = 0
    real_build, real_evaluate = build_method, evaluate
    due = set(killed_at)

    def build_to_die(*arguments: Any) -> TrainingMethod:
        method = real_build(*arguments)
        real_step = method.step

        def step_or_die(images: Tensor, labels: Tensor) -> dict[int, Tensor]:
            nonlocal steps
            if steps in due:
                due.remove(steps)
                raise Killed
            steps += 1
            return real_step(images, labels)

        monkeypatch.setattr(method, "step", step_or_die)
        return method

    def evaluate_or_die(network: Any, images: Any, *arguments: Any) -> Any:
        if images is splits.test and 9 in due:
            due.remove(9)
            raise Killed
        return real_evaluate(network, images, *arguments)

    monkeypatch.setattr(loop, "build_method", build_to_die)
    monkeypatch.setattr(loop, "evaluate", evaluate_or_die)
    for _ in killed_at:
        with pytest.raises(Killed):
            run(tmp_path / "killed", seed=0)
        steps = steps // STEPS * STEPS  # what was done since the last checkpoint is done again
    assert not due
    # Once there is a checkpoint, what the network was before does not matter
    found = run(tmp_path / "killed", seed=0 if max(killed_at) < STEPS else 99)
    assert same(found[0], expected[0])
    assert found[1] == expected[1]
    assert found[2] == expected[2]


def test_a_checkpoint_of_other_settings_is_refused(splits: Splits, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    train(build(ONE_BLOCK), splits, settings, directory=tmp_path)
    with pytest.raises(InputError, match="was made with other training settings"):
        train(build(ONE_BLOCK), splits, SETTINGS, directory=tmp_path)


@pytest.mark.parametrize("damage", ["empty", "half", "foreign", "incomplete", "other"])
def test_a_damaged_checkpoint_is_one_line_and_stays(
    splits: Splits, tmp_path: Path, damage: str
) -> None:
    settings = SETTINGS.model_copy(update={"epochs": 1})
    train(build(ONE_BLOCK), splits, settings, directory=tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    content = path.read_bytes()
    state = torch.load(path, weights_only=True)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        torch.save([1, 2], path)
    elif damage == "incomplete":
        torch.save({"settings": state["settings"]}, path)
    else:
        torch.save({**state, "parts": [build(THREE_BLOCKS).state_dict()]}, path)
    damaged = path.read_bytes()
    with pytest.raises(
        InputError, match=r"checkpoint\.pt: .*; remove it to start again$"
    ) as raised:
        train(build(ONE_BLOCK), splits, settings, directory=tmp_path)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == damaged


@pytest.mark.slow(reason="trains")
def test_a_full_disk_loses_nothing(splits: Splits, tmp_path: Path) -> None:
    """What was kept before is kept, and training goes on from it when there is room again."""
    settings = SETTINGS.model_copy(update={"epochs": 2})
    network = build(ONE_BLOCK)
    expected = train(network, splits, settings)

    def fill(numbers: dict[str, float]) -> None:
        room.enter_context(full_disk(1000))

    with ExitStack() as room, pytest.raises(InputError, match=r"checkpoint\.pt: cannot be written"):
        train(build(ONE_BLOCK), splits, settings, directory=tmp_path, report=fill)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    seen: list[dict[str, float]] = []
    again = build(ONE_BLOCK, seed=9)
    found = train(again, splits, settings, directory=tmp_path, report=seen.append)
    assert (found.validation_loss, found.test) == (expected.validation_loss, expected.test)
    assert same(weights(again), weights(network))
    assert len(seen) == 2


def test_a_folder_of_a_training_in_parallel_is_left_alone(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(InputError, match="was made by a training in parallel; go on as it was"):
        train(build(ONE_BLOCK), splits, SETTINGS, directory=tmp_path)


def test_batches_of_few_classes(splits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs with 2 classes per batch of 5, as long as there are, then one with any."""
    classes: list[int] = []

    def count(self: Any, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        classes.append(len(labels.unique()))
        return {}

    monkeypatch.setattr(greedy.GreedyLearning, "step", count)
    limits = {"batch_size": 5, "classes_per_batch": 2, "class_limited_epochs": 2}
    train(build(ONE_BLOCK), splits, SETTINGS.model_copy(update=limits))
    assert classes[:20] == classes[30:50] == [2] * 20
    assert min(classes[60:]) > 2


# ---- Settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_limited_epochs": 3}, "class_limited_epochs must come with classes_per_batch"),
        ({"lr": 0.0001}, "lr_min must be at most lr, 0.0001, but got 0.001"),
        ({"schedule": "multistep"}, "milestones must be given for the multistep schedule"),
        ({"milestones": [3]}, "milestones must be given for the multistep schedule and for no"),
        ({"schedule": "multistep", "milestones": [3, 2]}, "milestones must rise from 1 to 181"),
        ({"schedule": "multistep", "milestones": [182]}, "milestones must rise from 1 to 181"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"batch_size": 1}, "greater than or equal to 2"),
        ({"optimiser": "sgd"}, "Extra inputs are not permitted"),
        ({"amp": "int8"}, "Input should be 'no', 'fp16' or 'bf16'"),
    ],
)
def test_bad_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(fields)


def test_streams_of_a_training_are_those_of_its_settings(splits: Splits) -> None:
    """The images that the first step sees follow from the settings' seed and batch size."""
    seen: list[Tensor] = []
    network = build(ONE_BLOCK)
    network.blocks[0].register_forward_pre_hook(
        lambda block, inputs: seen.append(inputs[0].clone()) if block.training else None
    )
    train(network, splits, SETTINGS.model_copy(update={"epochs": 1}))
    expected = islice(BatchStream(splits.train, 50, 3, "cpu").iterate(), STEPS)
    assert all(torch.equal(a, b) for a, (b, _) in zip(seen, expected, strict=True))


def test_weight_decay_momentum_and_rate_reach_every_optimizer(splits: Splits) -> None:
    network = build(THREE_BLOCKS)
    settings = TrainSettings(lr=0.3, momentum=0.8, weight_decay=0.01)
    optimizers = build_method(network, settings, splits, STEPS).optimizers
    assert len(optimizers) == 3
    for optimizer, block in zip(optimizers, network.blocks, strict=True):
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.8, 0.01)
        assert {id(p) for p in group["params"]} == {id(p) for p in block.parameters()}
