"""Optimizers, warm-up, clipping and averages: for every method what torch does for one network."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sedona_nni.data.batches import BatchStream
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.training import loop
from sedona_nni.training.evaluation import evaluate
from sedona_nni.training.loop import train
from sedona_nni.training.methods import TrainingMethod, build_method
from sedona_nni.training.methods.method import build_optimizer, build_schedule
from sedona_nni.training.settings import TrainSettings
from sedona_nni.training.stage import CHECKPOINT_FILE

STEPS = 3  # per epoch, with the settings below
SMALL = {"epochs": 1, "batch_size": 50, "lr": 0.001, "lr_min": 0.0005, "validation_fraction": 0.25}
# What `train` keeps quiet, too: a schedule that goes on before a block has been updated
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
METHODS = ["greedy", "sequential", "asynchronous", "dni", "cdni", "ddg"]


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(Task(train_limit=200), 0.25)


def settings(**fields: Any) -> TrainSettings:
    return TrainSettings.model_validate({**SMALL, **fields})


def build(method: str = "greedy", seed: int = 0) -> DecoupledNetwork:
    torch.manual_seed(seed)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
    aux = "none" if method in ("dni", "cdni", "ddg") else "conv1"
    return build_decoupled(backbone, Decoupling(backbone="vgg11", cuts=[1, 4], aux=[aux] * 2))


def relaxed() -> DecoupledNetwork:
    torch.manual_seed(0)
    found = SearchResult(
        backbone="vgg11",
        dataset="digits",
        aux_choices=["conv1"],
        alpha=[[0.3 * i, 1.0] for i in range(7)],
        beta=[[0.5] for _ in range(7)],
    )
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
    return build_relaxed(backbone, found)


def go(network: DecoupledNetwork, how: TrainSettings, splits: Splits) -> TrainingMethod:
    """Take one epoch's steps, or those of all blocks one after the other; return the method."""
    method = build_method(network, how, splits, STEPS)
    if how.amp == "fp16":  # from a scale at which no step is skipped
        for scaler in method.scalers:
            scaler.load_state_dict({**scaler.state_dict(), "scale": 64.0})
    take_steps(method, splits)
    return method


def take_steps(method: TrainingMethod, splits: Splits) -> None:
    how = method.settings
    stream = BatchStream(splits.train, how.batch_size, how.seed, "cpu").iterate()
    for epoch in range(1, method.num_epochs + 1):
        method.start_epoch(epoch)
        for step in range(STEPS):
            torch.manual_seed(step)
            method.step(*next(stream))


# ---- Optimizers and rates ------------------------------------------------------------------------


def moved(steps: int, **fields: Any) -> float:
    """Where a weight of 1 goes that always has the gradient 1, or 0 where there is decay."""
    weight = nn.Parameter(torch.ones(()))
    how = settings(lr=0.1, **fields)
    optimizer = build_optimizer([weight], how)
    for _ in range(steps):
        weight.grad = torch.tensor(float(how.weight_decay == 0))
        optimizer.step()
    return float(weight.detach())


def test_optimizers_by_hand() -> None:
    """SGD: m = .9 m + g, w -= lr m; Nesterov: w -= lr (g + .9 m). AdamW: w -= lr wd w."""
    assert moved(2, weight_decay=0) == pytest.approx(1 - 0.1 - 0.19)
    assert moved(2, weight_decay=0, nesterov=True) == pytest.approx(1 - 0.19 - 0.271)
    assert moved(2, weight_decay=0.5, optimizer="adamw") == pytest.approx(0.95**2)
    assert moved(1, weight_decay=0.5, optimizer="adam") == pytest.approx(0.9)


def rates(**fields: Any) -> list[float]:
    """The rate of every step, two per epoch, in hundredths of the highest."""
    how = settings(lr=0.5, **fields)
    optimizer = build_optimizer([nn.Parameter(torch.ones(()))], how)
    schedule = build_schedule(optimizer, how, 2)
    found = []
    for _ in range(2 * how.epochs):
        found.append(200 * optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    "schedule",
    [
        {"lr_min": 0.1},
        {"lr_min": 0.1, "warmup_epochs": 2},
        {"schedule": "multistep", "milestones": [1, 3]},
    ],
    ids=["cosine", "warm-up", "steps"],
)
def test_pretrained_weights_keep_the_ratio_of_their_rate(schedule: dict[str, Any]) -> None:
    """The others have the rates that they have alone."""
    usual = TrainSettings.model_validate({"epochs": 4, "lr": 0.5, **schedule})
    settings = usual.model_copy(update={"lr_pretrained": 0.3})
    fresh, known = (nn.Parameter(torch.ones(())) for _ in range(2))
    setattr(known, "pretrained", True)  # noqa: B010, as type checkers know of none
    given = [([fresh], usual), ([known, fresh], settings), ([known], settings)]
    optimizers = [build_optimizer(weights, how) for weights, how in given]
    plans = [build_schedule(o, how, 2) for o, (_, how) in zip(optimizers, given, strict=True)]
    for _ in range(8):
        alone, both, pretrained = ([g["lr"] for g in each.param_groups] for each in optimizers)
        assert both == pytest.approx([alone[0], 0.3 * alone[0]])
        assert pretrained == pytest.approx([0.3 * alone[0]])
        for optimizer, plan in zip(optimizers, plans, strict=True):
            optimizer.step()
            plan.step()


def test_warm_up_by_hand() -> None:
    """Linear from a hundredth; then a cosine over what is left, or milestones from the start."""
    cosine = [lowest := 20, 100]
    falling = [cosine[0] + 80 * (0.5 + 0.5 * math.cos(math.pi * n / 4)) for n in range(4)]
    found = rates(epochs=4, warmup_epochs=2, lr_min=0.1)
    assert found == pytest.approx([1, 25.75, 50.5, 75.25, *falling])
    assert lowest < min(falling)
    found = rates(epochs=4, warmup_epochs=1, schedule="multistep", milestones=[2, 3], lr_decay=0.5)
    assert found == pytest.approx([1, 50.5, 100, 100, 50, 50, 25, 25])
    found = rates(epochs=2, warmup_epochs=1, schedule="multistep", milestones=[1], lr_decay=0.5)
    assert found == pytest.approx([1, 50.5, 50, 50])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov must come with sgd and .* got adamw"),
        ({"nesterov": True, "momentum": 0}, "nesterov must .* above 0, but got sgd and 0"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup_epochs must be below epochs, 3, .* but got 3"),
        (
            {"schedule": "multistep", "milestones": [4], "warmup_epochs": 5},
            "warmup_epochs must be .* at most the first milestone, but got 5",
        ),
        ({"clip_norm": 0}, "greater than 0"),
        ({"mixup": float("inf")}, "mixup\n  Input should be a finite number"),
        (
            {"parallel": {"patience_s": float("inf")}},
            "patience_s\n  Input should be a finite",
        ),
        (
            {"batch_size": 5, "accumulate": 3},
            "accumulate must be at most 2, half of batch_size, as .* single image, but got 3",
        ),
        ({"ema_decay": 1}, "less than 1"),
        ({"cutmix": 1e308}, "less than or equal to 1000"),
        ({"epochs": 10**400}, "less than or equal to 1000000"),
        ({"optimizer": "lamb"}, "'sgd', 'adam' or 'adamw'"),
    ],
)
def test_what_does_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(fields)


# ---- Clipping ------------------------------------------------------------------------------------


def norm(parameters: Any) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


@pytest.mark.parametrize(
    ("name", "amp"), [*((name, "no") for name in METHODS), ("greedy", "fp16"), ("dni", "fp16")]
)
def test_each_block_is_clipped_by_its_own_norm(
    name: str, amp: str, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every update is of a gradient as long as allowed, after the loss scale is taken out."""
    seen: dict[int, list[list[float]]] = {}
    real = TrainingMethod.optimize

    def watched(self: TrainingMethod, modules: Any) -> None:
        modules = list(modules)
        real(self, modules)
        for index, (module, optimizer) in enumerate(zip(modules, self.optimizers, strict=True)):
            members = module if isinstance(module, nn.ModuleList) else [module]

            def note(*unused: Any, index: int = index, members: Any = members) -> None:
                norms = [norm(member.parameters()) for member in members]
                seen.setdefault(index, []).append(norms)

            optimizer.register_step_pre_hook(note)  # after the one that clips

    monkeypatch.setattr(TrainingMethod, "optimize", watched)
    go(build(name), settings(method=name, clip_norm=1e-3, amp=amp), splits)
    assert set(seen) == {0, 1, 2}
    guessing = name in ("dni", "cdni")
    for index, steps in seen.items():
        for norms in steps:
            assert len(norms) == (2 if guessing and index < 2 else 1)
            assert max(norms) < 1.001e-3
            if not guessing or index == 2:  # guesses, and errors of guesses, may be shorter
                assert norms == [pytest.approx(1e-3, rel=0.01)]
    if guessing:
        assert seen[1][0][1] == pytest.approx(1e-3, rel=0.01)


def test_short_gradients_are_not_clipped(splits: Splits) -> None:
    free, long = build(), build()
    go(free, settings(), splits)
    go(long, settings(clip_norm=1e6), splits)
    assert same(free, long)


# ---- Averages ------------------------------------------------------------------------------------


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [*METHODS, "relaxed"])
def test_averages_follow_each_update_of_a_block(name: str, splits: Splits) -> None:
    """a' = d a + (1 - d) w, of weights and statistics, from what the first update left; counters
    and tables are the block's own: with 0.9 torch makes 2 of a 3 that stays a 3."""
    method_name = "greedy" if name == "relaxed" else name
    network = relaxed() if name == "relaxed" else build(name)
    for block in network.blocks:
        block.register_buffer("table", torch.arange(1000))
    how = settings(method=method_name, ema_decay=0.9)
    method = build_method(network, how, splits, STEPS)
    expected: list[dict[str, Tensor]] = [{} for _ in network.blocks]
    for index, (block, optimizer) in enumerate(zip(network.blocks, method.optimizers, strict=True)):

        def note(*unused: Any, index: int = index, block: nn.Module = block) -> None:
            for key, value in block.state_dict().items():
                if value.is_floating_point():
                    before = expected[index].get(key, value)
                    expected[index][key] = 0.9 * before + 0.1 * value

        optimizer.register_step_post_hook(note)
    take_steps(method, splits)
    for block, own, found in zip(method.result.blocks, network.blocks, expected, strict=True):
        state = block.state_dict()
        assert found
        counted = {k: v for k, v in own.state_dict().items() if not v.is_floating_point()}
        assert "table" in counted
        assert all(torch.equal(state[key], value) for key, value in counted.items())
        for key, value in found.items():
            torch.testing.assert_close(state[key], value)
    assert not same(method.result, network)


@pytest.mark.slow(reason="trains")
def test_averages_are_what_is_validated_and_kept(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[TrainingMethod] = []

    def kept(*arguments: Any) -> TrainingMethod:
        methods.append(build_method(*arguments))
        return methods[-1]

    monkeypatch.setattr(loop, "build_method", kept)
    how = settings(lr=0.02, ema_decay=0.5)
    network = build()
    reported: list[dict[str, float]] = []
    result = train(network, splits, how, report=reported.append, directory=tmp_path)
    averaged = methods[0].result
    assert same(network, averaged)
    judged = evaluate(averaged, splits.validation, how, "cpu")
    assert reported[0]["loss"] == judged.loss == result.validation_loss
    assert result.test == evaluate(averaged, splits.test, how, "cpu")
    plain = train(build(), splits, settings(lr=0.02))
    assert plain.validation_loss != result.validation_loss


def test_a_checkpoint_of_fewer_options_can_be_continued(splits: Splits, tmp_path: Path) -> None:
    network = build()
    before = train(network, splits, settings(), directory=tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    state = torch.load(path, weights_only=True)
    for name in ("nesterov", "warmup_epochs", "clip_norm", "ema_decay"):
        del state["settings"][name]
    torch.save(state, path)
    assert train(copy.deepcopy(network), splits, settings(), directory=tmp_path).test == before.test
