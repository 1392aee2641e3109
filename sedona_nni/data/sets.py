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

To height H and width W, the last three bring a picture without stretching it. To validate and
test, it is scaled until it just covers 256/224 of H and of W, and its middle is taken: for squares
torchvision's ``Resize(256)`` and ``CenterCrop(224)``, else what timm does. To train, a
random crop has 8 to 100 % of its area, and a ratio of width to height of 3/4 to 4/3 times W/H: for
squares torchvision's ``RandomResizedCrop(224)``, whose crops for other sizes would be about square
and then stretched. Images of the other sets, all of one size, are stretched.

The release tests ImageNet on the part that also picked the checkpoint; here validation images are
always held out of ``train/``, except where an imagefolder has both ``val/`` and ``test/``:
then ``val/`` is the validation part, whatever the wanted fraction.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nni.data.bad_pictures import Readable, leave_out_bad_pictures
from sedona_nni.data.batches import (
    Batch,
    BatchStream,
    BlankImages,
    FolderImages,
    ImageSet,
    MemoryImages,
    ShiftAndFlip,
    evaluation_batches,
)
from sedona_nni.data.class_folders import (
    ClassFolders,
    class_names,
    find_parts,
    read_class_folders,
)
from sedona_nni.data.dataset import DATASETS, Dataset, ImageParts, data_folder
from sedona_nni.data.hugging_face import fingerprint_of_tables, read_tables
from sedona_nni.data.identity import DataIdentity, fingerprint_of_arrays, fingerprint_of_files
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize, height_and_width, size_in_words
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

_FIXED_TEST_FRACTION = 0.2
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
            f"{self.dataset}{where}: {len(self.classes)} classes ({_few(self.classes, ', ')}); "
            f"images: {', '.join(parts)}"
        ]
        if self.left_out:
            lines.append(f"left out: {_few(self.left_out, '; ')}")
        return lines


def _few(names: Sequence[str], separator: str) -> str:
    """Return at most six of the names, and how many more there are."""
    more = f"{separator}and {len(names) - 6} more" if len(names) > 6 else ""
    return separator.join(names[:6]) + more


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
        pool = pool.subset(_stratified(pool.labels, task.train_limit, rng))
    train, validation = pool, readable.parts.get("validation")
    if validation is None:
        held_out = _stratified(pool.labels, int(validation_fraction * len(pool)), rng)
        train = pool.subset(np.setdiff1d(np.arange(len(pool)), held_out))
        validation = pool.subset(held_out)
    if len(train) < 2 or len(validation) == 0 or len(test) == 0:
        raise InputError(
            f"dataset: {task.dataset} must have 2 training images and 1 each to validate and to "
            f"test, but got {len(train)}, {len(validation)} and {len(test)} "
            f"(validation_fraction {validation_fraction})"
        )
    train, validation, test = (
        replace(part, workers=workers) if isinstance(part, FolderImages) else part
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
        (*readable.words, *parts.left_out),
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


def _readable(task: Task, parts: ImageParts, workers: int | None) -> Readable:
    """Return what of a set may be used, ``train``, ``test`` and maybe ``validation``."""
    pool, test = parts.pool, parts.test
    if test is None:
        pool, test = _hold_out_test(pool)
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


def _stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pick ``count`` images at random, from each class its share rounded up or down.

    The images are shuffled and lined up class by class; then every N/count-th is taken.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    places = (np.arange(count) + 0.5) * len(labels) / max(count, 1)
    return np.sort(order[places.astype(np.int64)])


def _hold_out_test(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split a set that has no test part; the fixed seed makes it part of the set's definition."""
    test = _stratified(
        images.labels, int(_FIXED_TEST_FRACTION * len(images)), np.random.default_rng(0)
    )
    rest = np.setdiff1d(np.arange(len(images)), test)
    return images.subset(rest), images.subset(test)


# ---- Sets that fit into memory -------------------------------------------------------------------


def _read_digits(task: Task, size: ImageSize) -> ImageParts:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images)[:, None].float() * (255 / 16)  # its white is 16
    everything = MemoryImages(
        _resize(images, size),
        bunch.target.astype(np.int64),
        mean=(0.3053,),
        std=(0.3236,),
        augmentation=ShiftAndFlip(padding=2, flip=False),
    )
    return ImageParts(
        everything,
        tuple(map(str, range(10))),
        fingerprint=_known(fingerprint_of_arrays(bunch.target, bunch.images.astype(np.uint8))),
        sources=("scikit-learn's", "a fixed fifth of them", ""),
    )


def _known(fingerprint: str) -> Callable[[], str]:
    return lambda: fingerprint


def _read_fashion_mnist(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import FashionMNIST

    folder = data_folder(task)
    with _reading(task):
        if (folder / "FashionMNIST").is_dir():
            parts = [FashionMNIST(str(folder), train=train) for train in (True, False)]
        else:
            parts = _unpack_fashion_mnist(folder)
    pool, test = (
        MemoryImages(
            _resize(F.pad(part.data[:, None], [2] * 4), size),
            part.targets.numpy(),
            mean=(0.2190,),
            std=(0.3318,),
            augmentation=ShiftAndFlip(padding=2, flip=True),
        )
        for part in parts
    )
    arrays = [part.numpy() for each in parts for part in (each.targets, each.data)]
    fingerprint = _known(fingerprint_of_arrays(*arrays))
    return ImageParts(pool, tuple(FashionMNIST.classes), test, fingerprint=fingerprint)


def _unpack_fashion_mnist(folder: Path) -> list[Any]:
    """Read the packed files of Debian's package, for which torchvision has no reader."""
    from torchvision.datasets import FashionMNIST

    with tempfile.TemporaryDirectory() as temporary:
        raw = Path(temporary, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        for name in (
            "train-images-idx3",
            "train-labels-idx1",
            "t10k-images-idx3",
            "t10k-labels-idx1",
        ):
            with (
                gzip.open(folder / f"{name}-ubyte.gz") as packed,
                (raw / f"{name}-ubyte").open("wb") as unpacked,
            ):
                shutil.copyfileobj(packed, unpacked)
        return [FashionMNIST(temporary, train=train) for train in (True, False)]


def _read_cifar(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import CIFAR10, CIFAR100

    many = task.dataset == "cifar100"
    reader = CIFAR100 if many else CIFAR10
    folder = data_folder(task)
    with _reading(task):
        parts = [reader(str(folder), train=train) for train in (True, False)]
    mean, std = (
        ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
        if many
        else ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    )
    pool, test = (
        MemoryImages(
            _resize(torch.from_numpy(part.data).permute(0, 3, 1, 2), size),
            np.array(part.targets, dtype=np.int64),
            mean,
            std,
            ShiftAndFlip(padding=2, flip=True),
        )
        for part in parts
    )
    arrays = [np.asarray(part) for each in parts for part in (each.targets, each.data)]
    fingerprint = _known(fingerprint_of_arrays(*arrays))
    return ImageParts(pool, tuple(parts[0].classes), test, fingerprint=fingerprint)


def _read_svhn(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import SVHN

    folder = data_folder(task)
    with _reading(task):
        parts = [SVHN(str(folder), split=split) for split in ("train", "test")]
    pool, test = (
        MemoryImages(
            _resize(torch.from_numpy(part.data), size),
            part.labels.astype(np.int64),
            mean=(0.4377, 0.4438, 0.4728),
            std=(0.1980, 0.2010, 0.1970),
            augmentation=ShiftAndFlip(padding=2, flip=False),
        )
        for part in parts
    )
    arrays = [part for each in parts for part in (each.labels, each.data)]
    classes = tuple(map(str, range(10)))
    return ImageParts(pool, classes, test, fingerprint=_known(fingerprint_of_arrays(*arrays)))


def _resize(images: Tensor, size: ImageSize) -> Tensor:
    """Bring images (N, C, h, w) to bytes (N, C, height, width)."""
    own, wanted = tuple(images.shape[-2:]), height_and_width(size)
    if own != wanted:
        shrinks = any(new < old for new, old in zip(wanted, own, strict=True))
        images = F.interpolate(images.float(), size=wanted, mode="bilinear", antialias=shrinks)
    if images.is_floating_point():
        images = images.round().clamp(0, 255)
    return images.to(torch.uint8)


# ---- Sets that stay in their files ---------------------------------------------------------------


def _read_tiny_imagenet(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.transforms import v2

    height, width = height_and_width(size)
    resize: list[Any] = [v2.Resize((height, width))]  # changes nothing at the set's own 64 pixels
    training = [
        v2.RandomRotation(20),
        v2.RandomCrop((height, width), padding=[width // 16, height // 16]),
        v2.RandomHorizontalFlip(),
    ]
    statistics = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))

    def images(files: Any, labels: np.ndarray) -> FolderImages:
        return _in_files(files, labels, statistics, resize, augmentation=[*resize, *training])

    with _reading(task):
        return _read_folders(task, images, ("train", "val"))


def _read_imagenet(task: Task, size: ImageSize) -> ImageParts:
    with _reading(task):
        return _read_folders(task, _as_of_imagenet(size), ("train", "val"))


def _read_image_folder(task: Task, size: ImageSize) -> ImageParts:
    with _reading(task):
        return _read_folders(task, _as_of_imagenet(size), ("train",), ("val", "test"))


def _read_hugging_face(task: Task, size: ImageSize) -> ImageParts:
    with _reading(task):
        tables, left_out = read_tables(data_folder(task))
        if "train" not in tables:
            raise FileNotFoundError("no split is called train")
    images = _as_of_imagenet(size)
    return _assembled(
        {part: images(table.pictures, table.labels) for part, table in tables.items()},
        {part: table.split for part, table in tables.items()},
        tables["train"].classes,
        lambda: fingerprint_of_tables(tables),
        left_out,
    )


def _count_folders(task: Task) -> int:
    with _reading(task):
        return len(class_names(_parts_of(task, "train")[0]["train"]))


def _count_in_tables(task: Task) -> int:
    return len(_read_hugging_face(task, image_size_of(task)).classes)


_Samples = list[tuple[str, int]]  # files and their class numbers
_Images = Callable[[Any, np.ndarray], FolderImages]  # of files and their class numbers


@dataclass(frozen=True)
class _Cover:
    """Scales a picture, its proportions kept, until it just covers a window.

    Attributes:
        height: Of the window, pixels.
        width: Likewise.
    """

    height: int
    width: int

    def __call__(self, picture: Any) -> Any:
        """Return the picture, h x w pixels, as one of height x more or more x width."""
        from torchvision.transforms.v2 import functional

        w, h = picture.size
        if self.height * w >= self.width * h:  # the picture is the wider one
            size = [self.height, int(self.height * w / h)]
        else:
            size = [int(self.width * h / w), self.width]
        return functional.resize(picture, size)


def _as_of_imagenet(size: ImageSize) -> _Images:
    from torchvision.transforms import v2

    height, width = height_and_width(size)
    ratio = (3 / 4 * (width / height), 4 / 3 * (width / height))
    center = [
        _Cover(round(height * 256 / 224), round(width * 256 / 224)),
        v2.CenterCrop((height, width)),
    ]
    random = [v2.RandomResizedCrop((height, width), ratio=ratio), v2.RandomHorizontalFlip()]
    return lambda files, labels: _in_files(
        files, labels, _IMAGENET_STATISTICS, center, augmentation=random
    )


def _read_folders(
    task: Task,
    images: _Images,
    needed: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> ImageParts:
    """Read the parts of a set whose classes are folders.

    Raises:
        InputError: if a part has a class that ``train/`` lacks.
        OSError: if a part that is needed is not there.
    """
    folders, left_out = _parts_of(task, *needed, optional=optional)
    train = read_class_folders(folders["train"])
    classes = tuple(train.files)
    samples = {"train": _numbered(train, classes)}
    left_out += train.left_out
    for part, folder in folders.items():
        if part == "train":
            continue
        samples[part], more = _read_held_out(folder, classes)
        left_out += more
        missing = sorted(set(range(len(classes))) - {label for _, label in samples[part]})
        left_out += tuple(f"no {classes[label]} in {folder.name}/" for label in missing)
    files = [
        (part, classes[label], path) for part, found in samples.items() for path, label in found
    ]
    sets = {
        part: images(
            np.array([path for path, _ in found]),
            np.array([label for _, label in found], dtype=np.int64),
        )
        for part, found in samples.items()
    }
    names = {part: f"{folder.name}/" for part, folder in folders.items()}
    return _assembled(sets, names, classes, lambda: fingerprint_of_files(files), left_out)


def _assembled(
    sets: Mapping[str, FolderImages],
    names: Mapping[str, str],
    classes: tuple[str, ...],
    fingerprint: Callable[[], str],
    left_out: tuple[str, ...],
) -> ImageParts:
    """Return what ``train`` and maybe ``val`` and ``test`` are used for; ``names`` are theirs."""
    pool: ImageSet = sets["train"]
    validation: ImageSet | None = None
    test: ImageSet
    if "test" in sets:
        test, source, validation = sets["test"], names["test"], sets.get("val")
    elif "val" in sets:
        test, source = sets["val"], names["val"]
    else:
        (pool, test), source = _hold_out_test(pool), f"a fixed fifth of {names['train']}"
    sources = (names["train"], source, names.get("val", ""))
    return ImageParts(
        pool,
        classes,
        test,
        validation,
        fingerprint,
        sources,
        left_out,
    )


def _parts_of(
    task: Task, *needed: str, optional: tuple[str, ...] = ()
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folders of a set's parts, and what else there is."""
    folder = _class_folder(task)
    found, left_out = find_parts(folder)
    for part in needed:
        if part not in found:
            raise FileNotFoundError(f"{folder} has no {part}/")
    wanted = {part: path for part in (*needed, *optional) if (path := found.get(part))}
    unused = tuple(f"{path.name}/" for part, path in found.items() if part not in wanted)
    return wanted, (*left_out, *unused)


def _read_held_out(folder: Path, classes: tuple[str, ...]) -> tuple[_Samples, tuple[str, ...]]:
    """Read a part that is not ``train/``, of whose classes it may lack some."""
    annotations = folder / "val_annotations.txt"
    if annotations.exists():  # Tiny-ImageNet's, if its images have not been sorted into folders
        pictures = folder / "images"
        there = {path.name for path in pictures.iterdir()} if pictures.is_dir() else set()
        rows = [line.split("\t") for line in annotations.read_text().splitlines() if line]
        absent = [row[0] for row in rows if row[0] not in there]
        if not absent:
            number = {name: index for index, name in enumerate(classes)}
            return [(str(pictures / row[0]), number[row[1]]) for row in rows], ()
        if len(absent) < len(rows):
            raise InputError(f"data_dir: {pictures} lacks {absent[0]}, which {annotations} names")
    found = read_class_folders(folder)
    if strange := sorted(set(found.files) - set(classes)):
        rule = "must have no class that train/ lacks"
        raise InputError(f"data_dir: {folder} {rule}, but has {_few(strange, ', ')}")
    return _numbered(found, classes), found.left_out


def _numbered(found: ClassFolders, classes: tuple[str, ...]) -> _Samples:
    number = {name: index for index, name in enumerate(classes)}
    return [(path, number[name]) for name, paths in found.files.items() for path in paths]


def _in_files(
    files: Any,
    labels: np.ndarray,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    preprocessing: list[Any],
    augmentation: list[Any],
) -> FolderImages:
    from torchvision.transforms import v2

    return FolderImages(
        files,
        labels,
        *statistics,
        preprocessing=v2.Compose([*preprocessing, v2.PILToTensor()]),
        augmentation=v2.Compose([*augmentation, v2.PILToTensor()]),
    )


# ---- Finding the files ---------------------------------------------------------------------------


def _shown_folder(task: Task) -> str | None:
    return str(data_folder(task)) if DATASETS[task.dataset].files else None


def _class_folder(task: Task) -> Path:
    """Return where ``train/`` is; Tiny-ImageNet may be in the folder that its archive has."""
    folder = data_folder(task)
    inner = folder / "tiny-imagenet-200"
    return inner if task.dataset == "tiny-imagenet" and inner.is_dir() else folder


@contextmanager
def _reading(task: Task) -> Iterator[None]:
    """Turn whatever a reader stumbles over into one line that says what to do about it."""
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


_CLASS_FOLDERS = "put each image into a folder of its class"
_OURS = {
    "digits": Dataset(
        "handwritten digits, 8 x 8 pixels", 32, _read_digits, 10, "", "install scikit-learn"
    ),
    "fashion-mnist": Dataset(
        "articles of clothing, 28 x 28 pixels, grey",
        32,
        _read_fashion_mnist,
        10,
        "train-images-idx3-ubyte.gz and its like in {folder}, or FashionMNIST/raw in it",
        "apt install dataset-fashion-mnist, or torchvision.datasets.FashionMNIST(data_dir, "
        "download=True)",
        default_folder="/usr/share/datasets/fashion-mnist",
    ),
    "cifar10": Dataset(
        "photographs, 32 x 32 pixels",
        32,
        _read_cifar,
        10,
        "cifar-10-batches-py in {folder}",
        "download and unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there",
    ),
    "cifar100": Dataset(
        "photographs, 32 x 32 pixels",
        32,
        _read_cifar,
        100,
        "cifar-100-python in {folder}",
        "download and unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz there",
    ),
    "svhn": Dataset(
        "house numbers, 32 x 32 pixels",
        32,
        _read_svhn,
        10,
        "train_32x32.mat and test_32x32.mat in {folder}",
        "download http://ufldl.stanford.edu/housenumbers/train_32x32.mat and test_32x32.mat there",
    ),
    "tiny-imagenet": Dataset(
        "200 classes of ImageNet, 64 x 64 pixels",
        64,
        _read_tiny_imagenet,
        _count_folders,
        "train/ and val/ in {folder}",
        "download http://cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it there",
    ),
    "imagenet": Dataset(
        "photographs of 1,000 classes",
        224,
        _read_imagenet,
        _count_folders,
        "train/<class>/<image> and val/<class>/<image> in {folder}",
        f"download from https://image-net.org, {_CLASS_FOLDERS}",
    ),
    "imagefolder": Dataset(
        "pictures of your own",
        224,
        _read_image_folder,
        _count_folders,
        "train/<class>/<image> in {folder}",
        _CLASS_FOLDERS,
    ),
    "huggingface": Dataset(
        "tables of pictures of the library datasets",
        224,
        _read_hugging_face,
        _count_in_tables,
        "dataset_dict.json or Parquet files in {folder}",
        "save it there with save_to_disk",
    ),
}

for _name, _set in _OURS.items():
    DATASETS.add(_name, _set)
