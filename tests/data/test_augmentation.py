"""`sedona_nni.data.augmentation`: recipes for images in memory and in files, and mixed batches."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from sedona_nni.data.augmentation import build_mixing, build_recipe
from sedona_nni.data.batches import BatchStream, MemoryImages, ShiftAndFlip
from sedona_nni.data.sets import Splits, load_splits
from sedona_nni.decouplings.decoupled import DecoupledNetwork, build_decoupled
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.models import FeatureShape, build_backbone
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.sedona.relaxed_training import build_relaxed
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.task import Task
from sedona_nni.teachers.auxiliary import (
    AuxiliaryContext,
    PredSim,
    build_auxiliary,
    similarity_matrix,
)
from sedona_nni.teachers.losses import LabelSmoothing
from sedona_nni.training.loop import train, training_stream
from sedona_nni.training.method_settings import METHODS
from sedona_nni.training.methods.synthetic_gradients import Synthesizer
from sedona_nni.training.settings import TrainSettings

RECIPES = ["randaugment", "trivialaugment", "augmix"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of two classes to learn from."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        place = root / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return root


def splits_of(where: str, folder: Path) -> Splits:
    if where == "memory":
        return load_splits(Task(train_limit=20), 0.25)
    task = Task(dataset="imagefolder", data_dir=str(folder), image_size=16)
    return load_splits(task, 0.25, workers=0)


@pytest.mark.parametrize("where", ["memory", "files"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_batch_holds_depends_on_seed_and_number_alone(
    where: str, recipe: Any, folder: Path
) -> None:
    splits = splits_of(where, folder)
    how = TrainSettings(batch_size=3, augmentation=recipe, seed=7)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [*islice(training_stream(splits, how, "cpu").iterate(), 4)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    later = [*islice(training_stream(splits, how, "cpu").iterate(start=2), 2)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[2:], later, strict=True))
    images, labels = first[0]
    other = how.model_copy(update={"seed": 8, "augmentation": "dataset"})
    own = how.model_copy(update={"augmentation": "dataset"})
    for changed in (other, own):
        assert not torch.equal(next(training_stream(splits, changed, "cpu").iterate())[0], images)
    same_labels = next(training_stream(splits, own, "cpu").iterate())[1]
    assert torch.equal(labels, same_labels)
    assert images.shape == (3, 3, splits.image_size, splits.image_size)
    assert images.dtype == torch.float32


@pytest.mark.parametrize("where", ["memory", "files"])
def test_none_and_the_sets_own(where: str, folder: Path) -> None:
    splits = splits_of(where, folder)

    def batch(**fields: Any) -> Tensor:
        how = TrainSettings(batch_size=6, seed=7, **fields)
        return next(training_stream(splits, how, "cpu").iterate())[0]

    plain = BatchStream(splits.train.plain(), 6, 7, "cpu")
    assert torch.equal(batch(augmentation="none"), next(plain.iterate())[0])
    own = BatchStream(splits.train, 6, 7, "cpu")
    assert torch.equal(batch(), next(own.iterate())[0])
    assert not torch.equal(batch(), batch(augmentation="none"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("recipe", RECIPES)
def test_images_in_memory_are_distorted_one_by_one_after_the_sets_own_way(
    recipe: Any, channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, channels, 16, 16), dtype=torch.uint8, generator=generator)
    own = ShiftAndFlip(padding=2, flip=True)
    images = MemoryImages(pixels, np.arange(4), (0.0,), (1 / 255,), own)
    (found, labels), *_ = islice(BatchStream(images.augmented(recipe), 4, 3, "cpu").iterate(), 1)

    rng = np.random.default_rng((3, 1, 0))
    shifted = own(pixels[labels], rng)
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**63)))
        transform = build_recipe(recipe)
        expected = torch.stack([transform(image) for image in shifted])
    assert torch.equal(found, expected.float().expand(-1, 3, -1, -1))


def test_recipes_are_torchvisions() -> None:
    kinds = [type(build_recipe(name)) for name in RECIPES]
    assert kinds == [v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix]


# ---- Mixing --------------------------------------------------------------------------------------


def test_mixed_batches() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
    for least in (0.0099, 1e-308):  # which torch would draw wrongly, or not at all
        assert build_mixing(least, least, 6)(images, labels)[1] is labels
    same_images, same_labels = build_mixing(0, 0, 6)(images, labels)
    assert same_images is images
    assert same_labels is labels
    neighbours = images.roll(1, 0)
    for _ in range(4):
        mixed, shares = build_mixing(0.5, 0, 6)(images, labels)
        share = shares.diagonal().view(-1, 1, 1, 1)
        torch.testing.assert_close(mixed, share * images + (1 - share) * neighbours)
        mixed, shares = build_mixing(0, 1.0, 6)(images, labels)
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        kept = (mixed == images).all(1)
        assert torch.equal(kept | (mixed == neighbours).all(1), torch.ones_like(kept))
        torch.testing.assert_close(shares.diagonal(), kept.float().mean((1, 2)))
    both = [build_mixing(0.5, 1.0, 6)(images, labels)[0] for _ in range(20)]
    cut = [bool(((mixed == images) | (mixed == neighbours)).all()) for mixed in both]
    assert 0 < sum(cut) < 20


def shares_of(labels: Tensor, others: Tensor, share: float) -> Tensor:
    return share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(others, 5)


def test_losses_of_mixed_labels() -> None:
    """The criterion is linear in the shares; PredSim compares with similarities of shares."""
    torch.manual_seed(0)
    labels, others = torch.arange(5), torch.arange(5).roll(1)
    mixed = shares_of(labels, others, 0.7)
    logits = torch.randn(5, 5)
    criterion = LabelSmoothing(0.1)
    expected = 0.7 * criterion(logits, labels) + 0.3 * criterion(logits, others)
    torch.testing.assert_close(criterion(logits, mixed), expected)

    context = AuxiliaryContext(FeatureShape(4, 4), num_classes=5)
    predsim = build_auxiliary("predsim", context)
    assert isinstance(predsim, PredSim)
    features = torch.randn(5, 4, 4, 4)
    loss, _ = predsim.local_loss(features, mixed, criterion)
    alike = similarity_matrix(predsim.similarity(features)) - similarity_matrix(mixed)
    plain = F.cross_entropy(predsim(features), mixed)
    torch.testing.assert_close(loss, 0.01 * plain + 0.99 * alike.square().mean())
    whole, _ = predsim.local_loss(features, labels, criterion)
    again, _ = predsim.local_loss(features, F.one_hot(labels, 5).float(), criterion)
    torch.testing.assert_close(whole, again)

    synthesizer = Synthesizer(4, 4, 5).eval()
    torch.nn.init.normal_(synthesizer.last.weight)
    guesses = [synthesizer(features, each) for each in (labels, F.one_hot(labels, 5).float())]
    torch.testing.assert_close(*guesses)


def network_for(kind: str) -> DecoupledNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("vgg11", num_classes=10, width_multiplier=0.125)
    if kind == "relaxed":
        found: dict[str, Any] = {"alpha": [[0.5, 1.0]] * 7, "beta": [[0.5]] * 7}
        names = {"backbone": "vgg11", "dataset": "digits", "aux_choices": ["conv1"]}
        return build_relaxed(backbone, SearchResult(**names, **found))
    aux = {"dni": "none", "cdni": "none", "ddg": "none", "predsim": "predsim"}.get(kind, "conv1")
    return build_decoupled(backbone, Decoupling(backbone="vgg11", cuts=[1, 4], aux=[aux] * 2))


@pytest.mark.parametrize(
    "kind", ["greedy", "sequential", "asynchronous", "dni", "cdni", "ddg", "predsim", "relaxed"]
)
def test_every_method_learns_from_mixed_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load_splits(Task(train_limit=60), 0.2)
    method = "greedy" if kind in ("predsim", "relaxed") else kind
    how = TrainSettings.model_validate(
        {"method": method, "epochs": 1, "batch_size": 24, "lr": 0.002, "mixup": 0.5, "cutmix": 1}
    )
    seen: list[Tensor] = []
    kind_of_method = METHODS[how.method.name].learning
    real = kind_of_method.step

    def note(self: Any, images: Tensor, labels: Tensor) -> dict[int, Tensor]:
        seen.append(labels)
        return real(self, images, labels)

    monkeypatch.setattr(kind_of_method, "step", note)
    mixed = train(network_for(kind), splits, how)
    assert {labels.shape for labels in seen} == {(24, 10)}
    plain = train(network_for(kind), splits, how.model_copy(update={"mixup": 0, "cutmix": 0}))
    assert mixed.validation_loss != plain.validation_loss


def test_probes_do_not_mix() -> None:
    """Or losses would tell the mixtures apart rather than the cuts."""
    how = TrainSettings(mixup=0.5, cutmix=1, ema_decay=0.9, epochs=5, warmup_epochs=3, clip_norm=2)
    short = ProbeSettings().short(how)
    assert (short.mixup, short.cutmix, short.ema_decay, short.warmup_epochs) == (0, 0, None, 0)
    assert short.clip_norm == 2
