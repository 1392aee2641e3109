"""Data sets that a user registers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from documented import run_example
from PIL import Image
from torchvision.transforms import v2

from sedona_nni.data.batches import Batch, FolderImages, ImageSet
from sedona_nni.data.dataset import DATASETS, ImageParts, data_folder, register_dataset
from sedona_nni.data.sets import (
    evaluation_batches,
    find_contents,
    form_of,
    load_splits,
)
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.task import Task


class TestImagesInMemory:
    """A set that is made, or read at once."""

    @pytest.fixture(autouse=True)
    def _registered(self) -> Iterator[None]:
        run_example(register_dataset)
        yield
        DATASETS.remove("stripes")

    def test_the_documented_example_works(self) -> None:
        splits = load_splits(Task(dataset="stripes"), 0.25)
        assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [
            *(240, 80, 80)
        ]
        assert (splits.num_classes, splits.image_size) == (2, 8)
        assert form_of(Task(dataset="stripes", image_size=16)) == (2, 16)
        images, labels = next(evaluation_batches(splits.test, 80, "cpu"))
        # lying stripes are the same all along a row, standing ones all along a column
        for direction, label in ((3, 0), (2, 1)):
            assert (images[labels == label].std(dim=direction) < 1e-5).all()
        assert splits.contents is not None
        assert splits.contents.in_words() == [
            "stripes: 2 classes (lying, standing); images: 240 train (its images), "
            "80 validate (of its images), 80 test (a fixed fifth of them)"
        ]

    def test_it_is_listed_as_what_needs_no_folder(self) -> None:
        found = find_contents("stripes", None, must_be_there=True)
        assert found.is_there
        assert found.in_words()[0] == (
            "stripes: lying and standing stripes, by default 8 x 8 pixels; is there"
        )

    def test_its_fingerprint_is_that_of_its_images(self) -> None:
        def fingerprint(size: int) -> str:
            splits = load_splits(Task(dataset="stripes", image_size=size, split_seed=size), 0.25)
            assert splits.identity is not None
            return splits.identity.fingerprint

        assert fingerprint(8) == fingerprint(8) != fingerprint(16)
        same = load_splits(Task(dataset="stripes", split_seed=3), 0.25).identity
        assert same is not None
        assert same.fingerprint == fingerprint(8)

    def test_its_name_is_taken_then(self) -> None:
        register = register_dataset("stripes", about="", size=8, num_classes=2)
        with pytest.raises(InputError, match="dataset: must have a name that is not taken"):
            register(DATASETS["stripes"].read)


class TestPicturesOfOnesOwn:
    """A set whose images stay in their files."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> np.ndarray:
        paths = [tmp_path / f"{number}.png" for number in range(20)]
        for number, path in enumerate(paths):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        return np.array([str(path) for path in paths])

    @pytest.fixture(autouse=True)
    def _registered(self, files: np.ndarray) -> Iterator[None]:
        @register_dataset("pictures", about="", size=8, num_classes=2, files="{folder}/*.png")
        def pictures(task: Task, size: ImageSize) -> ImageParts:
            labels, statistics = np.arange(20) % 2, {"mean": (0.0,) * 3, "std": (1.0,) * 3}
            images = FolderImages(files, labels, preprocessing=v2.PILToTensor(), **statistics)
            pool, test = images.subset(np.arange(16)), images.subset(np.arange(16, 20))
            return ImageParts(pool, ("even", "odd"), test)

        yield
        DATASETS.remove("pictures")

    def test_they_need_a_folder(self) -> None:
        task = Task(dataset="pictures")
        with pytest.raises(InputError, match="data_dir: must name the folder that holds pictures"):
            data_folder(task)
        found = find_contents("pictures", None, must_be_there=False)
        assert "needs a data_dir" in found.in_words()[0]

    def test_their_fingerprint_is_that_of_the_files(self, files: np.ndarray) -> None:
        def fingerprint() -> str:
            splits = load_splits(Task(dataset="pictures", data_dir="anywhere"), 0.25)
            assert splits.identity is not None
            assert splits.contents is not None
            assert splits.contents.folder == "anywhere"
            return splits.identity.fingerprint

        before = fingerprint()
        assert fingerprint() == before
        Image.new("RGB", (8, 8), (0, 200, 0)).save(files[17])  # of the test part
        assert fingerprint() != before

    def test_images_of_another_kind_come_with_theirs(self) -> None:
        read = DATASETS["pictures"].read

        @register_dataset("others", about="", size=8, num_classes=2)
        def others(task: Task, size: ImageSize) -> ImageParts:
            parts = read(task, size)
            return replace(parts, validation=_Another(parts.test))

        try:
            splits = load_splits(Task(dataset="others"), 0.25)
            with pytest.raises(InputError, match="must come with a fingerprint"):
                _ = splits.identity
        finally:
            DATASETS.remove("others")


class _Another(ImageSet):
    """Not of a kind that this project has."""

    def __init__(self, images: ImageSet | None) -> None:
        assert images is not None
        self.labels, self.mean, self.std = images.labels, images.mean, images.std

    def subset(self, indices: np.ndarray) -> _Another:
        raise AssertionError

    def plain(self) -> _Another:
        return self

    def _with_recipe(self, recipe: object) -> _Another:
        raise AssertionError

    def batches(self, draws: object, device: object) -> Iterator[Batch]:
        raise AssertionError
