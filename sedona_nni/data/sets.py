"""The data sets: where their files are, how they are split, normalised and augmented.

Every set has three parts. The *test* part is fixed by the set alone and only reports; *training*
and *validation* part together are the rest, divided by the task's split seed and the wanted
fraction, class by class. All sets are delivered with three channels.

| name | images | test part | augmentation of training images |
|---|---|---|---|
| digits | scikit-learn's 1,797, 8 x 8 pixels scaled up to 32 | a fixed fifth | shift 2 |
| fashion-mnist | 28 x 28 pixels with a black frame, 32 | its own | shift 2, mirror |
| cifar10, cifar100 | 32 | its own | shift 2, mirror |
| svhn | 32 (train and test; extra is not used) | its own | shift 2 |
| tiny-imagenet | 64 | its public ``val``; ``test`` has no labels | rotate 20, shift 4, mirror |
| imagenet | 224 | its public ``val``; ``test`` has no labels | random resized crop, mirror |
| imagefolder | 224 | ``test/``, else ``val/``, else a fixed fifth of ``train/`` | as imagenet |
| huggingface | 224, see `data.hugging_face` | as imagefolder | as imagenet |

Tiny-ImageNet's ``val`` may be as published, or sorted into folders of the classes. What counts as a
class and as a picture in folders, and the other names that parts may have (``valid/``,
``validation/`` ...): `data.class_folders`. ``sedona-nni data`` shows what is used of a set
and what is left out.

Shift n: n black pixels around the image, then a random window of the old size. Rotate n: by up to n
degrees either way. Sizes are defaults; another one is reached by bilinear scaling. Normalisation
and augmentation of cifar10, tiny-imagenet and imagenet are those of the public SEDONA release; the
others follow cifar10 or imagenet.

To height H and width W, the last three bring a picture without stretching it. To validate and test,
it is scaled until it just covers 256/224 of H and of W, and its middle is taken: for squares
torchvision's ``Resize(256)`` and ``CenterCrop(224)``, else what timm does. To train, a random crop
has 8 to 100 % of its area, and a ratio of width to height of 3/4 to 4/3 times W/H: for squares
torchvision's ``RandomResizedCrop(224)``, whose crops for other sizes would be about square and then
stretched. Images of the other sets, all of one size, are stretched.

The release tests ImageNet on the part that also picked the checkpoint; here validation images are
always held out of ``train/``, except where an imagefolder has both ``val/`` and ``test/``:
then ``val/`` is the validation part, whatever the wanted fraction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from sedona_nni.data.bad_pictures import Readable, leave_out_bad_pictures
from sedona_nni.data.batches import (
    Batch,
    BatchStream,
    BlankImages,
    FolderImages,
    ImageSet,
    MemoryImages,
    evaluation_batches,
)
from sedona_nni.data.dataset import DATASETS, Dataset, ImageParts, at_most_six, data_folder
from sedona_nni.data.identity import DataIdentity, fingerprint_of_arrays, fingerprint_of_files
from sedona_nni.data.in_files import IN_FILES
from sedona_nni.data.in_memory import IN_MEMORY
from sedona_nni.data.splitting import hold_out_test, stratified
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, size_in_words
from sedona_nni.task import Task

__all__ = [
    "DATASETS",
    "Batch",
    "BatchStream",
    "Contents",
    "Dataset",
    "Splits",
    "dataset_names",
    "evaluation_batches",
    "find_contents",
    "form_of",
    "image_size_of",
    "load_splits",
]


@dataclass(frozen=True)
class Contents:
    """What of a data set is used, and what is not.

    Attributes:
        dataset: Name of the set.
        folder: Where it is; None of what needs no folder.
        classes: Name of each class, in the order of their numbers.
        counts: By ``train``, ``validation`` and ``test``, images of each class.
        sources: By the same, what they are part of, e.g. ``"valid/"``.
        left_out: What else is in the folder, a phrase each.
    """

    dataset: str
    folder: str | None
    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    sources: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    def in_words(self) -> list[str]:
        """Return what is used in a line and, if there is something, what is left out in another."""
        where = "" if self.folder is None else f" in {self.folder}"
        parts = [
            f"{sum(self.counts[part]):,} {verb} ({self.sources[part]})"
            for part, verb in (("train", "train"), ("validation", "validate"), ("test", "test"))
        ]
        lines = [
            f"{self.dataset}{where}: {len(self.classes)} classes "
            f"({at_most_six(self.classes, ', ')}); images: {', '.join(parts)}"
        ]
        if self.left_out:
            lines.append(f"left out: {at_most_six(self.left_out, '; ')}")
        return lines


@dataclass(frozen=True)
class FoundDataset:
    """What is known of a data set, and what there is of it.

    Attributes:
        name: Its name.
        dataset: What is known.
        folder: Where it was looked for, None if nowhere: it needs a ``data_dir``, or no folder.
        contents: What there is, with a tenth of the training images to validate; or None.
    """

    name: str
    dataset: Dataset
    folder: str | None
    contents: Contents | None

    @property
    def is_there(self) -> bool | None:
        """Whether it is there; None if it was not looked for."""
        if self.folder is None and self.dataset.files:
            return None
        return self.contents is not None

    @property
    def looked_for(self) -> str | None:
        """What is looked for, and where; None of what comes with a library."""
        if not self.dataset.files:
            return None
        return self.dataset.files.format(folder=self.folder or "the folder of data_dir")

    def in_words(self) -> list[str]:
        """Return a line on what it is, where it is looked for, and how to get it, each."""
        state = {None: "needs a data_dir", True: "is there", False: "is not there"}
        lines = [
            f"{self.name}: {self.dataset.about}, by default "
            f"{size_in_words(self.dataset.size)} pixels; "
            f"{state[self.is_there]}"
        ]
        if self.looked_for is not None:
            lines.append(f"    looked for: {self.looked_for}")
        if not self.is_there:
            lines.append(f"    to get it: {self.dataset.remedy}")
        if self.contents is not None:
            lines += [f"    {line}" for line in self.contents.in_words()]
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "name": self.name,
            "about": self.dataset.about,
            "image_size": self.dataset.size,
            "looked_for": self.looked_for,
            "to_get_it": self.dataset.remedy,
            "is_there": self.is_there,
            "contents": None if self.contents is None else asdict(self.contents),
        }


@dataclass(frozen=True)
class Splits:
    """A data set, ready for a task.

    Attributes:
        train: Training part; streams of it are augmented.
        validation: What picks checkpoints, hyperparameters and decouplings; not augmented.
        test: What only reports; not augmented, and the same whatever the task's seed and limit.
        num_classes: Number of classes.
        in_channels: Channels of an image.
        image_size: That of an image, pixels.
        contents: What of the set this is, in words and numbers; None of images of one's own.
        fingerprint: Returns that of the whole set, see `sedona_nni.data.identity`; likewise.

    Raises:
        InputError: if a part has no images, or a label that is none of the classes.

    Examples:
        >>> from sedona_nni import Task, load_splits
        >>> splits = load_splits(Task(image_size=8), validation_fraction=0.1)
        >>> splits.num_classes, splits.in_channels, splits.image_size
        (10, 3, 8)
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    num_classes: int
    image_size: ImageSize
    in_channels: int = 3
    contents: Contents | None = None
    fingerprint: Callable[[], str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            labels = np.asarray(getattr(self, name).labels)
            if not labels.size:
                raise InputError.rule(name, "must have images", 0)
            for label in (labels.min(), labels.max()):
                if not 0 <= label < self.num_classes:
                    rule = f"must be from 0 to {self.num_classes - 1}"
                    raise InputError.rule(f"{name}.labels", rule, int(label))

    @cached_property
    def identity(self) -> DataIdentity | None:
        """What these images are, whatever their folder is called; None of images of one's own.

        Raises:
            InputError: if a file cannot be read.
        """
        if self.contents is None or self.fingerprint is None:
            return None
        images = {part: sum(counts) for part, counts in self.contents.counts.items()}
        return DataIdentity(
            dataset=self.contents.dataset,
            classes=self.contents.classes,
            images=images,
            fingerprint=self.fingerprint(),
        )

    def without_images(self) -> Splits:
        """Return the same labels in the same order, with nothing to see, see `BlankImages`.

        For a process that learns from what another one makes of the images.
        """
        train, validation, test = (
            BlankImages(part.labels, self.image_size)
            for part in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)


def dataset_names() -> list[str]:
    """Return the names that `Task.dataset` may have.

    Examples:
        >>> from sedona_nni import dataset_names
        >>> "digits" in dataset_names()
        True
    """
    return [*DATASETS]


def load_splits(task: Task, validation_fraction: float, *, workers: int | None = None) -> Splits:
    """Read a data set and split it.

    Args:
        task: Which set, where, how large its images, how many to use, and the seed of the split.
            With a ``train_limit`` only that many images of the set's training part are learned
            from and validated on; the test part stays whole.
        validation_fraction: Share of the training part that is held out, strictly within 0 and 1.
        workers: Of images that stay in their files, see `sedona_nni.data.batches.FolderImages`.

    Raises:
        InputError: if the set is unknown, is not where it is said to be, is too small, or pictures
            that cannot be read cannot be left out, see `Task.on_bad_image`.

    Examples:
        >>> from sedona_nni import Task, load_splits
        >>> splits = load_splits(Task(train_limit=100), validation_fraction=0.2)
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (80, 20, 359)
    """
    dataset = DATASETS[task.dataset]
    size = image_size_of(task)
    parts = dataset.read(task, size)
    known = dataset.num_classes
    num_classes = known if isinstance(known, int) else len(parts.classes)
    _check_labels(task, parts, num_classes)

    readable = _readable(task, parts, workers)
    pool, test = readable.parts["train"], readable.parts["test"]
    rng = np.random.default_rng(task.split_seed)
    if task.train_limit is not None:
        if task.train_limit > len(pool):
            raise InputError.rule(
                "train_limit",
                f"must be at most {len(pool)}, the training images of {task.dataset}",
                task.train_limit,
            )
        pool = pool.subset(stratified(pool.labels, task.train_limit, rng))
    train, validation = pool, readable.parts.get("validation")
    if validation is None:
        held_out = stratified(pool.labels, int(validation_fraction * len(pool)), rng)
        train = pool.subset(np.setdiff1d(np.arange(len(pool)), held_out))
        validation = pool.subset(held_out)
    if len(train) < 2 or len(validation) == 0 or len(test) == 0:
        raise InputError(
            f"dataset: {task.dataset} must have 2 training images and 1 each to validate and to "
            f"test, but got {len(train)}, {len(validation)} and {len(test)} "
            f"(validation_fraction {validation_fraction})"
        )
    train, validation, test = (
        _as_wanted(part, size if dataset.as_published else None, workers)
        for part in (train, validation.plain(), test.plain())
    )
    found = {"train": train, "validation": validation, "test": test}
    of_pool, of_test, of_validation = parts.in_words()
    contents = Contents(
        task.dataset,
        _shown_folder(task),
        parts.classes,
        {
            name: tuple(np.bincount(part.labels, minlength=num_classes).tolist())
            for name, part in found.items()
        },
        {
            "train": of_pool,
            "validation": of_validation if parts.validation is not None else f"of {of_pool}",
            "test": of_test,
        },
        (*readable.words, *parts.left_out, *_without_training_images(parts.classes, train)),
    )
    return Splits(
        train,
        validation,
        test,
        num_classes,
        size,
        contents=contents,
        fingerprint=partial(_fingerprint, parts, readable.left_out),
    )


def _without_training_images(classes: Sequence[str], train: ImageSet) -> list[str]:
    there = {*np.unique(train.labels).tolist()}
    return [f"no {name} to learn from" for n, name in enumerate(classes) if n not in there]


def _as_wanted(part: ImageSet, size: ImageSize | None, workers: int | None) -> ImageSet:
    if isinstance(part, FolderImages):
        return replace(part, workers=workers)
    return part if size is None or not isinstance(part, MemoryImages) else part.resized(size)


def _check_labels(task: Task, parts: ImageParts, num_classes: int) -> None:
    for part in (parts.pool, parts.validation, parts.test):
        if part is None or not len(part):
            continue
        labels = np.asarray(part.labels)
        if (odd := labels[(labels < 0) | (labels >= num_classes)]).size:
            what = f"{task.dataset} must have labels from 0 to {num_classes - 1}"
            raise InputError.rule("data_dir", what, int(odd[0]))


def _readable(task: Task, parts: ImageParts, workers: int | None) -> Readable:
    """Return what of a set may be used, ``train``, ``test`` and maybe ``validation``."""
    pool, test = parts.pool, parts.test
    if test is None:
        pool, test = hold_out_test(pool)
    found = {"train": pool, "test": test}
    if parts.validation is not None:
        found["validation"] = parts.validation
    if task.on_bad_image == "fail":
        return Readable(found)
    return leave_out_bad_pictures(found, parts.classes, workers)


def _fingerprint(parts: ImageParts, left_out: Sequence[str]) -> str:
    """Return that of a set, see `sedona_nni.data.identity`, and of what of it is left out."""
    whole = _whole_fingerprint(parts)
    if not left_out:
        return whole
    return hashlib.sha256("\n".join([whole, *sorted(left_out)]).encode()).hexdigest()


def _whole_fingerprint(parts: ImageParts) -> str:
    if parts.fingerprint is not None:
        return parts.fingerprint()
    found = {"train": parts.pool, "val": parts.validation, "test": parts.test}
    arrays, files = [], []
    for name, part in found.items():
        if isinstance(part, MemoryImages):
            arrays += [part.labels, part.images.numpy()]
        elif isinstance(part, FolderImages):
            classes = [parts.classes[label] for label in part.labels]
            files += list(zip([name] * len(part), classes, map(str, part.files), strict=True))
        elif part is not None:
            raise InputError("dataset: images of a kind of one's own must come with a fingerprint")
    return fingerprint_of_files(files) if files else fingerprint_of_arrays(*arrays)


def image_size_of(task: Task) -> ImageSize:
    """Return the size of a task's images, pixels.

    Raises:
        InputError: if the set is unknown.
    """
    return task.image_size or DATASETS[task.dataset].size


def find_contents(
    name: str,
    data_dir: str | None,
    *,
    must_be_there: bool,
    on_bad_image: Literal["fail", "skip"] = "fail",
) -> FoundDataset:
    """Look for a data set.

    Args:
        name: Its name.
        data_dir: Where to look, by default where it usually is.
        must_be_there: Raise an error if it is not.
        on_bad_image: See `Task`.

    Raises:
        InputError: if the name is unknown or, where it must be there, the set is not or is damaged.
    """
    task = Task(dataset=name, data_dir=data_dir, on_bad_image=on_bad_image)
    dataset = DATASETS[task.dataset]
    if data_dir is None and dataset.default_folder is None and dataset.files:
        return FoundDataset(name, dataset, None, None)
    folder = _shown_folder(task)
    try:
        return FoundDataset(name, dataset, folder, load_splits(task, 0.1).contents)
    except InputError:
        if must_be_there:
            raise
        return FoundDataset(name, dataset, folder, None)


def form_of(task: Task) -> tuple[int, ImageSize]:
    """Return the number of classes and the size of a task's images, without reading images.

    Raises:
        InputError: if the set is unknown or, where its folders are its classes, not to be found.
    """
    num_classes = DATASETS[task.dataset].num_classes
    if not isinstance(num_classes, int):
        num_classes = num_classes(task)
    return num_classes, image_size_of(task)


def _shown_folder(task: Task) -> str | None:
    return str(data_folder(task)) if DATASETS[task.dataset].files else None


for _name, _set in {**IN_MEMORY, **IN_FILES}.items():
    DATASETS.add(_name, _set)
