"""Pictures in tables of Hugging Face's library, written here with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sedona_nni.data.batches import BatchStream, FolderImages, evaluation_batches
from sedona_nni.data.picture import read_picture
from sedona_nni.data.sets import Splits, form_of, load_splits
from sedona_nni.errors import InputError
from sedona_nni.task import Task

datasets = pytest.importorskip("datasets", reason="the extra tables is not installed")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def table(count: int, names: tuple[str, ...] = ("cat", "dog"), first: int = 0) -> Any:
    """Pictures whose red is 100 for cats and 200 for dogs."""
    rows = [
        {
            "picture": Image.new("RGB", (30, 20), (100 + number % 2 * 100, 0, first + number)),
            "kind": number % 2,
            "name": str(number),
        }
        for number in range(count)
    ]
    features = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=list(names)),
        "name": datasets.Value("string"),
    }
    return datasets.Dataset.from_list(rows, features=datasets.Features(features))


def write(folder: Path, form: str, splits: dict[str, Any]) -> None:
    if form == "parquet":
        folder.mkdir()
        for name, rows in splits.items():
            rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    else:
        datasets.DatasetDict(splits).save_to_disk(folder)


def load(folder: Path, workers: int = 0, **more: Any) -> Splits:
    task = Task(dataset="huggingface", data_dir=str(folder), image_size=(16, 24), **more)
    splits = load_splits(task, 0.2, workers=workers)
    assert form_of(task) == (splits.num_classes, (16, 24))
    return splits


@pytest.mark.parametrize("form", ["disk", "parquet"])
@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_read_like_folders(tmp_path: Path, form: str, workers: int) -> None:
    rows = {"train": table(20), "validation": table(6, first=50), "test": table(4, first=90)}
    write(tmp_path / "set", form, rows)
    splits = load(tmp_path / "set", workers)
    assert splits.contents is not None
    assert splits.contents.in_words() == [
        f"huggingface in {tmp_path}/set: 2 classes (cat, dog); images: 20 train (train), "
        "6 validate (validation), 4 test (test)"
    ]
    for images, labels in evaluation_batches(splits.test, 4, "cpu"):
        assert images.shape == (4, 3, 16, 24)
        assert torch.equal((images[:, 0].mean((1, 2)) > 0.5).long(), labels)
    alone = load(tmp_path / "set")
    for (images, labels), (again, same) in zip(
        islice(BatchStream(splits.train, 8, 0, "cpu").iterate(), 3),
        islice(BatchStream(alone.train, 8, 0, "cpu").iterate(), 3),
        strict=True,
    ):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)


def test_a_single_table_is_what_is_learned_from(tmp_path: Path) -> None:
    table(40).save_to_disk(tmp_path / "set")
    splits = load(tmp_path / "set")
    seen = []
    for part, count in ((splits.train, 26), (splits.validation, 6), (splits.test, 8)):
        assert isinstance(part, FolderImages)
        assert len(part) == len(part.files) == count
        for number, label in enumerate(part.labels):
            red, _, blue = read_picture(part.files[number]).getpixel((0, 0))  # type: ignore[misc]
            assert red == 100 + 100 * label
            seen.append(blue)
    assert sorted(seen) == list(range(40))


def test_the_fingerprint_is_that_of_the_pictures(tmp_path: Path) -> None:
    def fingerprint(name: str, form: str, **rows: Any) -> str:
        write(tmp_path / name, form, {"train": table(20), **rows})
        identity = load(tmp_path / name).identity
        assert identity is not None
        return identity.fingerprint

    first = fingerprint("one", "disk", test=table(4))
    assert fingerprint("two", "parquet", test=table(4)) == first
    assert fingerprint("three", "disk", test=table(4, first=1)) != first
    assert fingerprint("four", "disk", valid=table(4)) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_one_is_named_by_its_row(tmp_path: Path, workers: int) -> None:
    rows = [{"image": {"bytes": b"no image", "path": None}, "label": n % 2} for n in range(20)]
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    bad = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    bad.save_to_disk(tmp_path / "set")
    test = load(tmp_path / "set", workers).test
    with pytest.raises(InputError) as error:
        list(evaluation_batches(test, 4, "cpu"))
    assert str(error.value).startswith(f"{tmp_path}/set/train, row ")
    assert "is not a readable image" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="on_bad_image: must be fail for a data set whose images"):
        load(tmp_path / "set", on_bad_image="skip")


def two_pictures() -> Any:
    more = table(20).select_columns(["picture"]).rename_column("picture", "more")
    return datasets.concatenate_datasets([table(20), more], axis=1)


@pytest.mark.parametrize(
    ("splits", "complaint"),
    [
        (
            lambda: {"test": table(20)},
            r"\(no split is called train\). To get it: save it there with",
        ),
        (
            lambda: {"train": table(20).remove_columns("kind")},
            r"train of .* must have one column of type ClassLabel, but got \[\]",
        ),
        (
            lambda: {"train": two_pictures()},
            r"must have one column of type Image, but got \['picture', 'more'\]",
        ),
        (
            lambda: {"train": table(20), "test": table(4, names=("dog", "cat"))},
            "must have the same classes in all its splits",
        ),
        (
            lambda: {"train": table(20), "val": table(4), "valid": table(4)},
            "one val part, but has val and",
        ),
        (
            lambda: {"train": table(20), "test": table(4).map(lambda row: {**row, "kind": -1})},
            "test of .* must have a class in every row",
        ),
    ],
)
def test_what_cannot_be_used(
    tmp_path: Path, splits: Callable[[], dict[str, Any]], complaint: str
) -> None:
    write(tmp_path / "set", "disk", splits())
    with pytest.raises(InputError, match=complaint) as error:
        load(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_no_tables_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no dataset_dict.json, state.json or \*.parquet"):
        load(tmp_path)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"huggingface needs Hugging Face datasets: pip install "):
        load(tmp_path)


def test_other_splits_are_told(tmp_path: Path) -> None:
    write(tmp_path / "set", "disk", {"train": table(20), "unlabelled": table(3)})
    contents = load(tmp_path / "set").contents
    assert contents is not None
    assert contents.left_out == ("unlabelled",)
    assert np.array(contents.counts["test"]).sum() == 4
