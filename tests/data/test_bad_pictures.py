"""Pictures that cannot be read: named, or left out before anything is learned."""

from __future__ import annotations

import gc
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from sedona_nni.data import picture
from sedona_nni.data.batches import FolderImages, evaluation_batches
from sedona_nni.data.dataset import DATASETS, ImageParts, register_dataset
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.task import Task


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of two classes each to learn from, and three to test."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 3)):
        for name in "ab":
            (tmp_path / "set" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "set" / part / name / f"{number}.jpg")
    return tmp_path / "set"


def cut_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-60])
    return path


def load(
    folder: Path, *, workers: int = 0, on_bad_image: str = "skip", dataset: str = "imagefolder"
) -> Splits:
    task = {"dataset": dataset, "data_dir": str(folder), "image_size": [16, 24]}
    return load_splits(
        Task.model_validate(task | {"on_bad_image": on_bad_image}), 0.2, workers=workers
    )


def files(splits: Splits) -> dict[str, list[str]]:
    found = {}
    for name in ("train", "validation", "test"):
        part = getattr(splits, name)
        assert isinstance(part, FolderImages)
        assert all(
            f"/{'ab'[label]}/" in file for file, label in zip(part.files, part.labels, strict=True)
        )
        found[name] = part.files.tolist()
    return found


def fingerprint(splits: Splits) -> str:
    assert splits.identity is not None
    return splits.identity.fingerprint


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_they_are_left_out_and_told(folder: Path, workers: int) -> None:
    bad = [cut_off(folder / "train" / "a" / f"{number}.jpg") for number in (1, 2, 5)]
    (folder / "test" / "b" / "0.jpg").write_bytes(b"no image")
    Image.new("F", (3, 2)).save(folder / "train" / "b" / "float.tif")
    splits = load(folder, workers=workers)
    found = files(splits)
    assert {name: len(paths) for name, paths in found.items()} == {
        "train": 14,
        "validation": 3,
        "test": 5,
    }
    assert not {str(path) for path in bad} & {*found["train"], *found["validation"]}
    for part in (splits.train, splits.validation, splits.test):
        for images, _ in evaluation_batches(part, 8, "cpu"):
            assert images.shape[1:] == (3, 16, 24)
    assert splits.contents is not None
    assert splits.contents.counts["test"] == (3, 2)
    (told,) = splits.contents.left_out
    assert told.startswith(
        f"5 pictures that cannot be read: {folder}/test/b/0.jpg is not a readable image (cannot "
        f"identify image file '{folder}/test/b/0.jpg'), {bad[0]} is not a readable image (image "
        "file is truncated"
    )
    assert told.endswith(" and 2 more")
    assert told in splits.contents.in_words()[1]


def test_what_was_found_is_kept_until_a_file_changes(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = folder / "train" / "a" / "3.jpg"
    whole = victim.read_bytes()
    cut_off(victim)
    first = load(folder)
    (kept,) = (cache / "sedona-nni" / "pictures").iterdir()
    (why,) = json.loads(kept.read_text()).values()
    assert "truncated" in why
    read: list[str] = []
    real = picture.read_picture

    def counted(path: str) -> Image.Image:
        read.append(path)
        return real(path)

    monkeypatch.setattr(picture, "read_picture", counted)
    assert files(load(folder)) == files(first)
    assert read == []
    for damaged in ("{", "null", '{"0": null}'):  # as if it were not there
        read.clear()
        kept.write_text(damaged)
        assert files(load(folder)) == files(first)
        assert len(read) == 26
    victim.write_bytes(whole)
    mended = load(folder)
    assert len(read) == 52
    assert str(victim) in {*files(mended)["train"], *files(mended)["validation"]}
    assert mended.contents is not None
    assert mended.contents.left_out == ()


def test_where_nothing_can_be_kept(folder: Path, cache: Path) -> None:
    cache.write_text("a file")
    cut_off(folder / "train" / "a" / "3.jpg")
    assert len(files(load(folder))["test"]) == 6


def test_the_fingerprint_says_what_is_left_out(folder: Path) -> None:
    everything = fingerprint(load(folder, on_bad_image="fail"))
    assert fingerprint(load(folder)) == everything
    cut_off(folder / "train" / "a" / "3.jpg")
    damaged = load(folder)
    whole = fingerprint(load(folder, on_bad_image="fail"))
    assert len({fingerprint(damaged), everything, whole}) == 3
    assert damaged.identity is not None
    again = load(folder).identity
    assert again is not None
    again.check_same(damaged.identity, "a run")
    cut_off(folder / "train" / "b" / "3.jpg")
    other = load(folder).identity
    assert other is not None
    with pytest.raises(InputError, match="the images must be those that a run began with"):
        other.check_same(damaged.identity, "a run")


def test_the_fixed_test_part_loses_what_is_bad_alone(folder: Path) -> None:
    for path in (folder / "test").rglob("*.jpg"):
        path.unlink()
    for path in [*(folder / "test").iterdir(), folder / "test"]:
        path.rmdir()
    before = files(load(folder))["test"]
    cut_off(Path(before[1]))
    assert files(load(folder))["test"] == [before[0], *before[2:]]


def test_a_class_has_to_keep_a_picture(folder: Path) -> None:
    for number in range(10):
        (folder / "train" / "b" / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(InputError) as error:
        load(folder)
    assert str(error.value).startswith(
        "on_bad_image: class b must have a picture to learn from, but none of 10 can be read: "
        f"{folder}/train/b/0.jpg is not a readable image"
    )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
@pytest.mark.parametrize("workers", [0, 2])
def test_one_that_is_damaged_later_is_named(folder: Path, workers: int, on_bad_image: str) -> None:
    splits = load(folder, workers=workers, on_bad_image=on_bad_image)
    assert isinstance(splits.test, FolderImages)
    victim = cut_off(Path(splits.test.files[4]))
    with pytest.raises(InputError) as error:
        list(evaluation_batches(splits.test, 2, "cpu"))
    assert str(error.value).startswith(f"{victim}: is not a readable image (image file is trunc")
    assert "\n" not in str(error.value)


def test_processes_that_read_are_gone_with_their_error(folder: Path) -> None:
    """At once: their queues are not left to the garbage collector, which closes some twice."""
    splits = load(folder, workers=2)
    assert isinstance(splits.test, FolderImages)
    cut_off(Path(splits.test.files[4]))
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(InputError):
            list(evaluation_batches(splits.test, 2, "cpu"))
        assert multiprocessing.active_children() == []
    finally:
        gc.enable()


@pytest.mark.parametrize("workers", [0, 2])
def test_one_that_may_not_be_read_is_not_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def refuse(path: str) -> Image.Image:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError) as error:
        load(folder, workers=workers)
    assert str(error.value).startswith(f"{folder}/test/a/0.jpg: is not a readable image ([Errno 13")
    assert "\n" not in str(error.value)


def test_one_that_is_nowhere_is_not_left_out(folder: Path) -> None:
    (folder / "train" / "a" / "link.jpg").symlink_to(folder / "nowhere.jpg")
    with pytest.raises(InputError, match=r"a/link\.jpg: cannot be read"):
        load(folder)


def test_images_in_memory_cannot_be_left_out() -> None:
    with pytest.raises(InputError, match="on_bad_image: must be fail for a data set whose images"):
        load_splits(Task(on_bad_image="skip"), 0.2)


@pytest.fixture
def registered(folder: Path) -> Iterator[str]:
    @register_dataset("own-pictures", about="", size=8, num_classes=2, files="{folder}")
    def own(task: Task, size: ImageSize) -> ImageParts:
        paths = sorted(map(str, (folder / "train").rglob("*.jpg")))
        images = FolderImages(
            np.array(paths),
            np.array(["/b/" in path for path in paths], dtype=np.int64),
            (0.0,) * 3,
            (1.0,) * 3,
            v2.Compose([v2.Resize((16, 24)), v2.PILToTensor()]),
        )
        return ImageParts(images, ("a", "b"))

    yield "own-pictures"
    DATASETS.remove("own-pictures")


def test_those_of_a_registered_set(folder: Path, registered: str) -> None:
    victim = str(cut_off(folder / "train" / "a" / "3.jpg"))
    found = files(load(folder, dataset=registered))
    assert victim not in [path for paths in found.values() for path in paths]
    assert sum(map(len, found.values())) == 19


def test_batches_do_not_depend_on_the_number_of_workers(folder: Path) -> None:
    cut_off(folder / "train" / "a" / "3.jpg")
    alone, two = (load(folder, workers=workers) for workers in (0, 2))
    for (images, labels), (again, same) in zip(
        evaluation_batches(alone.train, 4, "cpu"),
        evaluation_batches(two.train, 4, "cpu"),
        strict=True,
    ):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
