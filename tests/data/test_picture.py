"""Every kind of picture becomes RGB rightly, or is refused by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sedona_nni.data.picture import picture_suffixes, read_picture
from sedona_nni.errors import InputError

SIXTEEN = Image.fromarray(np.array([[2000, 40000, 65535]], dtype=np.uint16))
GREY = Image.fromarray(np.array([[0, 50, 100]], dtype=np.uint8))


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (3, 1), (90 * i, 0, 0)) for i in range(3)]


def palette(transparent: bool = False) -> Image.Image:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    if transparent:
        picture.info["transparency"] = 1
    return picture


def with_alpha(mode: str) -> Image.Image:
    """Black, and beside it black that nobody sees, and half of it."""
    bands = [Image.new("L", (3, 1))] * (len(mode) - 1)
    alpha = Image.fromarray(np.array([[255, 0, 128]], dtype=np.uint8))
    return Image.merge(mode, [*bands, alpha])


def upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[274] = 3
    return exif


@pytest.mark.parametrize(
    ("name", "picture", "options", "expected"),
    [
        ("x.png", SIXTEEN, {}, [8, 156, 255]),
        ("x.tif", SIXTEEN, {}, [8, 156, 255]),
        ("x.pgm", SIXTEEN, {}, [8, 156, 255]),
        ("x.png", SIXTEEN, {"exif": upside_down()}, [255, 156, 8]),
        ("x.png", GREY, {}, [0, 50, 100]),
        ("x.png", GREY, {"exif": upside_down()}, [100, 50, 0]),
        ("x.png", GREY, {"transparency": 50}, [0, 255, 100]),
        ("x.png", GREY.point(lambda value: value and 255).convert("1"), {}, [0, 255, 255]),
        ("x.png", with_alpha("LA"), {}, [0, 255, 127]),
        ("x.webp", with_alpha("RGBA"), {"lossless": True}, [0, 255, 127]),
        ("x.png", palette(), {}, [[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
        ("x.png", palette(True), {}, [[255, 0, 0], [255, 255, 255], [0, 0, 255]]),
        ("x.gif", palette(True), {}, [[255, 0, 0], [255, 255, 255], [0, 0, 255]]),
        ("x.tif", Image.new("CMYK", (3, 1), (255, 0, 0, 0)), {}, [[0, 255, 255]] * 3),
        ("x.mpo", frames()[0], {"save_all": True, "append_images": frames()[1:]}, [0, 0, 0]),
        ("x.jfif", Image.new("L", (3, 1), 90), {"format": "JPEG"}, [90, 90, 90]),
    ],
)
def test_what_becomes_of_a_picture(
    tmp_path: Path, name: str, picture: Image.Image, options: dict[str, Any], expected: list[Any]
) -> None:
    picture.save(tmp_path / name, **options)
    read = read_picture(tmp_path / name)
    pixels = np.asarray(read)
    assert read.mode == "RGB"
    wanted = [[each] * 3 if isinstance(each, int) else each for each in expected]
    assert pixels.tolist() == [wanted]


def test_grey_tiffs_of_12_bits_and_such_with_white_as_zero(tmp_path: Path) -> None:
    """Pillow writes neither, so single bytes of their tags are changed."""
    path = tmp_path / "x.tif"
    SIXTEEN.save(path)
    content = path.read_bytes()
    photometric = bytes([6, 1, 3, 0, 1, 0, 0, 0, 1, 0])
    path.write_bytes(content.replace(photometric, photometric[:-2] + bytes(2)))
    assert np.asarray(read_picture(path))[0, :, 0].tolist() == [247, 99, 0]
    bits = bytes([2, 1, 3, 0, 1, 0, 0, 0, 16, 0])
    pixels = SIXTEEN.tobytes()
    assert pixels in content
    twelve = bytes([0x80, 0x0F, 0xFF, 0x00, 0x00, 0x00])  # 0x800, 0xFFF, 0x000
    path.write_bytes(content.replace(bits, bits[:-2] + bytes([12, 0])).replace(pixels, twelve))
    assert np.asarray(read_picture(path))[0, :, 0].tolist() == [128, 255, 0]


def broken_png(tmp_path: Path) -> Path:
    """A PNG whose header's checksum is wrong."""
    GREY.save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[30] ^= 1
    (tmp_path / "x.png").write_bytes(content)
    return tmp_path / "x.png"


def truncated(tmp_path: Path) -> Path:
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.jpg")
    content = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(content[: len(content) // 2])
    return tmp_path / "x.jpg"


def bomb(tmp_path: Path) -> Path:
    """A PNG that says that it has 900 million pixels."""
    path = tmp_path / "x.png"
    GREY.save(path)
    content = path.read_bytes()
    with path.open("wb") as file:
        file.write(content[:8])
        PngImagePlugin.putchunk(file, b"IHDR", b"\0\0\x75\x30" * 2 + bytes([8, 0, 0, 0, 0]))
        file.write(content[33:])
    return path


def animation(tmp_path: Path) -> Path:
    frames()[0].save(tmp_path / "x.gif", save_all=True, append_images=frames()[1:])
    return tmp_path / "x.gif"


def pages(tmp_path: Path) -> Path:
    frames()[0].save(tmp_path / "x.tif", save_all=True, append_images=frames()[1:])
    return tmp_path / "x.tif"


def floats(tmp_path: Path) -> Path:
    Image.fromarray(np.ones((1, 3), dtype=np.float32)).save(tmp_path / "x.tif")
    return tmp_path / "x.tif"


def integers(tmp_path: Path) -> Path:
    Image.fromarray(np.ones((1, 3), dtype=np.int32)).save(tmp_path / "x.tif")
    return tmp_path / "x.tif"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (broken_png, "cannot identify image file"),
        (truncated, "truncated"),
        (bomb, "decompression bomb"),
        (animation, "it has 3 frames or pages; keep one of them"),
        (pages, "it has 3 frames or pages; keep one of them"),
        (floats, "its mode is F: nothing says which value is white"),
        (integers, "its mode is I: nothing says which value is white"),
        (lambda tmp_path: tmp_path / "missing.png", "No such file"),
    ],
)
def test_what_is_refused_is_named_in_one_line(tmp_path: Path, write: Any, reason: str) -> None:
    path = write(tmp_path)
    with pytest.raises(InputError) as error:
        read_picture(path)
    message = str(error.value)
    assert message.startswith(f"{path}: is not a readable image (")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("raised", [SyntaxError, ValueError, IndexError, ZeroDivisionError])
def test_whatever_a_decoder_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception]
) -> None:
    def decode(self: object) -> None:
        raise raised("first line\nsecond line")

    GREY.save(tmp_path / "x.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    with pytest.raises(InputError, match=r"x\.png: is not a readable image \(first line second"):
        read_picture(tmp_path / "x.png")


def test_damaged_exif_data_do_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (3, 1), (9, 9, 9)).save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0")
    assert read_picture(tmp_path / "x.png").size == (3, 1)


def test_suffixes_are_those_of_pictures() -> None:
    assert {".jpg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".webp"} <= picture_suffixes()
    assert not {".h5", ".pdf", ".eps", ".mpg", ".txt", ".wmf"} & picture_suffixes()
