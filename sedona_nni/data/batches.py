"""Images in memory or in files, and the order in which training sees them.

What batch number n of a stream holds, and how its images are distorted, depends on the seed and on
n alone. A run that is stopped and continued at batch n therefore sees what it would have seen.
"""

from __future__ import annotations

import functools
import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from sedona_nni.data.augmentation import Augmentation, ImageByImage, build_recipe
from sedona_nni.data.picture import read_picture
from sedona_nni.data.resizing import resized
from sedona_nni.data.workers import is_crowded, number_of_workers, read_ahead
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, height_and_width

__all__ = [
    "Batch",
    "BatchStream",
    "BlankImages",
    "Draw",
    "FolderImages",
    "ImageSet",
    "MemoryImages",
    "ShiftAndFlip",
    "class_limited_order",
    "evaluation_batches",
]

Batch = tuple[Tensor, Tensor]
"""Normalised images (B, C, H, W), float32, and class numbers (B,), int64."""

_ORDER, _DISTORTION = 0, 1  # what a random stream is for, so that the two never coincide


class Draw(NamedTuple):
    """Which images a batch holds and, unless they are taken as they are, the key that decides
    their augmentation."""

    indices: np.ndarray
    key: tuple[int, ...] | None


class ImageSet(ABC):
    """Labelled images, one part (training, validation or test) of a data set.

    Attributes:
        labels: Class numbers, int64, shape (N,).
        mean: Mean of each channel that normalisation subtracts, in units of white = 1.
        std: Standard deviation of each channel that it divides by.
    """

    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def subset(self, indices: np.ndarray) -> Self:
        """Return the images of the given numbers, in that order."""

    @abstractmethod
    def plain(self) -> Self:
        """Return the same images without augmentation."""

    def augmented(self, name: Augmentation) -> Self:
        """Return the same images with another augmentation, see `sedona_nni.data.augmentation`."""
        if name == "none":
            return self.plain()
        return self if name == "dataset" else self._with_recipe(build_recipe(name))

    @abstractmethod
    def _with_recipe(self, recipe: Callable[[Any], Any]) -> Self:
        """Return the same images, further distorted one by one."""

    @abstractmethod
    def batches(self, draws: Iterable[Draw], device: torch.device) -> Iterator[Batch]:
        """Yield one batch for each draw."""

    def _normalise(self, images: Tensor) -> Tensor:
        """Turn bytes (B, C, H, W) into floats of about zero mean and unit variance."""
        mean, std = (
            255 * torch.tensor(statistic, device=images.device).view(-1, 1, 1)
            for statistic in (self.mean, self.std)
        )
        return (images.float() - mean) / std


@dataclass(frozen=True)
class ShiftAndFlip:
    """Random crops of the zero-padded image and random mirroring, each image by itself.

    Attributes:
        padding: Pixels of black added on every side before a window of the old size is cut out.
        flip: Whether half of the images are mirrored left to right.
    """

    padding: int
    flip: bool

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Distort images of shape (B, C, H, W)."""
        count, _, height, width = images.shape
        top, left = rng.integers(0, 2 * self.padding + 1, size=(2, count, 1))
        mirrored = rng.random((count, 1)) < (0.5 if self.flip else 0)
        rows = torch.from_numpy(top + np.arange(height)).to(images.device)  # (B, H)
        steps = np.arange(width)
        columns = torch.from_numpy(left + np.where(mirrored, steps[::-1], steps)).to(images.device)
        padded = torch.nn.functional.pad(images, [self.padding] * 4)
        which = torch.arange(count, device=images.device)
        window = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return window.permute(0, 3, 1, 2).contiguous()  # (B, H, W, C) -> (B, C, H, W)


def _one_or_three(field: str, given: Any) -> tuple[float, ...]:
    numbers = np.atleast_1d(np.asarray(given))
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((1,), (3,)):
        raise InputError.rule(field, "must be 1 or 3 numbers", given)
    return tuple(map(float, numbers))


@dataclass(frozen=True, eq=False)
class MemoryImages(ImageSet):
    """Images that are kept as bytes in memory, on the device once a stream of them starts.

    Attributes:
        images: Bytes, uint8, shape (N, C, H, W) with C = 1 or 3; grey is repeated to 3 channels.
        labels: Class numbers, whole numbers of any kind, shape (N,).
        mean: One for all channels, or three, also of grey images, see `ImageSet`.
        std: Likewise, above 0.
        augmentation: How training distorts a batch.

    Raises:
        InputError: if one of them is not as it says here.

    Examples:
        >>> import numpy as np, torch
        >>> from sedona_nni import MemoryImages
        >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> len(MemoryImages(images, np.array([0, 1, 0, 1]), mean=(0.5,), std=(0.3,)))
        4
    """

    images: Tensor
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Callable[[Tensor, np.random.Generator], Tensor] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, np.asarray(self.labels)
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise InputError.rule("images", "must be a tensor of bytes, uint8", kind)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            rule = "must have the shape (N, C, H, W), C = 1 or 3"
            raise InputError.rule("images", rule, tuple(images.shape))
        if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
            rule = f"must be a whole number for each of {len(images)} images"
            raise InputError.rule("labels", rule, f"{labels.dtype} of shape {labels.shape}")
        object.__setattr__(self, "labels", labels.astype(np.int64, copy=False))
        object.__setattr__(self, "mean", _one_or_three("mean", self.mean))
        object.__setattr__(self, "std", _one_or_three("std", self.std))
        if min(self.std) <= 0:
            raise InputError.rule("std", "must be above 0", self.std)

    def subset(self, indices: np.ndarray) -> Self:
        """Return the images of the given numbers, in that order."""
        chosen = self.images[torch.from_numpy(indices)]
        return replace(self, images=chosen, labels=self.labels[indices])

    def plain(self) -> Self:
        """Return the same images without augmentation."""
        return replace(self, augmentation=None)

    def resized(self, size: ImageSize) -> Self:
        """Return the same images in another size, see `sedona_nni.data.resizing`."""
        return replace(self, images=resized(self.images, size))

    def _with_recipe(self, recipe: Callable[[Any], Any]) -> Self:
        return replace(self, augmentation=ImageByImage(self.augmentation, recipe))

    def batches(self, draws: Iterable[Draw], device: torch.device) -> Iterator[Batch]:
        """Yield one batch for each draw."""
        all_images = self.images.to(device)
        all_labels = torch.from_numpy(self.labels).to(device)
        for draw in draws:
            indices = torch.from_numpy(draw.indices).to(device)
            images = all_images[indices]
            if self.augmentation is not None and draw.key is not None:
                images = self.augmentation(images, np.random.default_rng(draw.key))
            yield self._normalise(images).expand(-1, 3, -1, -1).contiguous(), all_labels[indices]


@dataclass(frozen=True, eq=False)
class BlankImages(ImageSet):
    """Labels alone, with black images in place of those that nobody in this process looks at.

    Attributes:
        image_size: That of the images, pixels.
    """

    labels: np.ndarray
    image_size: ImageSize
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def subset(self, indices: np.ndarray) -> Self:
        """Return those of the given numbers, in that order."""
        return replace(self, labels=self.labels[indices])

    def plain(self) -> Self:
        """Return the same, as there is nothing to distort."""
        return self

    def _with_recipe(self, recipe: Callable[[Any], Any]) -> Self:
        return self

    def batches(self, draws: Iterable[Draw], device: torch.device) -> Iterator[Batch]:
        """Yield one batch for each draw; its images, (B, 1, H, W), take no memory."""
        all_labels = torch.from_numpy(self.labels).to(device)
        black = torch.zeros((), device=device)
        height, width = height_and_width(self.image_size)
        for draw in draws:
            labels = all_labels[torch.from_numpy(draw.indices).to(device)]
            yield black.expand(len(labels), 1, height, width), labels


@dataclass(frozen=True, eq=False)
class FolderImages(ImageSet, Dataset[tuple[Tensor, int]]):
    """Image files that worker processes read when a batch needs them.

    Attributes:
        files: The image files, N of them: paths, or what returns for a number a
            `sedona_nni.data.picture.StoredPicture` and for several numbers the like of it.
        preprocessing: Brings a PIL image to bytes (3, H, W) the same way every time.
        augmentation: Does so with random distortions drawn from torch's generator.
        workers: Processes that read ahead, with 0 this one reads; by default as many as this
            process may use processors, at most 8. What a batch holds does not depend on it.
    """

    files: Any
    labels: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Callable[[Any], Tensor]
    augmentation: Callable[[Any], Tensor] | None = None
    workers: int | None = None

    def subset(self, indices: np.ndarray) -> Self:
        """Return the images of the given numbers, in that order."""
        return replace(self, files=self.files[indices], labels=self.labels[indices])

    def plain(self) -> Self:
        """Return the same images without augmentation."""
        return replace(self, augmentation=None)

    def _with_recipe(self, recipe: Callable[[Any], Any]) -> Self:
        from torchvision.transforms import v2

        first = self.preprocessing if self.augmentation is None else self.augmentation
        return replace(self, augmentation=v2.Compose([first, recipe]))

    def __getitem__(self, address: tuple[int, int | None]) -> tuple[Tensor, int]:
        """Read one image (3, H, W) and its label; the address is its number and a seed."""
        index, seed = address
        picture = read_picture(self.files[index])
        if self.augmentation is None or seed is None:
            return self.preprocessing(picture), int(self.labels[index])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.augmentation(picture), int(self.labels[index])

    def batches(self, draws: Iterable[Draw], device: torch.device) -> Iterator[Batch]:
        """Yield one batch for each draw.

        Raises:
            InputError: if a picture cannot be read, see `sedona_nni.data.picture.read_picture`.
        """
        draws = iter(draws)
        first = next(draws, None)
        if first is None:
            return
        workers = number_of_workers(self.workers)
        crowded = workers > 0 and is_crowded(workers, len(first.indices) * self[0, None][0].nbytes)
        for batch in read_ahead(
            self,
            map(self._addresses, chain([first], draws)),
            workers,
            collate=_as_arrays if crowded else None,
            pin_memory=device.type == "cuda",
        ):
            images, labels = (torch.as_tensor(part).to(device, non_blocking=True) for part in batch)
            yield self._normalise(images), labels

    def _addresses(self, draw: Draw) -> list[tuple[int, int | None]]:
        if draw.key is None:
            return [(index, None) for index in draw.indices.tolist()]
        seeds = np.random.default_rng(draw.key).integers(2**63, size=len(draw.indices))
        return list(zip(draw.indices.tolist(), seeds.tolist(), strict=True))


def _as_arrays(items: list[tuple[Tensor, int]]) -> tuple[np.ndarray, ...]:
    """Make a batch that takes no shared memory but comes through a pipe, which is slower.

    In a worker, torch's own collation puts the batch into shared memory at once.
    """
    images, labels = zip(*items, strict=True)
    return torch.stack(images).numpy(), np.array(labels)


class BatchStream:
    """Endless training batches of one size, in a random order that the seed fixes.

    The images are shuffled, all are used, they are shuffled again, and so on; a batch may hold the
    end of one such pass and the start of the next, so that no batch is smaller than the others.

    A local loss that compares the images of a batch learns little from many classes with few
    images each. So the first passes may be arranged to have few classes per batch, see
    `class_limited_order`.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        *,
        classes_per_batch: int | None = None,
        class_limited_passes: int | None = None,
        views: int = 1,
    ) -> None:
        """Choose the images and their order.

        Args:
            dataset: The images; they are augmented if the set says how.
            batch_size: Images per batch, B; if the set has fewer, each batch is the whole set.
            seed: What order and augmentation are drawn from, not negative.
            device: Where batches are wanted.
            classes_per_batch: Classes that batches of class-limited passes are made of; by default
                no pass is limited.
            class_limited_passes: So many passes are limited, then none; by default all.
            views: How often each image is in a batch, one after the other, distorted each time in
                its own way; B counts all.
        """
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset) * views) // views * views
        self.seed = seed
        self.device = torch.device(device)
        self.classes_per_batch = classes_per_batch
        self.class_limited_passes = class_limited_passes
        self.views = views
        self._images = max(1, self.batch_size // views)  # of a batch, that are different

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every image has been used, rounded up."""
        return -(-len(self.dataset) // self._images)

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """Yield the batches number ``start``, ``start + 1``, and so on for ever."""
        return self.dataset.batches(self.draws(start), self.device)

    def draws(self, start: int) -> Iterator[Draw]:
        """Yield what the same batches are drawn as, without their images."""
        count = len(self.dataset)

        @functools.lru_cache(maxsize=2)  # a batch touches at most two passes
        def order(epoch: int) -> np.ndarray:
            return self._order(epoch)

        number = start
        while True:
            first = number * self._images
            positions = range(first, first + self._images)
            indices = np.array([order(place // count)[place % count] for place in positions])
            indices = np.repeat(indices, self.views)
            yield Draw(indices, (self.seed, _DISTORTION, number))
            number += 1

    def _order(self, epoch: int) -> np.ndarray:
        """Return the numbers of all images in the order of a pass."""
        count = len(self.dataset)
        shuffled = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(count)
        limited = self.class_limited_passes is None or epoch < self.class_limited_passes
        if self.classes_per_batch is None or not limited:
            return shuffled
        return class_limited_order(
            shuffled,
            self.dataset.labels,
            self._images,
            self.classes_per_batch,
            first_batch=-epoch * count % self._images,  # what the last pass's last batch lacks
        )


def class_limited_order(
    shuffled: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    classes_per_batch: int,
    first_batch: int = 0,
) -> np.ndarray:
    """Rearrange shuffled images so that each batch is made of few classes.

    A batch takes the classes of the images next in line, ``classes_per_batch`` different ones, and
    is filled with the images of these classes in their shuffled order; where they run out, as
    towards the end, with those of the class next in line. N images take N log(classes) steps.
    Source: Nøkland and Eidnes, ICML 2019, as the SEDONA release uses it for PredSim. There a batch
    takes the classes of as many *images* next in line, and more of these below 10 classes; so it
    has fewer classes than were asked for, and not always as many. It takes N^2 steps, too.

    Args:
        shuffled: Numbers of the N images, (N,).
        labels: Their classes by number, (N,).
        batch_size: Images per batch, B.
        classes_per_batch: Classes per batch, as long as they last.
        first_batch: Size of a first, smaller batch, below B; 0 for none.

    Returns:
        The numbers, (N,): the first batch, then runs of B, the last one maybe smaller.
    """
    by_class = np.argsort(labels[shuffled], kind="stable")  # places in line, class by class
    starts = np.flatnonzero(np.diff(labels[shuffled][by_class], prepend=-1))
    lines = [iter(line) for line in np.split(by_class, starts[1:])]
    waiting = [(next(line), number) for number, line in enumerate(lines)]  # who is first in line
    heapq.heapify(waiting)
    places: list[int] = []
    end = first_batch or batch_size
    while waiting:
        chosen = [heapq.heappop(waiting) for _ in range(min(classes_per_batch, len(waiting)))]
        while len(places) < end and (chosen or waiting):
            place, number = heapq.heappop(chosen or waiting)
            places.append(place)
            if (following := next(lines[number], None)) is not None:
                heapq.heappush(chosen, (following, number))
        for first_in_line in chosen:
            heapq.heappush(waiting, first_in_line)
        end += batch_size
    return shuffled[places]


def evaluation_batches(
    dataset: ImageSet, batch_size: int, device: torch.device | str
) -> Iterator[Batch]:
    """Yield every image once, in order and without augmentation; the last batch may be smaller."""
    starts: Sequence[int] = range(0, len(dataset), batch_size)
    everything = np.arange(len(dataset))
    draws = (Draw(everything[start : start + batch_size], None) for start in starts)
    return dataset.batches(draws, torch.device(device))
