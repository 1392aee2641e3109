"""Images in memory brought to the size of a task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sedona_nni.errors import InputError
from sedona_nni.free_memory import available_bytes
from sedona_nni.image_size import ImageSize, height_and_width, size_in_words

__all__ = ["AT_ONCE", "resized"]

AT_ONCE = 2**27
"""Bytes of what is computed in floats at a time."""


def resized(images: Tensor, size: ImageSize) -> Tensor:
    """Bring images to bytes of a size, bilinearly, a few at a time.

    Args:
        images: Of any kind, shape (N, C, h, w), 0 is black and 255 white.
        size: Wanted, pixels.

    Returns:
        uint8, shape (N, C, height, width); those given, if there is nothing to do.

    Raises:
        InputError: if they take more memory than there is.
    """
    own, wanted = tuple(images.shape[-2:]), height_and_width(size)
    if own == wanted and images.dtype == torch.uint8:
        return images
    count, channels = images.shape[:2]
    bytes_of_one = channels * wanted[0] * wanted[1]
    needed, left = count * bytes_of_one, available_bytes(torch.device("cpu"))
    if left is not None and needed > left:
        rule = (
            f"must be such that {count:,} images fit into memory: they take {needed >> 20:,} MiB, "
            f"and {left >> 20:,} MiB are left"
        )
        raise InputError.rule("image_size", rule, size_in_words(size))
    shrinks = any(new < old for new, old in zip(wanted, own, strict=True))
    found = torch.empty(count, channels, *wanted, dtype=torch.uint8)
    for place, some in zip(
        *(x.split(max(1, AT_ONCE // (4 * bytes_of_one))) for x in (found, images)), strict=True
    ):
        floats = some.float()
        if own != wanted:
            floats = F.interpolate(floats, size=wanted, mode="bilinear", antialias=shrinks)
        place.copy_(floats.round().clamp_(0, 255))
    return found
