"""A picture file as red, green and blue: what is converted, how, and what is refused.

| what the file holds | what becomes of it |
|---|---|
| 8-bit colour, grey, black and white, or palette | the same colours |
| 16-bit grey (PNG, TIFF, PGM) | value / 257, rounded: 0 is black, 65,535 white |
| 12-bit grey (TIFF) | 0 is black, 4,095 white |
| 16-bit colour | the upper 8 bits of each value |
| CMYK, YCbCr, HSV | red, green and blue by Pillow's formula, without a colour profile |
| transparency of any kind | laid on white |
| an orientation that the camera noted (EXIF) | turned upright |
| a picture with a preview or other views in it (MPO, PSD, icons) | the main picture |
| 32-bit or floating-point grey | refused: nothing says which value is white |
| Lab | refused: Pillow does not convert it |
| several frames or pages (GIF, APNG, WebP, AVIF, TIFF) | refused: one of them would stand for all |
| what cannot be decoded, is cut off, or has very many pixels | refused |

A refusal names the file. `sedona_nni.data.bad_pictures` leaves out what is refused, where that is
wanted; a file that the system does not let be read is not among that.
"""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sedona_nni.errors import InputError
from sedona_nni.files import check_regular

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["BadPicture", "StoredPicture", "picture_suffixes", "read_picture"]

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262  # tags of EXIF and TIFF
_ONE_PICTURE_OF_SEVERAL = ("MPO", "PSD")  # previews and layers; the first is the whole picture
# No pictures, or such that Pillow decodes by another program or not at all
_NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
_FEATURES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}  # a build may lack them


class StoredPicture(NamedTuple):
    """What a file would hold, kept elsewhere.

    Attributes:
        name: What it is called where it is refused.
        content: What is in it.
    """

    name: str
    content: bytes


class BadPicture(InputError):
    """What a file holds is refused, see the table."""


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of the files that the installed Pillow can decode, e.g. ``.jpg``."""
    from PIL import Image, features

    Image.init()
    missing = {name for name, feature in _FEATURES.items() if not features.check(feature)}
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in missing.union(_NOT_DECODED)
    )


def read_picture(path: str | Path | StoredPicture) -> Image:
    """Read a picture, upright, in mode RGB; the table above says how.

    Raises:
        BadPicture: if it cannot be decoded, or cannot become RGB without a loss that nobody asked
            for.
        InputError: if the system does not let it be read, e.g. for want of a right or of memory.
    """
    from PIL import Image

    try:
        if isinstance(path, StoredPicture):
            file: io.BytesIO | Path = io.BytesIO(path.content)
        else:
            file = Path(path)
            check_regular(file)
        with Image.open(file) as picture:
            return _upright_rgb(picture)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        reason = " ".join(str(error).removeprefix(f"{path}: ").split()) or type(error).__name__
        refused = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        kind = InputError if refused else BadPicture
        name = path.name if isinstance(path, StoredPicture) else path
        raise kind(f"{name}: is not a readable image ({reason})") from None


def _upright_rgb(picture: Image) -> Image:
    from PIL import Image, ImageOps

    if getattr(picture, "is_animated", False) and picture.format not in _ONE_PICTURE_OF_SEVERAL:
        count = getattr(picture, "n_frames", "several")
        raise ValueError(f"it has {count} frames or pages; keep one of them")
    picture.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF data says nothing of the picture
        try:
            turned = _ORIENTATION in picture.getexif()
        except Exception:
            turned = False
    upright = ImageOps.exif_transpose(picture) if turned else picture
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format == "PPM"):
        return Image.fromarray(_eight_bits(upright, picture)).convert("RGB")
    if upright.mode in ("I", "F"):
        raise ValueError(f"its mode is {upright.mode}: nothing says which value is white")
    if upright.has_transparency_data:
        seen = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return upright.convert("RGB")


def _eight_bits(upright: Image, picture: Image) -> np.ndarray:
    """Bring grey values of more bits, (H, W), to bytes; ``picture`` is the file as it was."""
    tags = getattr(picture, "tag_v2", {})
    white = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    values = np.asarray(upright).astype(np.float64) * (255 / white)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow heeds for 8 bits only
        values = 255 - values
    return np.rint(values).astype(np.uint8)
