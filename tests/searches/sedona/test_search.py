"""The search's two levels, its settings and its checkpoints, on a network of three layers."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from relaxed_reference import NUM_CLASSES, random_backbone
from safetensors.torch import save

from sedona_nni.data.batches import Batch
from sedona_nni.errors import InputError
from sedona_nni.searches.sedona import inner_step
from sedona_nni.searches.sedona.checkpoint import (
    CHECKPOINT_FILE,
    load_checkpoint,
    save_checkpoint,
)
from sedona_nni.searches.sedona.hypergradient import hypergradient
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.search import DROPOUT, Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.training.loop import DivergedError

SETTINGS = {
    "pretrain_steps": 6,
    "meta_steps": 6,
    "inner_steps": 2,
    "memory_size": 3,
    "num_snapshots": 6,
    "seed": 5,
}


def search(data: str | None = None, **changes: Any) -> Search:
    torch.manual_seed(0)
    network = RelaxedNetwork(random_backbone(random.Random(3), 3), ["conv1", "conv2"])
    return Search(network, SearchSettings(**(SETTINGS | changes)), data)


def batches(seed: int, start: int = 0) -> Iterator[Batch]:
    number = start
    while True:
        generator = torch.Generator().manual_seed(1000 * seed + number)
        images = torch.randn(8, 3, 8, 8, generator=generator)
        yield images, torch.randint(NUM_CLASSES, (8,), generator=generator)
        number += 1


def run(this: Search, steps: int | None = None) -> list[dict[str, float]]:
    train = batches(1, this.train_batches_used)
    validation = batches(2, this.validation_batches_used)
    numbers = []
    while not this.done and steps != 0:
        numbers.append(this.advance(train, validation))
        steps = None if steps is None else steps - 1
    return numbers


@pytest.mark.slow(reason="two searches")
def test_result_to_the_bit() -> None:
    one, two = search(), search()
    assert run(one) == run(two)
    assert one.result("x") == two.result("x")
    assert one.result("x").alpha != search(seed=6).result("x").alpha


@pytest.mark.parametrize("changes", [{}, {"pretrain_steps": 0, "memory_size": 1, "lr_steps": 6}])
def test_a_search_that_diverges_says_so(changes: dict[str, Any]) -> None:
    this = search(lr=1e12, **changes)
    with pytest.raises(DivergedError, match=r"^the search diverged in step \d+: .*loss nan"):
        run(this)


@pytest.mark.parametrize("frozen", [0, 1])
def test_layers_that_are_frozen_are_constants(frozen: int) -> None:
    """Also the first, above which nothing then asks for a gradient."""
    torch.manual_seed(0)
    backbone = random_backbone(random.Random(3), 3)
    weights = [*backbone.layers[frozen].parameters()]
    for weight in weights:
        weight.requires_grad_(False)
    before = [weight.clone() for weight in weights]
    this = Search(RelaxedNetwork(backbone, ["conv1", "conv2"]), SearchSettings(**SETTINGS))
    numbers = run(this)
    assert numbers[-1]["hypergradient"] > 0
    assert all(map(torch.equal, weights, before))


def test_only_meta_steps_move_alpha_and_beta() -> None:
    this = search()
    run(this, 6)
    assert this.network.alpha.abs().max() == 0
    assert this.network.beta.abs().max() == 0
    run(this, 1)
    assert this.network.alpha.abs().min() > 0
    assert this.network.beta.abs().max() > 0


ONE_TRAJECTORY = {"pretrain_steps": 0, "memory_size": 1, "lr_steps": 40}


@pytest.mark.slow(reason="searches")
def test_without_pretraining_a_search_follows_one_trajectory() -> None:
    """From the initial weights and the full rate on, along the cosine of ``lr_steps``."""
    this, plain = search(**ONE_TRAJECTORY), search()
    problem = plain.problem
    initial = problem.state()
    numbers = this.advance(batches(1), batches(2))
    first = [next(part) for part in [batches(1)] for _ in range(3)]
    ahead = hypergradient(
        problem, initial, first[:2], next(batches(2)), lrs=[0.1] * 2, seed=plain.seed_of(DROPOUT, 0)
    )
    assert numbers["lr"] == 0.1
    assert numbers["meta_loss"] == ahead.meta_loss.item()
    assert (numbers["decided"] > 0) == (this.step == 1)
    with torch.no_grad():
        problem.network.alpha.copy_(this.network.alpha)
        problem.network.beta.copy_(this.network.beta)
    state, _ = problem.step(initial, first[2], 0.1, plain.seed_of(DROPOUT, 1))
    (kept,) = this.memory.snapshots
    assert torch.equal(kept.state.weights, state.weights)
    assert kept.state.step == 1

    rest = run(this)
    cosine = [0.001 + 0.099 * (1 + math.cos(math.pi * step / 40)) / 2 for step in range(1, 6)]
    assert [numbers["lr"] for numbers in rest] == pytest.approx(cosine)
    assert [snapshot.state.step for snapshot in this.memory.snapshots] == [6]
    assert this.done


@pytest.mark.slow(reason="searches")
def test_the_rate_may_fall_over_other_steps_than_those_of_pretraining() -> None:
    assert [this["lr"] for this in run(search(lr_steps=3), 4)] == pytest.approx(
        [0.1, 0.07525, 0.02575, 0.001]
    )
    assert [this["lr"] for this in run(search(lr_steps=6), 6)] == [
        this["lr"] for this in run(search(), 6)
    ]


@pytest.mark.fast_cases(1)
@pytest.mark.parametrize("stop", [1, 5, 6, 7, 12])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adam", "meta_optimizer": "sgd", "meta_momentum": 0.9},
        {"release_mode": True},
        ONE_TRAJECTORY,
    ],
)
def test_interrupted_search_ends_with_the_same_bits(
    stop: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    whole = search(**changes)
    expected = run(whole)

    first = search(**changes)
    numbers = run(first, stop)
    save_checkpoint(first, tmp_path)
    run(first, 2)  # what is done after a checkpoint is lost
    second = search(**changes)
    load_checkpoint(second, tmp_path)
    numbers += run(second)

    assert numbers == expected
    assert second.result("x") == whole.result("x")
    for ours, theirs in zip(
        second.network.state_dict().values(), whole.network.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs) or ours.dtype == torch.int64


@pytest.mark.slow(reason="searches")
def test_checkpoint_interrupted_while_written_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search()
    run(whole)
    first = search()
    run(first, 8)
    save_checkpoint(first, tmp_path)
    run(first, 2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sedona_nni.searches.sedona.checkpoint.write_json", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(first, tmp_path)
    second = search()
    load_checkpoint(second, tmp_path)
    assert second.step == 8
    run(second)
    assert second.result("x") == whole.result("x")


def test_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    first = search()
    run(first, 1)
    save_checkpoint(first, tmp_path)
    with pytest.raises(InputError, match=r"inner_steps: must be 2 to continue .*, but got 3"):
        load_checkpoint(search(inner_steps=3), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda this: setattr(this, "data", "dogs"), "data: the images must be those that "),
        (
            lambda this: setattr(this.network.backbone, "activation", torch.nn.LeakyReLU),
            r"activation: must be 'Softplus.*' to continue .*'LeakyReLU\(negative_slope=0.01\)'",
        ),
        (
            lambda this: setattr(this.network.backbone.head, "extra", torch.nn.Linear(1, 1)),
            "weights: must be '[0-9a-f]{64}' to continue ",
        ),
    ],
)
def test_checkpoint_of_other_images_or_another_network_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any, message: str
) -> None:
    save_checkpoint(search("cats"), tmp_path)
    other = search("cats")
    load_checkpoint(other, tmp_path)
    change(other)
    with pytest.raises(InputError, match=message):
        load_checkpoint(other, tmp_path)
    load_checkpoint(search(), tmp_path)  # nobody said which images these are
    assert not caplog.text

    path = tmp_path / CHECKPOINT_FILE
    checkpoint = json.loads(path.read_text())
    for field in ("in_channels", "activation", "weights", "data"):
        del checkpoint["settings"][field]
    path.write_text(json.dumps(checkpoint))
    load_checkpoint(search("dogs"), tmp_path)
    assert "does not say its in_channels, activation, weights, data" in caplog.text


def test_checkpoint_with_weights_in_another_order_is_refused(tmp_path: Path) -> None:
    """As they were before the light networks of a boundary were computed together."""
    before = search()
    save_checkpoint(before, tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    content = json.loads(path.read_text())
    del content["settings"]["format"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"of another version.*; remove .* to start again"):
        load_checkpoint(search(), tmp_path)


def test_a_checkpoint_of_another_stem_is_refused_and_an_older_one_has_the_published(
    tmp_path: Path,
) -> None:
    first = search()
    save_checkpoint(first, tmp_path)
    path = tmp_path / CHECKPOINT_FILE
    content = json.loads(path.read_text())
    del content["settings"]["stem"]
    path.write_text(json.dumps(content))
    load_checkpoint(search(), tmp_path)
    other = search()
    other.network.backbone.stem = "torchvision"
    with pytest.raises(InputError, match=r"^stem: must be 'published' to continue"):
        load_checkpoint(other, tmp_path)


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, "state-4.safetensors", "snapshot-0.safetensors"])
def test_damaged_checkpoint_is_one_line_and_stays(name: str, tmp_path: Path) -> None:
    first = search()
    run(first, 4)
    save_checkpoint(first, tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    foreign = b"[1]" if name == CHECKPOINT_FILE else save({"x": torch.zeros(1)})
    for content in (whole[: len(whole) // 2], b"", foreign):
        path.write_bytes(content)
        expected = rf"{name}: .*; remove {re.escape(str(tmp_path))} to start again$"
        with pytest.raises(InputError, match=expected) as raised:
            load_checkpoint(search(), tmp_path)
        assert "\n" not in str(raised.value)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    load_checkpoint(search(), tmp_path)


@pytest.mark.slow(reason="searches")
def test_meta_step_follows_the_validation_loss_downhill() -> None:
    """With plain SGD the first update is -meta_lr times the hypergradient of the taken snapshot."""
    changes = {
        "meta_optimizer": "sgd",
        "meta_lr": 0.5,
        "meta_weight_decay": 0.0,
        "memory_size": 1,
        "eviction": "oldest",
    }
    this = search(**changes)
    run(this, 6)
    snapshot = this.memory.snapshots[0].state
    train = batches(1, this.train_batches_used)
    expected = hypergradient(
        this.problem,
        snapshot,
        [next(train), next(train)],
        next(batches(2, this.validation_batches_used)),
        lrs=[0.001] * 2,  # pre-training is over: lr_min
        seed=this.seed_of(1, 0),
    )
    run(this, 1)
    torch.testing.assert_close(this.network.alpha.detach(), -0.5 * expected.alpha)
    torch.testing.assert_close(this.network.beta.detach(), -0.5 * expected.beta)


def test_learning_rate_is_a_cosine_over_pretraining() -> None:
    this = search(pretrain_steps=4)
    rates = [numbers["lr"] for numbers in run(this, 4)]
    assert rates == pytest.approx(
        [0.1, 0.1 - 0.099 * 0.146446609, 0.0505, 0.001 + 0.099 * 0.146446609]
    )
    assert this.lr_at(4) == this.lr_at(50) == pytest.approx(0.001)


def test_decided_is_one_when_alpha_is_sure() -> None:
    this = search()
    with torch.no_grad():
        this.network.alpha.copy_(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))
    assert run(this, 1)[0]["decided"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_steps": 9}, "memory_size must be 1 without pre-training, but got 50"),
        ({"memory_size": 1}, "lr_steps must be given without pre-training"),
    ],
)
def test_what_a_search_without_pretraining_needs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SearchSettings(pretrain_steps=0, **settings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inner_steps", 0),
        ("lr_min", 0.2),
        ("meta_betas", (0.5, 1.0)),
        ("eviction", "newest"),
        ("memory_size", 0),
        ("inner_step", 3),
    ],
)
def test_settings_are_checked(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        SearchSettings(**{field: value})


@pytest.mark.slow(reason="two searches")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weights_at_aligned_places_learn_the_same(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; and what was kept of either goes on in the other."""
    plain = search(optimizer=optimizer)
    expected = run(plain)

    with monkeypatch.context() as patched:
        patched.setitem(inner_step.ALIGNED, "cpu", 64)
        aligned = search(optimizer=optimizer)
        weights = aligned.problem.weights.tensors.values()
        assert len(aligned.state.weights) > sum(weight.numel() for weight in weights)
        assert {weight.data_ptr() % 64 for weight in weights} == {0}
        begun = run(aligned, 8)
        save_checkpoint(aligned, tmp_path)
        aligned.show_most_trained()

    resumed = search(optimizer=optimizer)
    load_checkpoint(resumed, tmp_path)
    assert len(resumed.state.weights) == sum(weight.numel() for weight in weights)
    for numbers, wanted in zip([*begun, *run(resumed)], expected, strict=True):
        assert numbers == pytest.approx(
            wanted, rel=1e-3
        )  # vectors of other lengths round otherwise
