"""What an evaluator of NNI brings to a search is honoured or refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import nni
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from sedona_nni.data.batches import BatchStream
from sedona_nni.errors import InputError
from sedona_nni.search_spaces import DecouplingSpace
from sedona_nni.strategies import Sedona

from nni.nas.evaluator.pytorch import Classification, DataLoader, Regression  # isort: skip
from nni.nas.execution import SequentialExecutionEngine  # isort: skip
from nni.nas.space import RawFormatModelSpace  # isort: skip

QUIET = {
    "accelerator": "cpu",
    "max_epochs": -1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
SHORT = {"pretrain_steps": 2, "meta_steps": 1, "inner_steps": 1, "memory_size": 1}


class Numbered(Dataset):
    """N images, each filled with its own number; half of them are of class 1."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((3, 32, 32), float(index)), index % 2


class Endless(IterableDataset):
    """Images without numbers."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while True:
            yield torch.zeros(3, 32, 32), 0


class EverySecond(SequentialSampler):
    """A sampler of a user's own."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, len(self.data_source), 2))


NUMBERED = Numbered(20)


def evaluator(train: Any = None, validation: Any = None, **options: Any) -> Classification:
    if train is None:
        train = DataLoader(Subset(NUMBERED, range(12)), batch_size=4)
    if validation is None:
        validation = DataLoader(Subset(NUMBERED, range(12, 20)), batch_size=4)
    return Classification(
        num_classes=2, train_dataloaders=train, val_dataloaders=validation, **QUIET | options
    )


def streams(strategy: Sedona) -> list[BatchStream]:
    """Return batches of the images that a search gets, training and validation."""
    sizes = (strategy.settings.batch_size, strategy.settings.validation_batch_size)
    return [
        BatchStream(images, size, 3, "cpu")
        for images, size in zip(strategy.images, sizes, strict=True)
    ]


def seen(train: Any, validation: Any, batches: int = 10) -> tuple[set[int], set[int]]:
    """Return the numbers of the images that a search would learn from, and validate on."""
    strategy = Sedona(seed=3)
    strategy.mutate_evaluator(evaluator(train, validation))
    found = []
    for stream in streams(strategy):
        images = [next(part)[0] for part in [stream.iterate()] for _ in range(batches)]
        found.append({int(number) for number in torch.cat(images)[:, 0, 0, 0]})
    return found[0], found[1]


def test_nnis_recipe_one_data_set_and_two_samplers() -> None:
    shuffled = np.random.default_rng(0).permutation(20)
    train, validation = (
        DataLoader(NUMBERED, batch_size=4, sampler=SubsetRandomSampler(part))
        for part in (shuffled[:10], shuffled[10:])
    )
    assert seen(train, validation) == (set(shuffled[:10]), set(shuffled[10:]))


@pytest.mark.parametrize(
    "train",
    [
        DataLoader(Subset(Subset(NUMBERED, range(4, 20)), range(8)), batch_size=4),
        DataLoader(Subset(NUMBERED, range(4, 12)), batch_size=4, shuffle=True, drop_last=True),
        DataLoader(
            Subset(NUMBERED, range(20)),
            batch_sampler=BatchSampler(SubsetRandomSampler(range(4, 12)), 4, drop_last=False),
        ),
        DataLoader(
            NUMBERED,
            batch_size=4,
            sampler=nni.trace(SubsetRandomSampler)(torch.arange(4, 12)),
            num_workers=1,
        ),
    ],
)
def test_other_ways_to_say_the_same(train: Any) -> None:
    validation = DataLoader(NUMBERED, batch_size=2, sampler=SubsetRandomSampler([0, 1, 19]))
    assert seen(train, validation) == (set(range(4, 12)), {0, 1, 19})


def collate(samples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    noise = torch.rand(())
    return (
        torch.stack([image for image, _ in samples]) + noise,
        torch.tensor([label for _, label in samples]),
    )


def test_workers_load_what_the_process_itself_would() -> None:
    def images(num_workers: int) -> Tensor:
        part = Subset(NUMBERED, range(8))
        train = DataLoader(part, batch_size=4, collate_fn=collate, num_workers=num_workers)
        strategy = Sedona(seed=3)
        strategy.mutate_evaluator(evaluator(train))
        batches = streams(strategy)[0].iterate(start=2)
        return torch.stack([next(batches)[0] for _ in range(3)])

    alone = images(0)
    torch.manual_seed(5)  # no batch depends on it
    assert torch.equal(images(1), alone)
    assert alone.frac().unique().numel() > 1  # collate_fn was called, with other numbers each time


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": WeightedRandomSampler([1.0] * 20, 20)}, r"sampler: must be a Subset\w+, or"),
        ({"sampler": EverySecond(NUMBERED)}, "sampler: .* got 'EverySecond'"),
        ({"sampler": RandomSampler(NUMBERED, replacement=True)}, "sampler: must draw every image"),
        ({"sampler": RandomSampler(NUMBERED, num_samples=5)}, "sampler: .* got '5 draws'"),
        ({"shuffle": True, "generator": torch.Generator()}, "generator: must be left out"),
        (
            {"sampler": SubsetRandomSampler([1, 2, 3], torch.Generator())},
            "generator: must be left out",
        ),
        ({"sampler": SubsetRandomSampler([])}, "dataset: must have images"),
        (
            {"batch_sampler": [[0, 1], [2, 3]], "batch_size": 1},
            "batch_sampler: must be left out, in favour of batch_size",
        ),
        ({"batch_size": None}, "batch_sampler: .* got 'NoneType'"),
    ],
)
def test_what_a_loader_brings_and_a_search_could_not_use(
    options: dict[str, Any], message: str
) -> None:
    loader = DataLoader(NUMBERED, **{"batch_size": 4} | options)
    other = DataLoader(Numbered(6), batch_size=2)
    with pytest.raises(InputError, match=rf"^train_dataloaders\.{message}"):
        Sedona().mutate_evaluator(evaluator(loader, other))
    with pytest.raises(InputError, match=rf"^val_dataloaders\.{message}"):
        Sedona().mutate_evaluator(evaluator(other, loader))


def test_other_loaders_are_refused() -> None:
    other = DataLoader(Numbered(6), batch_size=2)
    with pytest.raises(InputError, match=r"^train_dataloaders\.dataset: must be .*'Endless'"):
        Sedona().mutate_evaluator(evaluator(DataLoader(Endless(), batch_size=2), other))
    with pytest.raises(InputError, match=r"^val_dataloaders: must be one DataLoader, .*'list'"):
        Sedona().mutate_evaluator(evaluator(None, [other, other]))
    with pytest.raises(InputError, match=r"^loader\.batch_size: .*, but got 1$"):
        Sedona().mutate_evaluator(evaluator(DataLoader(Numbered(6), batch_size=1), other))


def test_batches_that_are_no_images_and_labels_are_refused() -> None:
    triples = TensorDataset(torch.zeros(6, 3, 32, 32), torch.zeros(6), torch.zeros(6))
    strategy = Sedona()
    strategy.mutate_evaluator(evaluator(DataLoader(triples, batch_size=2)))
    train, _ = streams(strategy)
    with pytest.raises(InputError, match=r"^train_dataloaders: must load two tensors"):
        next(train.iterate())


def copies() -> Iterator[tuple[Dataset, Dataset]]:
    """Yield data sets with the same images."""
    yield NUMBERED, NUMBERED
    yield NUMBERED, Subset(NUMBERED, range(15))
    pixels, labels = torch.zeros(20, 3, 32, 32), torch.arange(20) % 2
    yield TensorDataset(pixels, labels), TensorDataset(pixels.clone(), labels)
    for name, value in [("data", np.arange(20)), ("samples", [(f"{i}.png", 0) for i in range(20)])]:
        one, other = Numbered(20), Numbered(20)
        setattr(one, name, value)
        setattr(other, name, value.copy())
        yield one, other


@pytest.mark.parametrize("sets", list(copies()), ids=["same", "view", "tensors", "data", "samples"])
def test_images_that_train_and_validate_are_refused(sets: tuple[Dataset, Dataset]) -> None:
    train, validation = sets
    overlapping = DataLoader(validation, batch_size=4, sampler=SubsetRandomSampler([8, 9, 10, 11]))
    apart = DataLoader(validation, batch_size=4, sampler=SubsetRandomSampler([12, 13, 14]))
    learned = DataLoader(train, batch_size=4, sampler=SubsetRandomSampler(range(10)))
    with pytest.raises(InputError, match=r"^val_dataloaders: must load none .* got '2 of them'"):
        Sedona().mutate_evaluator(evaluator(learned, overlapping))
    Sedona().mutate_evaluator(evaluator(learned, apart))


def test_other_images_with_the_same_numbers_do_not_overlap() -> None:
    one, other = Numbered(20), Numbered(20)
    one.data, other.data = np.arange(20), np.arange(1, 21)  # type: ignore[attr-defined]
    for train, validation in [(one, other), (NUMBERED, ConcatDataset([NUMBERED]))]:
        loaders = (DataLoader(part, batch_size=4) for part in (train, validation))
        Sedona().mutate_evaluator(evaluator(*loaders))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.1}, r"evaluator\.learning_rate: .* Sedona has lr, but got 0\.1$"),
        ({"weight_decay": 0.1}, r"evaluator\.weight_decay: .* has weight_decay, but got 0\.1$"),
        ({"optimizer": torch.optim.SGD}, r"evaluator\.optimizer: .* but got 'SGD'$"),
        ({"criterion": nn.MultiMarginLoss}, r"evaluator\.criterion: .* got 'MultiMarginLoss'$"),
        ({"gradient_clip_val": 1.0}, r"Trainer\.gradient_clip_val: .*, but got 1\.0$"),
        ({"accumulate_grad_batches": 2}, r"Trainer\.accumulate_grad_batches: .*, but got 2$"),
        ({"precision": "bf16-mixed"}, r"Trainer\.precision: .*, but got 'bf16-mixed'$"),
        ({"precision": "64-true"}, r"Trainer\.precision: "),
        ({"max_steps": 5}, r"Trainer\.max_steps: .* pretrain_steps and meta_steps, but got 5$"),
        ({"min_steps": 5}, r"Trainer\.min_steps: "),
        ({"min_epochs": 5, "max_epochs": 6}, r"Trainer\.min_epochs: "),
        ({"overfit_batches": 2}, r"Trainer\.overfit_batches: "),
        ({"reload_dataloaders_every_n_epochs": 1}, r"Trainer\.reload_dataloaders_every_n_epochs: "),
        ({"fast_dev_run": True}, r"Trainer\.fast_dev_run: .*, but got True$"),
    ],
)
def test_options_that_a_search_would_not_follow(options: dict[str, Any], message: str) -> None:
    asking = evaluator(**options)
    with pytest.raises(InputError, match=f"^{message}"):
        Sedona().mutate_evaluator(asking)


def test_a_checkpoint_of_lightnings_and_a_regression_are_refused() -> None:
    asking = evaluator()
    asking.fit_kwargs["ckpt_path"] = "last.ckpt"
    with pytest.raises(InputError, match=r"^fit_kwargs\.ckpt_path: .*, but got 'last\.ckpt'$"):
        Sedona().mutate_evaluator(asking)
    loader = DataLoader(NUMBERED, batch_size=4)
    regression = Regression(train_dataloaders=loader, val_dataloaders=loader, **QUIET)
    with pytest.raises(InputError, match=r"^evaluator\.criterion: .*'MSELoss'"):
        Sedona().mutate_evaluator(regression)


@pytest.mark.parametrize("steps", [2, None])
def test_a_trainer_that_ends_a_search_is_told(
    steps: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    space = DecouplingSpace(
        "vgg11", ["conv1"], num_classes=2, num_blocks=2, width_multiplier=0.0625
    )
    short = evaluator(limit_train_batches=steps, max_epochs=1, num_sanity_val_steps=0)
    strategy = Sedona(**SHORT)
    with caplog.at_level(logging.WARNING, "sedona_nni.strategies"):
        strategy(RawFormatModelSpace.from_model(space, short), SequentialExecutionEngine())
    ours = [record for record in caplog.records if record.name.startswith("sedona_nni.strategies.")]
    told = [record.getMessage() for record in ours]
    assert told == (["the trainer ended the search after 2 of 3 steps"] if steps else [])
