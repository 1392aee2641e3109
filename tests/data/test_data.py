"""Every set is read from small files in its real format, written here."""

import gzip
import hashlib
import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sedona_nni.data import workers as reading
from sedona_nni.data.batches import (
    BatchStream,
    FolderImages,
    ImageSet,
    MemoryImages,
    ShiftAndFlip,
    class_limited_order,
)
from sedona_nni.data.sets import (
    Contents,
    Splits,
    dataset_names,
    evaluation_batches,
    form_of,
    load_splits,
)
from sedona_nni.errors import InputError, SedonaError
from sedona_nni.task import Task


def images_of(part: ImageSet) -> np.ndarray:
    """All images of a part without augmentation, one row each."""
    return np.concatenate(
        [images.flatten(1).numpy() for images, _ in evaluation_batches(part, 256, "cpu")]
    )


def rows(part: ImageSet) -> set[bytes]:
    return {row.tobytes() for row in images_of(part)}


# ---- digits, and what all sets share -------------------------------------------------------------


def test_digits_parts() -> None:
    splits = load_splits(Task(), 0.1)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1295, 143, 359]
    assert (splits.num_classes, splits.in_channels, splits.image_size) == (10, 3, 32)
    for part in (splits.train, splits.validation, splits.test):
        share = np.bincount(part.labels, minlength=10) / len(part)
        assert np.all(abs(share - 0.1) < 0.02)
    pixels = images_of(splits.train)
    assert abs(pixels.mean()) < 0.02
    assert abs(pixels.std() - 1) < 0.02


def test_parts_are_disjoint_and_complete() -> None:
    from sklearn.datasets import load_digits

    splits = load_splits(Task(image_size=8), 0.4)
    train, validation, test = (rows(p) for p in (splits.train, splits.validation, splits.test))
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(train | validation | test) == len(np.unique(load_digits().images, axis=0))


@pytest.mark.parametrize(
    "task", [Task(split_seed=1), Task(train_limit=100), Task(split_seed=7, train_limit=50)]
)
@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_test_part_is_fixed(task: Task, fraction: float) -> None:
    expected = images_of(load_splits(Task(), 0.2).test)
    assert np.array_equal(images_of(load_splits(task, fraction).test), expected)


def test_the_test_part_of_digits_stays_what_it_is() -> None:
    """Results of different versions can be compared only as long as this does not change."""
    first = load_splits(Task(), 0.1).test.labels[:16].tolist()
    assert first == [1, 4, 9, 7, 0, 5, 5, 5, 2, 2, 3, 0, 0, 2, 1, 7]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_held_out_is_never_distorted(part: str) -> None:
    held_out = getattr(load_splits(Task(train_limit=100), 0.4), part)
    images, _ = next(BatchStream(held_out, 30, 0, "cpu").iterate())
    assert {image.numpy().tobytes() for image in images} <= rows(held_out)
    assert len(rows(held_out)) == len(held_out)


def test_split_seed_moves_the_validation_part() -> None:
    first, again, other = (load_splits(Task(split_seed=seed), 0.1).validation for seed in (1, 1, 2))
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)


def test_train_limit_bounds_what_is_learned_from() -> None:
    splits = load_splits(Task(train_limit=200), 0.25)
    assert len(splits.train) == 150
    assert len(splits.validation) == 50
    assert set(np.bincount(splits.validation.labels, minlength=10)) <= {4, 5, 6}


@pytest.mark.parametrize(
    ("task", "fraction", "message"),
    [
        (Task(dataset="mnist"), 0.1, "dataset: must be one of digits, fashion-mnist, cifar10, "),
        (Task(train_limit=9999), 0.1, "train_limit: must be at most 1438, "),
        (Task(train_limit=5), 0.1, "dataset: digits must have 2 training images"),
        (Task(dataset="cifar10"), 0.1, "data_dir: must name the folder that holds cifar10"),
    ],
)
def test_bad_tasks(task: Task, fraction: float, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_splits(task, fraction)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", sorted(set(dataset_names()) - {"digits"}))
def test_missing_set_says_where_it_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_splits(Task(dataset=name, data_dir=str(tmp_path / "nowhere")), 0.1)
    message = str(error.value)
    assert message.startswith(f"data_dir: {name} is missing or damaged; looked for ")
    assert str(tmp_path / "nowhere") in message
    assert "To get it: " in message
    assert "\n" not in message


# ---- The real formats ----------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion_mnist(folder: Path, packed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Write 40 training and 20 test images; return the test images and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for prefix, count in (("train", 40), ("t10k", 20)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{name}-ubyte"
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return images, labels


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist(tmp_path: Path, packed: bool) -> None:
    raw = tmp_path if packed else tmp_path / "data" / "FashionMNIST" / "raw"
    images, labels = write_fashion_mnist(raw / "x" if packed else raw, packed)
    folder = raw / "x" if packed else tmp_path / "data"
    splits = load_splits(Task(dataset="fashion-mnist", data_dir=str(folder)), 0.25)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [30, 10, 20]
    assert np.array_equal(splits.test.labels, labels)
    ((batch, _),) = evaluation_batches(splits.test, 64, "cpu")
    assert batch.shape == (20, 3, 32, 32)
    expected = (images / 255 - 0.2190) / 0.3318
    np.testing.assert_allclose(batch[:, 1, 2:30, 2:30].numpy(), expected, atol=1e-4)
    assert torch.all(batch[:, :, :2] == batch[0, 0, 0, 0])


def test_damaged_fashion_mnist(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "x", packed=True)
    victim = tmp_path / "x" / "train-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:5000])
    with pytest.raises(InputError, match="fashion-mnist is missing or damaged"):
        load_splits(Task(dataset="fashion-mnist", data_dir=str(tmp_path / "x")), 0.25)
    victim.write_bytes(gzip.compress(bytes(2**26)))  # a few kilobytes that would be far more
    with pytest.raises(InputError, match="has more than 47,040,016 bytes in it"):
        load_splits(Task(dataset="fashion-mnist", data_dir=str(tmp_path / "x")), 0.25)


def write_cifar(
    folder: Path, dataset: Any, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """Write pickles as published and tell torchvision their checksums; return the test images."""
    rng = np.random.default_rng(0)
    label_key, meta_key = names
    base = folder / dataset.base_folder
    base.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    lists: dict[str, list[list[str]]] = {}
    for part in ("train_list", "test_list"):
        lists[part] = []
        for name, _ in getattr(dataset, part):
            data = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
            content = {"data": data, label_key: [i % 10 for i in range(20)]}
            lists[part].append(write(name, content))
    meta = write(dataset.meta["filename"], {meta_key: [str(i) for i in range(10)]})
    monkeypatch.setattr(dataset, "train_list", lists["train_list"])
    monkeypatch.setattr(dataset, "test_list", lists["test_list"])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": meta[1]})
    return data.reshape(20, 3, 32, 32)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    dataset = datasets.CIFAR100 if name == "cifar100" else datasets.CIFAR10
    keys = ("fine_labels", "fine_label_names") if name == "cifar100" else ("labels", "label_names")
    images = write_cifar(tmp_path, dataset, keys, monkeypatch)
    splits = load_splits(Task(dataset=name, data_dir=str(tmp_path)), 0.1)
    total = 20 if name == "cifar100" else 100
    assert [len(splits.train), len(splits.validation)] == [0.9 * total, 0.1 * total]
    assert splits.num_classes == (100 if name == "cifar100" else 10)
    ((batch, labels),) = evaluation_batches(splits.test, 64, "cpu")
    assert labels.tolist() == [i % 10 for i in range(20)]
    mean, std = (0.5071, 0.2673) if name == "cifar100" else (0.4914, 0.2470)
    np.testing.assert_allclose(batch[:, 0].numpy(), (images[:, 0] / 255 - mean) / std, atol=1e-4)

    next((tmp_path / dataset.base_folder).glob("test*")).write_bytes(b"not what was published")
    with pytest.raises(InputError, match=f"{name} is missing or damaged"):
        load_splits(Task(dataset=name, data_dir=str(tmp_path)), 0.1)


def test_cifar10_in_sheets(tmp_path: Path) -> None:
    """As npm's package has it; that its images are those of the original files, no test can say."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    sheets = {name: rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8) for name in names}
    for name, images in sheets.items():
        Image.fromarray(images.reshape(20, 1024, 3)).save(tmp_path / f"{name}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([i % 10 for i in range(100)]))
    (tmp_path / "test_lables.json").write_text(json.dumps([i % 10 for i in range(20)]))
    task = Task(dataset="cifar10", data_dir=str(tmp_path))
    splits = load_splits(task, 0.1)
    assert [len(splits.train), len(splits.validation)] == [90, 10]
    ((batch, labels),) = evaluation_batches(splits.test, 64, "cpu")
    assert labels.tolist() == [i % 10 for i in range(20)]
    expected = (sheets["test_batch"][..., 1] / 255 - 0.4822) / 0.2435
    np.testing.assert_allclose(batch[:, 1].numpy(), expected, atol=1e-4)
    assert splits.identity is not None
    assert splits.identity.classes[6] == "frog"

    (tmp_path / "test_lables.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"cifar10 is missing or damaged.*20 images, but 2 labels"):
        load_splits(task, 0.1)
    for labels, complaint in (
        ([10] * 20, "must have labels from 0 to 9, but got 10"),
        ([-1] * 20, "must have labels from 0 to 9, but got -1"),
        (["a"] * 20, "cifar10 is missing or damaged"),
        ([[1]] * 20, "labels: must be a whole number for each of 20 images, but got"),
        (20, "cifar10 is missing or damaged"),
    ):
        (tmp_path / "test_lables.json").write_text(json.dumps(labels))
        with pytest.raises(InputError, match=complaint):
            load_splits(task, 0.1)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(0)
    listed = dict(SVHN.split_list)
    for split in ("train", "test"):
        pixels = rng.integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
        labels = (np.arange(30) % 10 + 1).astype(np.uint8)[:, None]  # the files write 0 as 10
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": pixels, "y": labels})
        listed[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", listed)
    splits = load_splits(Task(dataset="svhn", data_dir=str(tmp_path), image_size=16), 0.2)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [24, 6, 30]
    ((batch, found),) = evaluation_batches(splits.test, 64, "cpu")
    assert batch.shape == (30, 3, 16, 16)
    assert found.tolist() == [(i + 1) % 10 for i in range(30)]


def write_classes(
    folder: Path, count: int, size: int, classes: tuple[str, ...] = ("a", "b")
) -> None:
    """Write ``count`` noisy images per class; the class shows in the red channel."""
    rng = np.random.default_rng(len(str(folder)))
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            pixels[:, :, 0] = 250 * index
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def red_shows_the_label(part: ImageSet) -> bool:
    return all(
        torch.equal((images[:, 0].mean((1, 2)) > 0).long(), labels)
        for images, labels in evaluation_batches(part, 8, "cpu")
    )


@pytest.mark.parametrize("public_layout", [True, False])
def test_tiny_imagenet(tmp_path: Path, public_layout: bool) -> None:
    root = tmp_path / "tiny-imagenet-200"
    write_classes(root / "train", 10, 64)
    write_classes(root / "val", 3, 64)
    if public_layout:
        lines = []
        (root / "val" / "images").mkdir()
        for path in sorted((root / "val").glob("?/*.png")):
            name = f"val_{path.parent.name}_{path.name}"
            path.rename(root / "val" / "images" / name)
            lines.append(f"{name}\t{path.parent.name}\t0\t0\t63\t63\n")
        (root / "val" / "val_annotations.txt").write_text("".join(lines))
    splits = load_splits(Task(dataset="tiny-imagenet", data_dir=str(tmp_path)), 0.2)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [16, 4, 6]
    assert splits.image_size == 64
    assert red_shows_the_label(splits.test)
    assert all("val" in file for file in splits.test.files)  # type: ignore[attr-defined]
    assert all("train" in file for file in splits.validation.files)  # type: ignore[attr-defined]
    images, _ = next(BatchStream(splits.train, 5, 0, "cpu").iterate())
    assert images.shape == (5, 3, 64, 64)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"train": 20}, (26, 6, 8)),
        ({"train": 10, "val": 3}, (16, 4, 6)),
        ({"train": 10, "test": 3}, (16, 4, 6)),
        ({"train": 10, "val": 3, "test": 2}, (20, 6, 4)),
    ],
)
def test_image_folder(tmp_path: Path, folders: dict[str, int], sizes: tuple[int, ...]) -> None:
    for name, count in folders.items():
        write_classes(tmp_path / name, count, 24)
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=16)
    splits = load_splits(task, 0.2)
    parts = (splits.train, splits.validation, splits.test)
    assert tuple(len(part) for part in parts) == sizes
    assert not rows(splits.validation) & rows(splits.test)
    assert red_shows_the_label(splits.test)
    images, _ = next(evaluation_batches(splits.test, 8, "cpu"))
    assert images.shape[1:] == (3, 16, 16)


def test_imagenet_validates_on_training_images(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 10, 24)
    write_classes(tmp_path / "val", 3, 24)
    task = Task(dataset="imagenet", data_dir=str(tmp_path), image_size=16)
    splits = load_splits(task, 0.2)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [16, 4, 6]


def test_classes_must_agree(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 3, 24)
    write_classes(tmp_path / "val", 3, 24, classes=("a", "c"))
    with pytest.raises(InputError, match="must have no class that train/ lacks, but has c"):
        load_splits(Task(dataset="imagefolder", data_dir=str(tmp_path)), 0.2)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_image_is_named(tmp_path: Path, workers: int) -> None:
    write_classes(tmp_path / "train", 6, 24)
    victim = tmp_path / "train" / "a" / "0.png"
    victim.write_bytes(b"no image")
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=16)
    splits = load_splits(task, 0.2, workers=workers)
    everything = (splits.train, splits.validation, splits.test)
    with pytest.raises(InputError) as error:
        [list(evaluation_batches(part, 8, "cpu")) for part in everything]
    assert str(error.value).startswith(f"{victim}: is not a readable image")
    assert str(error.value).endswith(")")  # nothing of a worker's traceback, nor its end of line


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_of_a_long_name_is_named(tmp_path: Path, workers: int) -> None:
    """Of a worker the message stands behind a traceback that has its name several times."""
    folder = tmp_path.joinpath(*["f" * 200] * 4)
    write_classes(folder / "train", 6, 24)
    victim = folder / "train" / "a" / "0.png"
    victim.write_bytes(b"no image")
    task = Task(dataset="imagefolder", data_dir=str(folder), image_size=16)
    splits = load_splits(task, 0.2, workers=workers)
    with pytest.raises(InputError, match="is not a readable image"):
        [
            list(evaluation_batches(part, 8, "cpu"))
            for part in (splits.train, splits.validation, splits.test)
        ]


@pytest.mark.parametrize("free", [0, 2**40])
def test_little_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Then batches take another way from the workers to this process, and are the same."""
    write_classes(tmp_path / "train", 6, 24)
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=16)
    alone, by_workers = (load_splits(task, 0.2, workers=workers).train for workers in (0, 2))
    expected = list(islice(BatchStream(alone, 4, 0, "cpu").iterate(), 3))

    shared: list[bool] = []

    def loader(*args: Any, **options: Any) -> Any:
        plain = DataLoader(*args, **options)
        shared.append(isinstance(next(iter(plain))[0], torch.Tensor))
        return plain

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr(reading, "DataLoader", loader)
    stream = BatchStream(by_workers, 4, 0, "cpu")
    next(stream.iterate())
    assert shared == [free > 0]
    monkeypatch.setattr(reading, "DataLoader", DataLoader)
    found = list(islice(stream.iterate(), 3))
    for (images, labels), (again, same) in zip(expected, found, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


# ---- Streams -------------------------------------------------------------------------------------


def test_views_are_of_one_image_each_distorted_in_its_own_way() -> None:
    """Six images of a batch are three twice; in four batches all ten are there."""
    stream = BatchStream(numbered(10), 6, 0, "cpu", views=2)
    assert (stream.batch_size, stream.batches_per_epoch) == (6, 4)
    seen = []
    for draw in islice(stream.draws(0), 4):
        one, other = draw.indices[::2], draw.indices[1::2]
        assert one.tolist() == other.tolist()
        seen += one.tolist()
    assert sorted(seen[:10]) == [*range(10)]
    assert [d.indices.tolist() for d in islice(stream.draws(2), 2)] == [
        d.indices.tolist() for d in islice(stream.draws(0), 2, 4)
    ]
    splits = load_splits(Task(train_limit=100), 0.25)
    images, labels = next(BatchStream(splits.train, 50, 0, "cpu", views=2).iterate())
    assert torch.equal(labels[::2], labels[1::2])
    assert (images[::2] != images[1::2]).flatten(1).any(1).float().mean() > 0.5
    few = BatchStream(numbered(3), 128, 0, "cpu", views=2)
    assert (few.batch_size, few.batches_per_epoch) == (6, 1)


def numbered(count: int, augmentation: ShiftAndFlip | None = None) -> MemoryImages:
    """Images whose label is their number and whose pixels are all different."""
    pixels = torch.arange(count * 16).remainder(251).view(count, 1, 4, 4).to(torch.uint8)
    return MemoryImages(pixels, np.arange(count), (0.0,), (1.0,), augmentation)


@pytest.fixture(params=["memory", "folder"])
def augmented(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSet:
    if request.param == "memory":
        return numbered(11, ShiftAndFlip(padding=1, flip=True))
    write_classes(tmp_path / "train", 10, 20)
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=16)
    train = load_splits(task, 0.4).train
    assert isinstance(train, FolderImages)
    return train


def test_a_batch_depends_on_seed_and_number_only(augmented: ImageSet) -> None:
    stream = BatchStream(augmented, 4, 5, "cpu")
    whole = list(islice(stream.iterate(), 8))
    torch.manual_seed(99)
    resumed = list(islice(stream.iterate(3), 5))
    for (images, labels), (again, same_labels) in zip(whole[3:], resumed, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same_labels)
    other = list(islice(BatchStream(augmented, 4, 6, "cpu").iterate(), 8))
    assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(whole, other, strict=True))


def test_streams_leave_the_global_generator_alone(augmented: ImageSet) -> None:
    before = torch.get_rng_state()
    next(BatchStream(augmented, 4, 5, "cpu").iterate())
    list(evaluation_batches(augmented, 4, "cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_pass_uses_every_image_in_a_new_order() -> None:
    stream = BatchStream(numbered(10), 4, 0, "cpu")
    assert stream.batches_per_epoch == 3
    labels = torch.cat([labels for _, labels in islice(stream.iterate(), 5)]).tolist()
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10))
    assert labels[:10] != labels[10:]


def test_batches_are_never_larger_than_the_set() -> None:
    images, labels = next(BatchStream(numbered(3), 128, 0, "cpu").iterate())
    assert len(images) == 3
    assert sorted(labels.tolist()) == [0, 1, 2]


def test_class_limited_order_by_hand() -> None:
    """Images 10 to 20, in batches of 3 of 2 classes, of 1, and so on."""
    labels = np.full(21, -1)
    labels[10:] = [0, 1, 0, 2, 2, 1, 0, 0, 0, 2, 0]
    #  in line:    14 2, 10 0, 15 1, 16 0, 13 2, 12 0, 19 2, 11 1, 17 0, 18 0, 20 0
    shuffled = np.array([14, 10, 15, 16, 13, 12, 19, 11, 17, 18, 20])

    def order(batch_size: int, classes: int, first: int = 0) -> list[int]:
        return class_limited_order(shuffled, labels, batch_size, classes, first).tolist()

    assert order(3, 2) == [
        *(14, 10, 16),  # classes 2 and 0; 15, of class 1, waits
        *(15, 13, 19),  # classes 1 and 2, and 12, of class 0, waits
        *(12, 11, 17),  # classes 0 and 1
        *(18, 20),
    ]
    assert order(3, 1) == [
        *(14, 13, 19),
        *(10, 16, 12),
        *(15, 11, 17),  # class 1 has no third image: the next in line is of class 0
        *(18, 20),
    ]
    assert order(3, 2, first=2) == [
        *(14, 10),
        *(15, 16, 12),  # classes 1 and 0
        *(13, 19, 11),  # classes 2 and 1: 13 is next in line, then 11 before 17
        *(17, 18, 20),
    ]
    assert order(3, 3) == order(3, 9) == order(20, 3) == shuffled.tolist()


def test_class_limited_passes_have_few_classes_and_every_image() -> None:
    """6 classes of 36 images in batches of 16, so that passes meet within batches."""
    images = torch.zeros(216, 1, 4, 4, dtype=torch.uint8)
    dataset = MemoryImages(images, np.arange(216) % 6, (0.0,), (1.0,))
    stream = BatchStream(dataset, 16, 1, "cpu", classes_per_batch=2, class_limited_passes=2)
    draws = [draw.indices for draw in islice(stream.draws(0), 54)]
    numbers = np.concatenate(draws)
    for start in (0, 216, 432, 648):
        assert np.array_equal(np.sort(numbers[start : start + 216]), np.arange(216))
    assert not np.array_equal(numbers[:216], numbers[216:432])
    classes = [len(set(dataset.labels[indices])) for indices in draws]
    assert classes[:8] == classes[14:22] == [2] * 8  # towards the end of a pass classes run out
    assert classes[13] <= 4  # half of it ends one pass, half begins the next
    assert min(classes[28:]) > 3
    unlimited = BatchStream(dataset, 16, 1, "cpu")
    assert np.array_equal(numbers[432:], np.array([*islice(numbers_of(unlimited), 432, 864)]))

    resumed = [draw.indices for draw in islice(stream.draws(9), 12)]
    assert all(np.array_equal(a, b) for a, b in zip(draws[9:], resumed, strict=False))
    always = BatchStream(dataset, 16, 1, "cpu", classes_per_batch=2)
    assert len(set(dataset.labels[next(always.draws(135)).indices])) == 2


def numbers_of(stream: BatchStream) -> Iterator[int]:
    return chain.from_iterable(draw.indices.tolist() for draw in stream.draws(0))


def test_class_limited_order_takes_linear_time() -> None:
    """No scan of what is left for every image that is taken."""
    labels = np.random.default_rng(0).integers(1000, size=200_000)
    started = time.process_time()  # 0.2 s; a clock on the wall also counts a machine that stands
    order = class_limited_order(np.arange(200_000), labels, 256, 40)
    assert time.process_time() - started < 10
    left = np.ones(200_000, dtype=bool)
    for start in range(0, 150_000, 256):
        batch = order[start : start + 256]
        assert batch[0] == left.argmax()  # the first in line
        assert len(set(labels[batch])) == 40
        left[batch] = False


def test_evaluation_uses_every_image_once_as_it_is(augmented: ImageSet) -> None:
    batches = list(evaluation_batches(augmented, 4, "cpu"))
    assert {len(labels) for _, labels in batches[:-1]} == {4}
    assert np.array_equal(np.concatenate([labels for _, labels in batches]), augmented.labels)
    plain = list(evaluation_batches(augmented.plain(), 4, "cpu"))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, plain, strict=True))
    stream, _ = next(BatchStream(augmented.plain(), 4, 0, "cpu").iterate())
    pixels = {image.numpy().tobytes() for images, _ in batches for image in images}
    assert all(image.numpy().tobytes() in pixels for image in stream)


def test_shift_and_flip_cut_windows_out_of_the_padded_image() -> None:
    """Each result is one of the 2 x 3 x 3 windows, and 400 draws meet all of them."""
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    padded = torch.nn.functional.pad(image, [1] * 4)
    windows = {
        tuple(window.flatten().tolist())
        for top in range(3)
        for left in range(3)
        for plain in [padded[:, top : top + 4, left : left + 4]]
        for window in (plain, plain.flip(-1))
    }
    rng = np.random.default_rng(0)
    seen = ShiftAndFlip(padding=1, flip=True)(image.repeat(400, 1, 1, 1), rng)
    assert {tuple(row) for row in seen.flatten(1).tolist()} == windows
    unflipped = ShiftAndFlip(padding=1, flip=False)(image.repeat(400, 1, 1, 1), rng)
    assert len({tuple(row) for row in unflipped.flatten(1).tolist()}) == 9


def test_splits_are_ready_to_use() -> None:
    splits = load_splits(Task(train_limit=100), 0.2)
    assert isinstance(splits, Splits)
    images, labels = next(BatchStream(splits.train, 16, 0, "cpu").iterate())
    assert images.shape == (16, 3, 32, 32)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
        RuntimeError("Caught RuntimeError in worker\nunable to allocate shared memory(shm)"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_worker_that_ends_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def loader(*args: Any, **options: Any) -> Iterator[Any]:
        raise error
        yield

    write_classes(tmp_path / "train", 6, 24)
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=16)
    images = load_splits(task, 0.2, workers=2).test
    monkeypatch.setattr(reading, "DataLoader", loader)
    with pytest.raises(SedonaError, match="fewer `workers` need less, 0 none") as caught:
        list(evaluation_batches(images, 8, "cpu"))
    assert "\n" not in str(caught.value)


# ---- Folders: what is used, and what is left out -------------------------------------------------


def contents_of(folder: Path, dataset: str = "imagefolder") -> Contents:
    task = Task(dataset=dataset, data_dir=str(folder), image_size=16)
    contents = load_splits(task, 0.2).contents
    assert contents is not None
    assert form_of(task) == (len(contents.classes), 16)  # what builds the network agrees
    return contents


def counts_of(contents: Contents) -> dict[str, int]:
    return {part: sum(counts) for part, counts in contents.counts.items()}


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("train", "valid", "test"), ("train/", "valid/", "test/")),
        (("train", "validation", "test"), ("train/", "validation/", "test/")),
        (("Training", "Validation", "Testing"), ("Training/", "Validation/", "Testing/")),
        (("train", "valid"), ("train/", "of train/", "valid/")),
    ],
)
def test_other_names_of_parts(
    tmp_path: Path, names: tuple[str, ...], sources: tuple[str, ...]
) -> None:
    for name in names:
        write_classes(tmp_path / name, 5, 16)
    contents = contents_of(tmp_path)
    assert tuple(contents.sources.values()) == sources
    expected = (10, 10, 10) if len(names) == 3 else (8, 2, 10)
    assert tuple(counts_of(contents).values()) == expected
    assert contents.left_out == ()
    assert len(contents.in_words()) == 1


def test_two_folders_for_a_part_are_refused(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        write_classes(tmp_path / name, 3, 16)
    with pytest.raises(InputError, match="must have one folder for the val part, but has val/ and"):
        contents_of(tmp_path)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 5, 16)
    write_classes(tmp_path / "test", 2, 16, classes=("a",))
    write_classes(tmp_path / "extra", 2, 16)
    train = tmp_path / "train"
    for name in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints"):
        (train / name).mkdir()
        shutil.copy(train / "a" / "0.png", train / name / "0-checkpoint.png")
    (train / "c").mkdir()
    (train / "c" / "notes.txt").touch()
    (train / "a" / "labels.csv").touch()
    (train / "b" / "labels.csv").touch()
    shutil.copy(train / "a" / "0.png", train / "b" / "._0.png")  # macOS writes no picture there
    Image.open(train / "a" / "0.png").save(train / "a" / "x.JFIF", format="JPEG")
    contents = contents_of(tmp_path)
    assert contents.classes == ("a", "b")
    assert counts_of(contents) == {"train": 9, "validation": 2, "test": 2}
    assert sorted(contents.left_out) == [
        "extra/",
        "no b in test/",
        "train/.ipynb_checkpoints/",
        "train/__MACOSX/",
        "train/a/.ipynb_checkpoints/",
        "train/a/labels.csv and 1 more .csv",
        "train/b/._0.png",
        "train/c/ (no picture)",
        "train/c/notes.txt",
    ]
    used, left_out = contents.in_words()
    assert used == (
        f"imagefolder in {tmp_path}: 2 classes (a, b); images: 9 train (train/), "
        "2 validate (of train/), 2 test (test/)"
    )
    assert left_out.startswith("left out: extra/; ")
    assert left_out.endswith("; and 3 more")


def test_links_in_circles_end(tmp_path: Path) -> None:
    """Followed blindly, these would be more paths than can be read."""
    write_classes(tmp_path / "train", 5, 16)
    for name in "ab":
        (tmp_path / "train" / name / "more").mkdir()
        for number, place in enumerate(("train", "train/a", "train/b", ".", "train/a/more")):
            (tmp_path / "train" / name / "more" / f"{number}").symlink_to(tmp_path / place)
    contents = contents_of(tmp_path)
    # Each class has the pictures of the other, too, once
    assert sum(counts_of(contents).values()) == 20
    assert "train/a/more/1/" in contents.left_out


def test_a_link_to_a_folder_of_pictures_is_followed(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 5, 16, classes=("a",))
    write_classes(tmp_path / "elsewhere", 5, 16, classes=("b",))
    (tmp_path / "train" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    assert contents_of(tmp_path).classes == ("a", "b")


def test_a_pipe_among_pictures_does_not_keep_waiting(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 5, 16)
    os.mkfifo(tmp_path / "train" / "a" / "x.png")
    task = Task(dataset="imagefolder", data_dir=str(tmp_path), on_bad_image="skip")
    contents = load_splits(task, 0.2).contents
    assert contents is not None
    assert sum(counts_of(contents).values()) == 10
    assert (
        "x.png is not a readable image (cannot be opened (is a pipe, a socket or"
        in contents.left_out[0]
    )


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "x.txt").touch()
    for read in (form_of, lambda task: load_splits(task, 0.2)):
        with pytest.raises(InputError, match="train has no picture in a folder of its class"):
            read(Task(dataset="imagefolder", data_dir=str(tmp_path)))


@pytest.mark.parametrize("inner", ["", "images"])
@pytest.mark.parametrize("images_folder", [True, False])
def test_tiny_imagenet_sorted_into_folders(tmp_path: Path, inner: str, images_folder: bool) -> None:
    """Scripts that sort leave the table, and some the empty folder, where they were."""
    write_classes(tmp_path / "train", 10, 64)
    write_classes(tmp_path / "val", 3, 64)
    lines = [f"val_{c}_{i}.JPEG\t{c}\t0\t0\t63\t63\n" for c in "ab" for i in range(3)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    if images_folder:
        (tmp_path / "val" / "images").mkdir()
    for name in "ab":
        if inner:
            shutil.move(tmp_path / "val" / name, tmp_path / "moved")
            shutil.move(tmp_path / "moved", tmp_path / "val" / name / inner)
    splits = load_splits(Task(dataset="tiny-imagenet", data_dir=str(tmp_path)), 0.2)
    assert len(splits.test) == 6
    assert red_shows_the_label(splits.test)
    assert "val/val_annotations.txt" in contents_of(tmp_path, "tiny-imagenet").left_out


def test_tiny_imagenet_that_lacks_pictures(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", 10, 64)
    write_classes(tmp_path / "val", 3, 64)
    (tmp_path / "val" / "images").mkdir()
    shutil.move(tmp_path / "val" / "a" / "0.png", tmp_path / "val" / "images" / "0.png")
    table = "0.png\ta\t0\t0\t63\t63\n1.png\ta\t0\t0\t63\t63\n"
    (tmp_path / "val" / "val_annotations.txt").write_text(table)
    with pytest.raises(InputError, match=r"images lacks 1\.png, which .*annotations\.txt names"):
        contents_of(tmp_path, "tiny-imagenet")
