"""The data sets that stay in their files: class folders, and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedona_nni.data.batches import FolderImages, ImageSet
from sedona_nni.data.class_folders import (
    ClassFolders,
    class_names,
    find_parts,
    read_class_folders,
)
from sedona_nni.data.dataset import Dataset, ImageParts, at_most_six, data_folder, reading_set
from sedona_nni.data.hugging_face import Table, fingerprint_of_tables, read_tables
from sedona_nni.data.identity import fingerprint_of_files
from sedona_nni.data.splitting import hold_out_test
from sedona_nni.errors import InputError
from sedona_nni.files import check_regular
from sedona_nni.image_size import ImageSize, height_and_width
from sedona_nni.task import Task

__all__ = ["IN_FILES"]

_IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLASS_FOLDERS = "put each image into a folder of its class"


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

    with reading_set(task):
        return _read_folders(task, images, ("train", "val"))


def _read_imagenet(task: Task, size: ImageSize) -> ImageParts:
    with reading_set(task):
        return _read_folders(task, _as_of_imagenet(size), ("train", "val"))


def _read_image_folder(task: Task, size: ImageSize) -> ImageParts:
    with reading_set(task):
        return _read_folders(task, _as_of_imagenet(size), ("train",), ("val", "test"))


def _read_hugging_face(task: Task, size: ImageSize) -> ImageParts:
    tables, left_out = _tables(task)
    images = _as_of_imagenet(size)
    return _assembled(
        {part: images(table.pictures, table.labels) for part, table in tables.items()},
        {part: table.split for part, table in tables.items()},
        tables["train"].classes,
        lambda: fingerprint_of_tables(tables),
        left_out,
    )


def _count_folders(task: Task) -> int:
    with reading_set(task):
        return len(class_names(_parts_of(task, "train")[0]["train"]))


def _count_in_tables(task: Task) -> int:
    return len(_tables(task)[0]["train"].classes)


def _tables(task: Task) -> tuple[dict[str, Table], tuple[str, ...]]:
    with reading_set(task):
        tables, left_out = read_tables(data_folder(task))
        if "train" not in tables:
            raise FileNotFoundError("no split is called train")
    return tables, left_out


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
        (pool, test), source = hold_out_test(pool), f"a fixed fifth of {names['train']}"
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
    check_regular(annotations)
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
        raise InputError(f"data_dir: {folder} {rule}, but has {at_most_six(strange, ', ')}")
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


def _class_folder(task: Task) -> Path:
    """Return where ``train/`` is; Tiny-ImageNet may be in the folder that its archive has."""
    folder = data_folder(task)
    inner = folder / "tiny-imagenet-200"
    return inner if task.dataset == "tiny-imagenet" and inner.is_dir() else folder


IN_FILES = {
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
"""By name, those that come with this project."""
