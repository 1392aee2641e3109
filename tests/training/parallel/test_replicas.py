"""Several processes for a block: which rows each has, and what they come to together."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sedona_nni.data.sets import load_splits
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models.placement import place
from sedona_nni.task import Task
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.initial_network import initial_network
from sedona_nni.training.loop import training_stream
from sedona_nni.training.methods import block_step, build_method
from sedona_nni.training.parallel.launch import train_in_parallel
from sedona_nni.training.parallel.layout import Layout
from sedona_nni.training.parallel.rank import Job
from sedona_nni.training.settings import Parallel, TrainSettings
from sedona_nni.training.weights import MODEL_FILE

TASK = Task(backbone="resnet18", width_multiplier=0.125, train_limit=64)
DECOUPLING = Decoupling(backbone="resnet18", cuts=[3], aux=["conv1"])
# Two steps: rounding grows from step to step
SETTINGS = TrainSettings(epochs=1, batch_size=24, lr=0.01, lr_min=0, validation_fraction=0.25)


@pytest.mark.parametrize("size", [1, 7, 12])
def test_rows_are_divided_and_handed_on(size: int) -> None:
    layout = Layout((2, 3, 1))
    for block in range(3):
        rows = [row for rank in layout.ranks(block) for row in layout.rows(rank, size)]
        assert rows == [*range(size)]
    for rank in range(layout.num_ranks):
        for other in {0, 1, 2} - {layout.block(rank)}:
            parts = layout.overlaps(rank, other, size)
            assert [row for part in parts.values() for row in part] == [*layout.rows(rank, size)]
            for source, part in parts.items():
                assert layout.overlaps(source, layout.block(rank), size)[rank] == part


@pytest.mark.slow(reason="starts processes")
@pytest.mark.fast_cases(0)
@pytest.mark.parametrize("replicas", [(1, 2), (2, 1), (2, 2)])
def test_gradients_are_those_of_the_parts(replicas: tuple[int, ...], tmp_path: Path) -> None:
    """As one process that takes each block's batch in as many parts; so batch norms see a part."""
    torch.set_num_threads(1)  # as the processes have, or rounding alone turns some units on or off
    splits = load_splits(TASK, SETTINGS.validation_fraction)
    network = initial_network(TASK, DECOUPLING, SETTINGS.seed)
    place(network, "cpu").train()
    steps = training_stream(splits, SETTINGS, "cpu").batches_per_epoch
    method = build_method(network, SETTINGS, splits, steps)
    stream = training_stream(splits, SETTINGS, "cpu").iterate()
    for _ in range(steps):
        features, labels = next(stream)
        for block, optimizer, schedule, scaler, count in zip(
            network.blocks,
            method.optimizers,
            method.schedules,
            method.scalers,
            replicas,
            strict=True,
        ):
            criterion = LabelSmoothing(SETTINGS.label_smoothing)
            features, *_ = block_step(
                block, optimizer, features, labels, criterion, scaler, accumulate=count
            )
            schedule.step()
    found = trained(replicas, tmp_path)
    expected = network.state_dict()
    for name, weights in network.named_parameters():
        # Sums over processes and over parts are rounded in another order
        torch.testing.assert_close(found[name], weights.detach(), rtol=1e-3, atol=1e-4)
        assert expected[name].shape == found[name].shape


@pytest.mark.slow(reason="starts processes")
def test_batch_norms_keep_the_mean_of_their_parts(tmp_path: Path) -> None:
    """After one step of 24 images: the mean of what the two halves alone would have left."""
    settings = SETTINGS.model_copy(update={"batch_size": 48})
    splits = load_splits(TASK, settings.validation_fraction)
    network = initial_network(TASK, DECOUPLING, settings.seed)
    place(network, "cpu").train()
    images, _ = next(training_stream(splits, settings, "cpu").iterate())
    halves = []
    for part in images.chunk(2):
        block = copy.deepcopy(network.blocks[0])
        block(part)
        halves.append(dict(block.layers.named_buffers()))
    found = trained((2, 1), tmp_path, settings)
    norms = [m for m in network.blocks[0].layers.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for name, first in halves[0].items():
        if first.is_floating_point():
            mean = (first + halves[1][name]) / 2
            torch.testing.assert_close(found[f"blocks.0.layers.{name}"], mean, rtol=1e-4, atol=1e-5)


def trained(
    replicas: tuple[int, ...], directory: Path, settings: TrainSettings = SETTINGS
) -> dict[str, torch.Tensor]:
    """Train in parallel; return the weights."""
    job = Job(
        task=TASK,
        decoupling=DECOUPLING,
        settings=settings.model_copy(update={"parallel": Parallel(replicas=replicas)}),
        devices=["cpu"] * sum(replicas),
        threads=1,
        directory=str(directory),
    )
    outcome = train_in_parallel(job, lambda numbers: None)
    assert [rank.block for rank in outcome.ranks] == [
        block for block, count in enumerate(replicas) for _ in range(count)
    ]
    return load_file(directory / MODEL_FILE)
