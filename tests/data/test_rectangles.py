"""Images that are no squares: what loaders and distortions make of height and width."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import v2

from sedona_nni.data.augmentation import Augmentation, build_mixing
from sedona_nni.data.batches import BatchStream, BlankImages, FolderImages, ShiftAndFlip
from sedona_nni.data.sets import Splits, evaluation_batches, form_of, load_splits
from sedona_nni.errors import InputError
from sedona_nni.image_size import ImageSize
from sedona_nni.task import Task

SIZES: list[tuple[int, int]] = [(24, 40), (40, 24)]


def write_pictures(folder: Path, shapes: list[tuple[int, int]], count: int = 6) -> None:
    """Pictures of some heights and widths: the redder the further right, the greener the lower."""
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                height, width = shapes[number % len(shapes)]
                pixels = np.zeros((height, width, 3))
                pixels[..., 0] = np.linspace(0, 255, width)
                pixels[..., 1] = np.linspace(0, 255, height)[:, None]
                path = folder / part / name / f"{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)


def folder_splits(folder: Path, size: ImageSize, dataset: str = "imagefolder") -> Splits:
    return load_splits(Task(dataset=dataset, data_dir=str(folder), image_size=size), 0.25)


def pixels_of(images: FolderImages, picture: Image.Image) -> torch.Tensor:
    """The bytes, (3, H, W), that an evaluation sees of a picture."""
    return torch.as_tensor(images.preprocessing(picture))


def test_a_setting_is_a_number_or_height_and_width() -> None:
    assert Task(image_size=(48, 64)).image_size == (48, 64)
    assert Task.model_validate({"image_size": [48, 64]}).image_size == (48, 64)
    assert Task.model_validate({"image_size": [48, 48]}) == Task(image_size=48)
    assert form_of(Task(image_size=(48, 64))) == (10, (48, 64))
    assert Task.model_validate_json(Task(image_size=(48, 64)).model_dump_json()).image_size == (
        48,
        64,
    )
    for wrong in ([48], [48, 64, 3], [48, 7], "48x64", 7, True):
        with pytest.raises(ValidationError) as error:
            Task.model_validate({"image_size": wrong})
        assert str(InputError.from_validation(error.value, "task")) == (
            "task.image_size: must be pixels, 8 to 16,384, as in 32, or height and width as in "
            f"[48, 64], but got {wrong!r}"
        )


@pytest.mark.parametrize("size", SIZES)
def test_images_in_memory_are_stretched(size: tuple[int, int]) -> None:
    splits = load_splits(Task(image_size=size), 0.2)
    assert splits.image_size == size
    images, _ = next(evaluation_batches(splits.test, 4, "cpu"))
    assert images.shape == (4, 3, *size)
    square, _ = next(evaluation_batches(load_splits(Task(image_size=8), 0.2).test, 4, "cpu"))
    shrunk = torch.nn.functional.interpolate(images, size=(8, 8), mode="area")
    assert torch.corrcoef(torch.stack([shrunk.flatten(), square.flatten()]))[0, 1] > 0.95
    blank, _ = next(evaluation_batches(splits.without_images().test, 4, "cpu"))
    assert blank.shape == (4, 1, *size)


def test_shift_and_mirror_know_height_from_width() -> None:
    """Each result is one of the 2 x 3 x 3 windows, and 400 draws meet all of them."""
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 2, 6)
    padded = torch.nn.functional.pad(image, [1] * 4)
    windows = {
        tuple(window.flatten().tolist())
        for top in range(3)
        for left in range(3)
        for plain in [padded[:, top : top + 2, left : left + 6]]
        for window in (plain, plain.flip(-1))
    }
    rng = np.random.default_rng(0)
    seen = ShiftAndFlip(padding=1, flip=True)(image.repeat(400, 1, 1, 1), rng)
    assert {tuple(row) for row in seen.flatten(1).tolist()} == windows


@pytest.mark.parametrize("name", ["dataset", "none", "randaugment", "trivialaugment", "augmix"])
@pytest.mark.parametrize("dataset", ["digits", "imagefolder", "tiny-imagenet"])
def test_every_augmentation_keeps_the_size(
    tmp_path: Path, dataset: str, name: Augmentation
) -> None:
    write_pictures(tmp_path, [(64, 64)])
    (tmp_path / "test").rename(tmp_path / "val")
    train = folder_splits(tmp_path, (24, 40), dataset).train.augmented(name)
    images, labels = next(BatchStream(train, 4, 0, "cpu").iterate())
    assert images.shape == (4, 3, 24, 40)
    for mixup, cutmix in ((0.4, 0.0), (0.0, 0.4)):
        mixed, shares = build_mixing(mixup, cutmix, 10)(images, labels)
        assert mixed.shape == images.shape
        assert torch.allclose(shares.sum(1), torch.ones(4))  # rounding of a sum of two shares


class TestPicturesInFolders:
    """What torchvision does for squares, to the byte; without stretching for the others."""

    @pytest.mark.parametrize("shape", [(30, 50), (50, 30), (33, 33), (16, 97), (18, 18)])
    @pytest.mark.parametrize("size", [16, 24])
    def test_squares_are_those_of_torchvision(
        self, tmp_path: Path, shape: tuple[int, int], size: int
    ) -> None:
        write_pictures(tmp_path, [shape], count=3)
        splits = folder_splits(tmp_path, size)
        assert isinstance(splits.test, FolderImages)
        picture = Image.open(splits.test.files[0])
        theirs: Any = v2.Compose(
            [v2.Resize(round(size * 256 / 224)), v2.CenterCrop(size), v2.PILToTensor()]
        )
        assert torch.equal(pixels_of(splits.test, picture), theirs(picture))
        theirs = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
        theirs = v2.Compose([theirs, v2.PILToTensor()])
        assert isinstance(splits.train, FolderImages)
        assert splits.train.augmentation is not None
        for seed in range(5):
            torch.manual_seed(seed)
            ours = splits.train.augmentation(picture)
            torch.manual_seed(seed)
            assert torch.equal(ours, theirs(picture))

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("shape", [(60, 100), (100, 60), (70, 70), (30, 200), (240, 400)])
    def test_an_evaluation_does_not_stretch(
        self, tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]
    ) -> None:
        """Red per column and green per row are those of one scale, and 224/256 of the side seen."""
        write_pictures(tmp_path, [shape], count=3)
        splits = folder_splits(tmp_path, size)
        assert isinstance(splits.test, FolderImages)
        seen = pixels_of(splits.test, Image.open(splits.test.files[0])).double()
        assert seen.shape == (3, *size)
        red, green = seen[0].mean(0), seen[1].mean(1)
        columns, rows = (  # of the picture's pixels, how many lie between two of the image's
            float((values[-3] - values[2]) / (len(values) - 5) * (length - 1) / 255)
            for values, length in ((red, shape[1]), (green, shape[0]))
        )
        scale = min(shape[0] / size[0], shape[1] / size[1]) * 224 / 256
        # Values are rounded to bytes, and sides to whole pixels
        assert columns == pytest.approx(scale, rel=0.06)
        assert rows == pytest.approx(scale, rel=0.06)
        for values, length in ((red, shape[1]), (green, shape[0])):
            pixel = scale * 255 / (length - 1)  # of the image; it is the middle to half of one
            assert float(values[0] + values[-1]) == pytest.approx(255, abs=pixel + 1)

    @pytest.mark.parametrize("size", SIZES)
    def test_random_crops_are_stretched_by_a_third_at_most(
        self, tmp_path: Path, size: tuple[int, int]
    ) -> None:
        write_pictures(tmp_path, [(300, 300)], count=3)
        splits = folder_splits(tmp_path, size)
        assert isinstance(splits.train, FolderImages)
        assert splits.train.augmentation is not None
        picture = Image.open(splits.train.files[0])
        torch.manual_seed(0)
        stretched, mirrored = [], []
        for _ in range(60):
            seen = splits.train.augmentation(picture).double()
            assert seen.shape == (3, *size)
            red, green = seen[0].mean(0), seen[1].mean(1)
            columns = float(red[-3] - red[2]) / (size[1] - 5)
            rows = float(green[-3] - green[2]) / (size[0] - 5)
            assert rows > 0
            stretched.append(abs(columns) / rows)
            mirrored.append(columns < 0)
        # 3/4 to 4/3, and what the rounding to bytes and to whole pixels adds to small crops
        assert 0.68 < min(stretched) < 0.85
        assert 1.2 < max(stretched) < 1.47
        assert 15 < sum(mirrored) < 45

    def test_batches_of_workers_are_those_of_one_process(self, tmp_path: Path) -> None:
        write_pictures(tmp_path, [(30, 50), (50, 30)])
        task = Task(dataset="imagefolder", data_dir=str(tmp_path), image_size=(16, 24))
        seen = [
            list(
                islice(
                    BatchStream(load_splits(task, 0.25, workers=n).train, 4, 0, "cpu").iterate(), 3
                )
            )
            for n in (0, 1, 2)
        ]
        for batches in zip(*seen, strict=True):
            for images, labels in batches:
                assert images.shape == (4, 3, 16, 24)
                assert torch.equal(images, batches[0][0])
                assert torch.equal(labels, batches[0][1])


def test_blank_images_have_height_and_width() -> None:
    images, _ = next(evaluation_batches(BlankImages(np.arange(4), (8, 12)), 4, "cpu"))
    assert images.shape == (4, 1, 8, 12)


def scene() -> Image.Image:
    """Upright, 60 x 100 pixels, no two corners alike, all of it grey."""
    pixels = np.add.outer(np.linspace(0, 100, 60), np.linspace(0, 155, 100))
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")


def turned(orientation: int) -> tuple[Image.Image, dict[str, Any]]:
    """As a camera stores it, with a note of how it has to be turned."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    return scene().transpose(back), {"exif": exif}


def cmyk() -> Image.Image:
    nothing, black = Image.new("L", (100, 60)), scene().convert("L").point(lambda v: 255 - v)
    return Image.merge("CMYK", [nothing, nothing, nothing, black])


@pytest.mark.parametrize(
    ("suffix", "picture", "options"),
    [
        ("jpg", scene(), {"quality": 95}),
        ("png", scene().convert("L"), {}),
        ("jpg", scene().convert("L"), {"quality": 95}),
        ("png", scene().quantize(256), {}),
        ("gif", scene().quantize(256), {}),
        ("jpg", cmyk(), {"quality": 95}),
        ("tif", cmyk(), {}),
        ("jpg", turned(3)[0], {"quality": 95, **turned(3)[1]}),
        ("jpg", turned(6)[0], {"quality": 95, **turned(6)[1]}),
        ("png", turned(6)[0], turned(6)[1]),
    ],
)
@pytest.mark.parametrize("size", [24, *SIZES])
def test_every_kind_of_file_is_seen_alike(
    tmp_path: Path, suffix: str, picture: Image.Image, options: dict[str, Any], size: ImageSize
) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(5):
            picture.save(tmp_path / part / "a" / f"{number}.{suffix}", **options)
    splits = folder_splits(tmp_path, size)
    assert isinstance(splits.test, FolderImages)
    expected = pixels_of(splits.test, scene()).int()
    seen = splits.test[0, None][0].int()
    assert (seen - expected).abs().max() <= 3  # of 255: what JPEG and a palette lose
