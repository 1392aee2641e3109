"""Images for suites: no two are alike, whatever part they are in."""

from __future__ import annotations

import numpy as np
import torch

from sedona_nni.data.batches import MemoryImages
from sedona_nni.testing.images import made_up_splits


def test_no_image_is_in_two_parts() -> None:
    splits = made_up_splits()
    parts = [splits.train, splits.validation, splits.test]
    assert all(isinstance(part, MemoryImages) for part in parts)
    images = torch.cat([part.images for part in parts if isinstance(part, MemoryImages)])
    assert len(images) == 48 + 24 + 24
    assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_they_can_be_told_apart() -> None:
    """By which band is bright."""
    splits = made_up_splits(size=8, num_classes=4)
    for part in (splits.train, splits.validation, splits.test):
        assert isinstance(part, MemoryImages)
        bands = part.images.float().mean(dim=(1, 3)).unflatten(1, (4, 2)).mean(2)
        np.testing.assert_array_equal(bands.argmax(1).numpy(), part.labels)


def test_a_seed_decides_them() -> None:
    one, again, other = (made_up_splits(seed=seed).train for seed in (1, 1, 2))
    pixels = [part.images for part in (one, again, other) if isinstance(part, MemoryImages)]
    assert torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[0], pixels[2])
