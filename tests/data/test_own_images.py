"""Images of one's own, in memory: what they must be, and how they come to a size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sedona_nni.data import resizing, sets
from sedona_nni.data.batches import MemoryImages, evaluation_batches
from sedona_nni.data.resizing import resized
from sedona_nni.data.sets import DATASETS, Splits, load_splits
from sedona_nni.errors import InputError
from sedona_nni.task import Task

BYTES = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
LABELS = np.arange(40) % 4


def images(**changes: Any) -> MemoryImages:
    return MemoryImages(
        **{"images": BYTES, "labels": LABELS, "mean": (0.5,), "std": (0.3,)} | changes
    )


@pytest.mark.parametrize(
    "labels",
    [LABELS.astype(np.int32), LABELS.astype(np.uint8), LABELS.tolist(), torch.arange(40) % 4],
)
def test_labels_are_whole_numbers_of_any_kind(labels: Any) -> None:
    found = images(labels=labels).labels
    assert found.dtype == np.int64
    assert found.tolist() == LABELS.tolist()


def test_grey_images_may_be_normalised_for_three_channels() -> None:
    """As a network wants that has learned from coloured ones."""
    grey = images(images=BYTES[:, :1], mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    ((batch, _),) = evaluation_batches(grey, 64, "cpu")
    assert batch[0, :, 0, 0].tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )
    assert images(mean=0.5, std=[0.3]).mean == (0.5,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": BYTES.float()},
            "images: must be a tensor of bytes, uint8, but got torch.float",
        ),
        ({"images": BYTES.numpy()}, "images: must be a tensor of bytes, uint8, but got dtype"),
        (
            {"images": BYTES[:, 0]},
            r"images: must have the shape \(N, C, H, W\), C = 1 or 3, but got",
        ),
        ({"images": BYTES[:, :2]}, "C = 1 or 3, but got"),
        ({"labels": np.arange(50) % 4}, "labels: must be a whole number for each of 40 images"),
        ({"labels": LABELS / 2}, "labels: must be a whole number for each of 40 images"),
        ({"std": (0.0,)}, "std: must be above 0"),
        ({"mean": (0.1, 0.2)}, "mean: must be 1 or 3 numbers"),
        ({"std": ("a",)}, "std: must be 1 or 3 numbers"),
    ],
)
def test_what_they_must_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        images(**changes)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"labels": LABELS + 1}, "validation.labels: must be from 0 to 3, but got 4"),
        ({"labels": LABELS - 1}, "validation.labels: must be from 0 to 3, but got -1"),
        ({"images": BYTES[:0], "labels": LABELS[:0]}, "validation: must have images, but got 0"),
    ],
)
def test_parts_have_images_of_the_classes(part: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Splits(images(), images(**part), images(), num_classes=4, image_size=8)
    assert str(caught.value) == message


@pytest.mark.parametrize("size", [8, 16, (12, 5), 24])
@pytest.mark.parametrize("layout", ["as they are", "channels last"])
def test_a_few_at_a_time_is_the_same(
    size: Any, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the rounding of what lies at a half, which may depend on how many there are."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (10, 3, 16, 16), generator=generator, dtype=torch.uint8)
    if layout == "channels last":
        pixels = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    whole = resized(pixels, size)
    shape = (size, size) if isinstance(size, int) else size
    shrinks = shape != (24, 24)
    exact = F.interpolate(pixels.double(), size=shape, mode="bilinear", antialias=shrinks)
    assert (whole.double() - exact.clamp(0, 255)).abs().max() <= 0.5 + 1e-3
    monkeypatch.setattr(resizing, "AT_ONCE", 4 * 3 * 3 * shape[0] * shape[1])
    assert (resized(pixels, size).int() - whole.int()).abs().max() <= 1


def test_only_what_is_used_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a set that comes as it is published; what a reader of one's own returns stays as it is."""
    seen: list[int] = []

    def noted(given: torch.Tensor, size: Any) -> torch.Tensor:
        seen.append(len(given))
        return resized(given, size)

    monkeypatch.setattr("sedona_nni.data.batches.resized", noted)
    for as_published, expected in ((False, []), (True, [80, 20, 359])):
        digits = replace(DATASETS["digits"], as_published=as_published)
        monkeypatch.setattr(sets, "DATASETS", {"digits": digits})
        assert len(load_splits(Task(train_limit=100), 0.2).train) == 80
        assert seen == expected
    assert all(DATASETS[name].as_published for name in ("fashion-mnist", "cifar10", "svhn"))


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "available_bytes", lambda device: 2**20)
    with pytest.raises(InputError) as caught:
        load_splits(Task(image_size=64), 0.2)
    assert str(caught.value) == (
        "image_size: must be such that 1,797 images fit into memory: they take 7 MiB, and 1 MiB "
        "are left, but got '64 x 64'"
    )
    monkeypatch.setattr(resizing, "available_bytes", lambda device: None)
    assert load_splits(Task(image_size=64), 0.2).image_size == 64
