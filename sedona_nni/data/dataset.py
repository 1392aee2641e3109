"""What a data set is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sedona_nni.data.batches import ImageSet
from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.image_size import ImageSize
from sedona_nni.registry import Registry
from sedona_nni.task import Task

__all__ = [
    "DATASETS",
    "Dataset",
    "ImageParts",
    "at_most_six",
    "data_folder",
    "reading_set",
    "register_dataset",
]


@dataclass(frozen=True)
class ImageParts:
    """The images of a set.

    Attributes:
        pool: Images that may be learned from. Some of them are held out to validate.
        classes: Name of each class, in the order of their numbers.
        test: The test images, by default a fixed fifth of ``pool``, which then has the rest.
        validation: What validates, where the set brings it beside its test part.
        fingerprint: Returns that of the whole set, see `sedona_nni.data.identity`; by default that
            of the images above.
        sources: What pool, test and validation are, in words, where the usual ones do not do.
        left_out: What else is in the set's folder, a phrase each.

    Examples:
        >>> import numpy as np, torch
        >>> from sedona_nni import ImageParts, MemoryImages
        >>> images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
        >>> pool = MemoryImages(images, np.array([0, 1, 0, 1]), mean=(0.5,), std=(0.3,))
        >>> ImageParts(pool, classes=("one", "other")).in_words()
        ('its images', 'a fixed fifth of them', 'its validation part')
    """

    pool: ImageSet
    classes: tuple[str, ...]
    test: ImageSet | None = None
    validation: ImageSet | None = None
    fingerprint: Callable[[], str] | None = None
    sources: tuple[str, str, str] | None = None
    left_out: tuple[str, ...] = ()

    def in_words(self) -> tuple[str, str, str]:
        """Return what pool, test and validation are."""
        if self.sources is not None:
            return self.sources
        own, held_out = "its validation part", "a fixed fifth of them"
        return (
            ("its images", held_out, own) if self.test is None else ("its train", "its test", own)
        )


Read = Callable[[Task, ImageSize], ImageParts]
ReadT = TypeVar("ReadT", bound=Read)


@dataclass(frozen=True)
class Dataset:
    """What is known of a set.

    Attributes:
        about: What it is, in words.
        size: That of its images by default, pixels.
        read: Reads it.
        num_classes: Number of its classes, or returns it for a task without reading images.
        files: What is looked for in ``{folder}``; empty of what needs no folder.
        remedy: How to get it.
        default_folder: Where it is looked for if nothing else is said.
        as_published: Whether ``read`` leaves images as large as they are published, so that only
            those that are used are brought to the wanted size.
    """

    about: str
    size: ImageSize
    read: Read
    num_classes: int | Callable[[Task], int]
    files: str
    remedy: str
    default_folder: str | None = None
    as_published: bool = False


DATASETS: Registry[Dataset] = Registry("dataset")
"""The data sets by name; `register_dataset` adds one."""


def data_folder(task: Task) -> Path:
    """Return the folder that holds a task's data set, or should.

    Raises:
        InputError: if the task names none and the set has no usual one.
    """
    folder = task.data_dir or DATASETS[task.dataset].default_folder
    if folder is None:
        raise InputError(f"data_dir: must name the folder that holds {task.dataset}, but got None")
    return user_path(folder)


@contextmanager
def reading_set(task: Task) -> Iterator[None]:
    """Turn whatever a reader of a task's set stumbles over into one line.

    Raises:
        InputError: if anything was raised; it says what to do about it.
    """
    dataset, folder = DATASETS[task.dataset], data_folder(task)
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers of many formats raise anything from OSError to KeyError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data_dir: {task.dataset} is missing or damaged; looked for "
            f"{dataset.files.format(folder=folder)} ({reason}). To get it: {dataset.remedy}"
        ) from error


def at_most_six(names: Sequence[str], separator: str) -> str:
    """Return at most six of the names, and how many more there are."""
    more = f"{separator}and {len(names) - 6} more" if len(names) > 6 else ""
    return separator.join(names[:6]) + more


def register_dataset(
    name: str,
    *,
    about: str,
    size: ImageSize,
    num_classes: int,
    files: str = "",
    remedy: str = "",
    default_folder: str | None = None,
) -> Callable[[ReadT], ReadT]:
    """Return a decorator that registers a function under ``name``.

    It is called with the `Task` and the wanted size of the images, pixels, and returns
    `ImageParts`. The size is one number, or height and width of images that are no squares.

    Args:
        name: What it is called from then on.
        about: See `Dataset`, also for what follows.
        size: See there.
        num_classes: See there.
        files: See there; `data_folder` says which folder.
        remedy: See there.
        default_folder: See there.

    Raises:
        InputError: if the name is taken.

    Examples:
        >>> import numpy as np, torch
        >>> from sedona_nni import ImageParts, MemoryImages, Task, load_splits, register_dataset
        >>> from sedona_nni.image_size import height_and_width
        >>> @register_dataset("stripes", about="lying and standing stripes", size=8, num_classes=2)
        ... def stripes(task, size):
        ...     rng = np.random.default_rng(0)
        ...     labels = rng.integers(2, size=400)
        ...     height, width = height_and_width(size)
        ...     lying = rng.integers(256, size=(400, 1, height, 1))
        ...     standing = rng.integers(256, size=(400, 1, 1, width))
        ...     images = np.where(labels[:, None, None, None], standing, lying)
        ...     pool = MemoryImages(torch.from_numpy(images).byte(), labels, (0.5,), (0.29,))
        ...     return ImageParts(pool, classes=("lying", "standing"))
        >>> len(load_splits(Task(dataset="stripes"), validation_fraction=0.25).train)
        240
    """

    def register(read: ReadT) -> ReadT:
        DATASETS.add(name, Dataset(about, size, read, num_classes, files, remedy, default_folder))
        return read

    return register
