"""What an evaluator of NNI brings to a search: images, a trainer, and options that do not apply.

All that a loader or an evaluator says is honoured or refused. Two things cannot be told from
defaults and are the search's own: the order of the images, which is random also where a loader does
not shuffle, and, where they are at their defaults, the optimizer and criterion of NNI's
`Classification`. So is a training step that a module of one's own defines.
"""

from __future__ import annotations

import sedona_nni.search_spaces  # noqa: F401  before any other part of nni.nas, whose warnings it silences

# isort: split

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.evaluator.pytorch.lightning import SupervisedLearningModule
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
)

from sedona_nni.data.batches import Batch, Draw, ImageSet
from sedona_nni.data.identity import fingerprint_of_arrays
from sedona_nni.errors import InputError

__all__ = [
    "LoadedImages",
    "check_disjoint",
    "check_evaluator",
    "fingerprint_of_some",
    "images_of",
]

# Options of a trainer that a search has no use for: their defaults, and what is there instead
_TRAINER: dict[str, tuple[Any, str]] = {
    "fast_dev_run": (False, "pretrain_steps and meta_steps"),
    "max_steps": (-1, "pretrain_steps and meta_steps"),
    "min_steps": (None, "pretrain_steps and meta_steps"),
    "min_epochs": (None, "pretrain_steps and meta_steps"),
    "overfit_batches": (0, "its loaders' images"),
    "reload_dataloaders_every_n_epochs": (0, "batches that it draws itself"),
    "accumulate_grad_batches": (1, "the loader's batch_size"),
    "gradient_clip_val": (None, "no clipping"),
    "precision": ("32-true", "the precision of its images"),
}
# Options of a classification
_MODULE: dict[str, tuple[Any, str]] = {
    "criterion": (nn.CrossEntropyLoss, "label_smoothing"),
    "optimizer": (torch.optim.Adam, "optimizer"),
    "learning_rate": (0.001, "lr"),
    "weight_decay": (0.0, "weight_decay"),
}


def fingerprint_of_some(images: LoadedImages) -> str:
    """Return a fingerprint of how many images there are and of 64 of them, evenly spaced.

    Pixels of a data set that does not load an image twice alike are left out: those are random
    distortions that do not go by torch's generator.
    """
    count = len(images)
    some = np.unique(np.linspace(0, count - 1, min(count, 64)).astype(np.int64))
    draws = [Draw(some[part : part + 1], (0, int(part))) for part in range(len(some))]
    first, second = (list(images.batches(draws, torch.device("cpu"))) for _ in range(2))
    arrays = [np.array(count), *(labels.numpy() for _, labels in first)]
    for (pixels, _), (again, _) in zip(first, second, strict=True):
        if torch.equal(pixels, again):
            arrays.append(pixels.numpy())
    return fingerprint_of_arrays(*arrays)


def check_evaluator(evaluator: Lightning) -> None:
    """Check that an evaluator asks for nothing that a search would not do.

    Raises:
        InputError: if it does, naming the option and what Sedona has in its place.
    """
    asked = {
        f"Trainer.{name}": (getattr(evaluator.trainer, name), *rest)
        for name, rest in _TRAINER.items()
    }
    if isinstance(evaluator.module, SupervisedLearningModule):
        given = evaluator.module.hparams
        asked |= {f"evaluator.{name}": (given[name], *rest) for name, rest in _MODULE.items()}
    checkpoint = evaluator.fit_kwargs.get("ckpt_path")
    asked["fit_kwargs.ckpt_path"] = (checkpoint, None, "a directory to go on from")
    for name, (value, default, instead) in asked.items():
        if value != default:
            rule = f"must be left out, because Sedona has {instead}"
            raise InputError.rule(name, rule, getattr(value, "__name__", value))


class LoadedImages(Dataset[Any]):
    """What a torch DataLoader loads, as images for `sedona_nni.data.batches.BatchStream`.

    Which images there are is the loader's business (its data set and sampler), and how they become
    a batch (collate_fn, workers, pinning). When each comes is not. Random transforms that draw from
    torch's generator repeat with the batch.

    Attributes:
        batch_size: Images per batch, B.
        source: The data set that others may be views of.
        numbers: Numbers of the images in ``source``, (N,).
    """

    def __init__(self, loader: DataLoader[Any], name: str) -> None:
        """Look into a loader, whose name is for messages.

        Raises:
            InputError: if it brings something that a search could not use.
        """
        if isinstance(loader.dataset, IterableDataset | ImageSet):
            rule = "must be a data set of numbered images"
            raise InputError.rule(f"{name}.dataset", rule, type(loader.dataset).__name__)
        batches: Any = loader.batch_sampler
        if not _is_plain(batches, BatchSampler):
            rule = "must be left out, in favour of batch_size and sampler"
            raise InputError.rule(f"{name}.batch_sampler", rule, type(batches).__name__)
        self.batch_size = int(batches.batch_size)
        self._loader = loader
        self._name = name
        self._numbers = _numbers(batches.sampler, loader.dataset, name)
        if loader.generator is not None or getattr(batches.sampler, "generator", None) is not None:
            raise InputError(f"{name}.generator: must be left out, because Sedona has a seed")
        if not len(self._numbers):
            raise InputError(f"{name}.dataset: must have images")
        self.source, self.numbers = _source(loader.dataset, self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, draw: Draw) -> Any:
        """Load the batch of a draw."""
        dataset: Any = self._loader.dataset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(draw.key).integers(2**63)))
            parts = [dataset[int(self._numbers[place])] for place in draw.indices]
            return self._loader.collate_fn(parts)

    def batches(self, draws: Iterable[Draw], device: torch.device) -> Iterator[Batch]:
        """Yield one batch for each draw, see `ImageSet.batches`."""
        like = self._loader
        loader: DataLoader[Any] = DataLoader(
            self,
            batch_size=None,
            sampler=draws,
            collate_fn=_as_it_is,
            num_workers=like.num_workers,
            pin_memory=like.pin_memory,
            timeout=like.timeout,
            worker_init_fn=like.worker_init_fn,
            multiprocessing_context=like.multiprocessing_context,
            prefetch_factor=like.prefetch_factor,
            generator=torch.Generator(),  # else the loader draws from torch's global one
        )
        for batch in loader:
            pair = isinstance(batch, list | tuple) and len(batch) == 2
            if not (pair and all(isinstance(part, Tensor) for part in batch)):
                rule = "must load two tensors, images and class numbers"
                raise InputError.rule(self._name, rule, type(batch).__name__)
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            yield images, labels


def _as_it_is(batch: Any) -> Any:
    return batch


def _is_plain(what: Any, kind: type) -> bool:
    """Return whether something draws as a class of torch does, maybe wrapped by ``nni.trace``."""
    return isinstance(what, kind) and type(what).__iter__ is kind.__iter__  # type: ignore[attr-defined]


def _numbers(sampler: Any, dataset: Any, name: str) -> np.ndarray:
    """Return the numbers of the images that a sampler draws from."""
    if _is_plain(sampler, SubsetRandomSampler):
        return np.array([int(index) for index in sampler.indices], dtype=np.int64)
    everything = np.arange(len(dataset))
    if _is_plain(sampler, SequentialSampler):
        return everything
    if _is_plain(sampler, RandomSampler):
        if not sampler.replacement and sampler.num_samples == len(dataset):
            return everything
        rule = "must draw every image once"
        raise InputError.rule(f"{name}.sampler", rule, f"{sampler.num_samples} draws")
    rule = "must be a SubsetRandomSampler, or shuffle"
    raise InputError.rule(f"{name}.sampler", rule, type(sampler).__name__)


def _source(dataset: Any, numbers: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the data set that one is a view of, and the images' numbers there."""
    while isinstance(dataset, Subset):
        numbers = np.array([int(index) for index in dataset.indices])[numbers]
        dataset = dataset.dataset
    return dataset, numbers


def images_of(loader: Any, name: str) -> LoadedImages:
    """Return the images that a loader loads.

    Args:
        loader: A torch DataLoader.
        name: What messages call it.

    Raises:
        InputError: if it is none, or brings something that a search could not use.
    """
    if not isinstance(loader, DataLoader):
        raise InputError.rule(name, "must be one DataLoader", type(loader).__name__)
    return LoadedImages(loader, name)


def check_disjoint(train: LoadedImages, validation: LoadedImages) -> None:
    """Check that no image is in both, as far as that can be known.

    It can where both are views of one data set, or of two copies of it, as torchvision's that
    differ in their transforms alone.

    Raises:
        InputError: if some are.
    """
    if not _same(train.source, validation.source):
        return
    shared = len(np.intersect1d(train.numbers, validation.numbers))
    if shared:
        rule = "must load none of the images of train_dataloaders"
        raise InputError.rule("val_dataloaders", rule, f"{shared} of them")


def _same(one: Any, other: Any) -> bool:
    """Return whether two data sets are known to have the same images with the same numbers."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    for name in ("samples", "data", "tensors"):  # of image folders, torchvision's, TensorDataset
        if hasattr(one, name) and hasattr(other, name):
            return _equal(getattr(one, name), getattr(other, name))
    return False


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Tensor | np.ndarray):
        return np.array_equal(cast(Any, one), other)
    return bool(one == other)
