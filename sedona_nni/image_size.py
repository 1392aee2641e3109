"""Height and width of images: one number where they are equal, else both."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from sedona_nni.errors import InputError

__all__ = ["ImageSize", "ImageSizeField", "height_and_width", "parse_image_size", "size_in_words"]

ImageSize = int | tuple[int, int]
"""Pixels: height and width in one, or both in this order."""

_MOST = 16_384  # a picture of that has 768 MiB
_RULE = f"must be pixels like 32, or height and width like 48x64, at most {_MOST:,}"
_Pixels = Annotated[int, Field(ge=8, le=_MOST)]


def _shortest(size: ImageSize) -> ImageSize:
    height, width = height_and_width(size)
    return height if height == width else (height, width)


def _in_one_line(value: Any, read: ValidatorFunctionWrapHandler) -> ImageSize:
    """Complain once, where pydantic has a complaint of each of the two forms."""
    try:
        return _shortest(read(value))
    except ValidationError:
        rule = f"must be pixels, 8 to {_MOST:,}, as in 32, or height and width as in [48, 64]"
        raise ValueError(f"{rule}, but got {value!r}") from None


ImageSizeField = Annotated[_Pixels | tuple[_Pixels, _Pixels], WrapValidator(_in_one_line)]
"""That of a setting, 8 to 16,384 pixels; a pair of equal numbers becomes one."""


def height_and_width(size: ImageSize) -> tuple[int, int]:
    """Return both, pixels.

    Examples:
        >>> from sedona_nni.image_size import height_and_width
        >>> height_and_width(32), height_and_width((48, 64))
        ((32, 32), (48, 64))
    """
    return (size, size) if isinstance(size, int) else size


def size_in_words(size: ImageSize) -> str:
    """Return e.g. ``"48 x 64"``."""
    return " x ".join(map(str, height_and_width(size)))


def parse_image_size(text: str, field: str = "image_size") -> ImageSize:
    """Read ``"32"`` or ``"48x64"``, height first.

    Raises:
        InputError: if it is neither, or a number is below 1 or above 16,384.

    Examples:
        >>> from sedona_nni.image_size import parse_image_size
        >>> parse_image_size("48x64")
        (48, 64)
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(map(_is_pixels, parts)):
        raise InputError.rule(field, _RULE, text)
    return _shortest(tuple(map(int, (parts * 2)[:2])))  # type: ignore[arg-type]


def _is_pixels(text: str) -> bool:
    digits = text.strip()
    # Of very many digits Python itself makes no number
    return digits.isdecimal() and len(digits) <= len(str(_MOST)) and 1 <= int(digits) <= _MOST
