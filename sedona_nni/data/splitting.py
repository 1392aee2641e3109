"""How images are divided into parts: class by class, at random, from a seed."""

from __future__ import annotations

import numpy as np

from sedona_nni.data.batches import ImageSet

__all__ = ["hold_out_test", "stratified"]

_FIXED_TEST_FRACTION = 0.2


def stratified(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Pick ``count`` images at random, from each class its share rounded up or down.

    The images are shuffled and lined up class by class; then every N/count-th is taken.
    """
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    places = (np.arange(count) + 0.5) * len(labels) / max(count, 1)
    return np.sort(order[places.astype(np.int64)])


def hold_out_test(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split a set that has no test part; the fixed seed makes it part of the set's definition."""
    test = stratified(
        images.labels, int(_FIXED_TEST_FRACTION * len(images)), np.random.default_rng(0)
    )
    rest = np.setdiff1d(np.arange(len(images)), test)
    return images.subset(rest), images.subset(test)
