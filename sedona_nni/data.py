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

Shift n: n black pixels around the image, then a random window of the old size. Rotate n: by up to n
degrees either way. Sizes are defaults; another one is reached by bilinear scaling. Normalisation
and augmentation of cifar10, tiny-imagenet and imagenet are those of the public SEDONA release; the
others follow cifar10 or imagenet.
The release tests ImageNet on the part that also picked the checkpoint; here validation images are
always held out of ``train/``, except where an imagefolder has both ``val/`` and ``test/``:
then ``val/`` is the validation part, whatever the wanted fraction.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nni.batches import (
    Batch,
    BatchStream,
    FolderImages,
    ImageSet,
    MemoryImages,
    ShiftAndFlip,
    evaluation_batches,
)
from sedona_nni.errors import InputError
from sedona_nni.files import user_path
from sedona_nni.task import Task

__all__ = [
    "Batch",
    "BatchStream",
    "Splits",
    "dataset_names",
    "evaluation_batches",
    "form_of",
    "image_size_of",
    "load_splits",
]

_FIXED_TEST_FRACTION = 0.2
_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Splits:
    """A data set, ready for a task.

    Attributes:
        train: Training part; streams of it are augmented.
        validation: What picks checkpoints, hyperparameters and decouplings; not augmented.
        test: What only reports; not augmented, and the same whatever the task's seed and limit.
        num_classes: Number of classes.
        in_channels: Channels of an image.
        image_size: Height and width of an image, pixels.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    num_classes: int
    image_size: int
    in_channels: int = 3


@dataclass(frozen=True)
class _Parts:
    """What the files of a set say: images that may be learned from, and the test images."""

    pool: ImageSet
    test: ImageSet
    num_classes: int
    validation: ImageSet | None = None  # where the set brings one beside its test part


def dataset_names() -> list[str]:
    """Return the names that `Task.dataset` may have."""
    return sorted(_DATASETS)


def load_splits(task: Task, validation_fraction: float, *, workers: int | None = None) -> Splits:
    """Read a data set and split it.

    Args:
        task: Which set, where, how large its images, how many to use, and the seed of the split.
            With a ``train_limit`` only that many images of the set's training part are learned
            from and validated on; the test part stays whole.
        validation_fraction: Share of the training part that is held out, strictly within 0 and 1.
        workers: Of images that stay in their files, see `sedona_nni.batches.FolderImages`.

    Raises:
        InputError: if the set is unknown, is not where it is said to be, or is too small.
    """
    size = image_size_of(task)
    _, read, _ = _DATASETS[task.dataset]
    parts = read(task, size)

    pool, rng = parts.pool, np.random.default_rng(task.split_seed)
    if task.train_limit is not None:
        if task.train_limit > len(pool):
            raise InputError.rule(
                "train_limit",
                f"must be at most {len(pool)}, the training images of {task.dataset}",
                task.train_limit,
            )
        pool = pool.subset(_stratified(pool.labels, task.train_limit, rng))
    train, validation = pool, parts.validation
    if validation is None:
        held_out = _stratified(pool.labels, int(validation_fraction * len(pool)), rng)
        train = pool.subset(np.setdiff1d(np.arange(len(pool)), held_out))
        validation = pool.subset(held_out)
    if len(train) < 2 or len(validation) == 0 or len(parts.test) == 0:
        raise InputError(
            f"dataset: {task.dataset} must have 2 training images and 1 each to validate and to "
            f"test, but got {len(train)}, {len(validation)} and {len(parts.test)} "
            f"(validation_fraction {validation_fraction})"
        )
    train, validation, test = (
        replace(part, workers=workers) if isinstance(part, FolderImages) else part
        for part in (train, validation.plain(), parts.test.plain())
    )
    return Splits(train, validation, test, parts.num_classes, size)


def image_size_of(task: Task) -> int:
    """Return the height and width of a task's images, pixels.

    Raises:
        InputError: if the set is unknown.
    """
    if task.dataset not in _DATASETS:
        raise InputError.rule("dataset", f"must be one of {dataset_names()}", task.dataset)
    return task.image_size or _DATASETS[task.dataset][0]


def form_of(task: Task) -> tuple[int, int]:
    """Return the number of classes and the size of a task's images, without reading images.

    Raises:
        InputError: if the set is unknown or, where its folders are its classes, not to be found.
    """
    size = image_size_of(task)
    num_classes = _DATASETS[task.dataset][2]
    if num_classes is None:
        from torchvision.datasets.folder import find_classes

        folder = _class_folder(task)
        with _reading(
            task, f"train/<class> in {folder}", "put each image into a folder of its class"
        ):
            num_classes = len(find_classes(str(folder / "train"))[0])
    return num_classes, size


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


def _read_digits(task: Task, size: int) -> _Parts:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images)[:, None].float() * (255 / 16)  # its white is 16
    everything = MemoryImages(
        _resize(images, size),
        bunch.target.astype(np.int64),
        mean=(0.3053,),
        std=(0.3236,),
        augmentation=ShiftAndFlip(padding=2, flip=False),
    )
    pool, test = _hold_out_test(everything)
    return _Parts(pool, test, num_classes=10)


def _read_fashion_mnist(task: Task, size: int) -> _Parts:
    from torchvision.datasets import FashionMNIST

    folder = user_path(task.data_dir or "/usr/share/datasets/fashion-mnist")
    with _reading(
        task,
        f"train-images-idx3-ubyte.gz and its like in {folder}, or FashionMNIST/raw in it",
        "apt install dataset-fashion-mnist, or torchvision.datasets.FashionMNIST(data_dir, "
        "download=True)",
    ):
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
    return _Parts(pool, test, num_classes=10)


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


def _read_cifar(task: Task, size: int) -> _Parts:
    from torchvision.datasets import CIFAR10, CIFAR100

    many = task.dataset == "cifar100"
    reader = CIFAR100 if many else CIFAR10
    folder = _folder(task)
    with _reading(
        task, f"{reader.base_folder} in {folder}", f"download and unpack {reader.url} there"
    ):
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
    return _Parts(pool, test, num_classes=100 if many else 10)


def _read_svhn(task: Task, size: int) -> _Parts:
    from torchvision.datasets import SVHN

    folder = _folder(task)
    urls = " and ".join(SVHN.split_list[split][0] for split in ("train", "test"))
    with _reading(
        task, f"train_32x32.mat and test_32x32.mat in {folder}", f"download {urls} there"
    ):
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
    return _Parts(pool, test, num_classes=10)


def _resize(images: Tensor, size: int) -> Tensor:
    """Bring images (N, C, s, s) to bytes (N, C, size, size)."""
    if images.shape[-1] != size:
        images = F.interpolate(
            images.float(), size=(size, size), mode="bilinear", antialias=images.shape[-1] > size
        )
    if images.is_floating_point():
        images = images.round().clamp(0, 255)
    return images.to(torch.uint8)


# ---- Sets that stay in their files ---------------------------------------------------------------


def _read_tiny_imagenet(task: Task, size: int) -> _Parts:
    from torchvision.transforms import v2

    folder = _class_folder(task)
    resize: list[Any] = [v2.Resize((size, size))]  # changes nothing at the set's own 64 pixels
    training = [
        v2.RandomRotation(20),
        v2.RandomCrop(size, padding=size // 16),
        v2.RandomHorizontalFlip(),
    ]
    with _reading(
        task,
        f"train/ and val/ in {folder}",
        "download http://cs231n.stanford.edu/tiny-imagenet-200.zip and unpack it there",
    ):
        classes, samples = _image_folder(folder / "train")
        annotations = folder / "val" / "val_annotations.txt"
        if annotations.exists():  # as published: one folder of images and a table of their classes
            rows = [
                line.split("\t") for line in annotations.read_text(encoding="utf-8").splitlines()
            ]
            number = {name: index for index, name in enumerate(classes)}
            test = [(str(folder / "val" / "images" / row[0]), number[row[1]]) for row in rows]
        else:
            test = _same_classes(folder / "val", classes)
    statistics = ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    pool_images, test_images = (
        _in_files(part, statistics, preprocessing=resize, augmentation=[*resize, *training])
        for part in (samples, test)
    )
    return _Parts(pool_images, test_images, len(classes))


def _read_imagenet(task: Task, size: int) -> _Parts:
    folder = _folder(task)
    with _reading(
        task,
        f"train/<class>/<image> and val/<class>/<image> in {folder}",
        "download from https://image-net.org, put each image into a folder of its class",
    ):
        classes, parts = _read_class_folders(folder, ["train", "val"], size)
    return _Parts(parts["train"], parts["val"], len(classes))


def _read_image_folder(task: Task, size: int) -> _Parts:
    folder = _folder(task)
    names = ["train", *(name for name in ("val", "test") if (folder / name).is_dir())]
    with _reading(
        task, f"train/<class>/<image> in {folder}", "put each image into a folder of its class"
    ):
        classes, parts = _read_class_folders(folder, names, size)
    if "test" in parts:
        return _Parts(parts["train"], parts["test"], len(classes), validation=parts.get("val"))
    if "val" in parts:
        return _Parts(parts["train"], parts["val"], len(classes))
    return _Parts(*_hold_out_test(parts["train"]), len(classes))


def _read_class_folders(
    folder: Path, names: list[str], size: int
) -> tuple[list[str], dict[str, FolderImages]]:
    from torchvision.transforms import v2

    classes, samples = _image_folder(folder / names[0])
    parts = {names[0]: samples}
    parts |= {name: _same_classes(folder / name, classes) for name in names[1:]}
    center = [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size)]
    random = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    return classes, {
        name: _in_files(part, _IMAGENET_STATISTICS, preprocessing=center, augmentation=random)
        for name, part in parts.items()
    }


def _image_folder(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the classes and the (file, class number) pairs of a folder of class folders."""
    from torchvision.datasets import ImageFolder

    content = ImageFolder(str(folder))
    return content.classes, content.samples


def _same_classes(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    found, samples = _image_folder(folder)
    if found != classes:
        odd = sorted(set(found) ^ set(classes))
        raise InputError(f"data_dir: {folder} must have the classes of train/, unlike for {odd[0]}")
    return samples


def _in_files(
    samples: list[tuple[str, int]],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    preprocessing: list[Any],
    augmentation: list[Any],
) -> FolderImages:
    from torchvision.transforms import v2

    return FolderImages(
        np.array([file for file, _ in samples]),
        np.array([label for _, label in samples], dtype=np.int64),
        *statistics,
        preprocessing=v2.Compose([*preprocessing, v2.PILToTensor()]),
        augmentation=v2.Compose([*augmentation, v2.PILToTensor()]),
    )


# ---- Finding the files ---------------------------------------------------------------------------


def _folder(task: Task) -> Path:
    if task.data_dir is None:
        raise InputError(f"data_dir: must name the folder that holds {task.dataset}, but got None")
    return user_path(task.data_dir)


def _class_folder(task: Task) -> Path:
    """Return where ``train/`` is; Tiny-ImageNet may be in the folder that its archive has."""
    folder = _folder(task)
    inner = folder / "tiny-imagenet-200"
    return inner if task.dataset == "tiny-imagenet" and inner.is_dir() else folder


@contextmanager
def _reading(task: Task, looked_for: str, remedy: str) -> Iterator[None]:
    """Turn whatever a reader stumbles over into one line that says what to do about it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers of many formats raise anything from OSError to KeyError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data_dir: {task.dataset} is missing or damaged; looked for {looked_for} "
            f"({reason}). To get it: {remedy}"
        ) from error


# Default size, reader, and the number of classes; None where each class has a folder
_DATASETS: dict[str, tuple[int, Callable[[Task, int], _Parts], int | None]] = {
    "digits": (32, _read_digits, 10),
    "fashion-mnist": (32, _read_fashion_mnist, 10),
    "cifar10": (32, _read_cifar, 10),
    "cifar100": (32, _read_cifar, 100),
    "svhn": (32, _read_svhn, 10),
    "tiny-imagenet": (64, _read_tiny_imagenet, None),
    "imagenet": (224, _read_imagenet, None),
    "imagefolder": (224, _read_image_folder, None),
}
