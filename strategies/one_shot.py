"""SEDONA as a one-shot strategy of NNI.

    Sedona, for NNI          puts a RelaxedNetwork into the DecouplingSpace, exports what was found
      Trainer, of Lightning  owns the device and the loop
        SedonaModule         each training_step is one Search.advance: the algorithm

Lightning's optimizers and loaders are left aside. The search has its own optimizers, whose state
belongs to the snapshots in its weight memory. Its batches come from `BatchStream`, because a loader
cannot go on in the middle of an epoch with the images that would have come.
"""

from __future__ import annotations

import sedona_nni.search_spaces  # noqa: F401  before any other part of nni.nas, whose warnings it silences

# isort: split

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from nni.mutable import Sample
from nni.nas.evaluator.pytorch import Lightning, LightningModule
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from pydantic import ValidationError
from torch import Tensor

from sedona_nni.data.batches import ImageSet
from sedona_nni.decouplings.choice import discretise
from sedona_nni.errors import InputError
from sedona_nni.files import check_output_folder
from sedona_nni.search_spaces import DecouplingSpace
from sedona_nni.searches.sedona.checkpoint import (
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from sedona_nni.searches.sedona.relaxation import RelaxedNetwork
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.search import Search
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.strategies.evaluator import (
    LoadedImages,
    check_disjoint,
    check_evaluator,
    fingerprint_of_some,
    images_of,
)

__all__ = ["Sedona", "SedonaModule", "SedonaSupernet"]

logger = logging.getLogger(__name__)


class SedonaSupernet(BaseSuperNetModule):
    """The relaxed network as NNI sees it: one module that holds all decisions of a space.

    Attributes:
        network: The relaxed network.
    """

    def __init__(self, space: DecouplingSpace) -> None:
        super().__init__()
        self.network = RelaxedNetwork(space.backbone(), space.aux_choices)
        self._search: Search | None = None
        object.__setattr__(self, "_space", space)  # not as a child: the space is the parent

    def forward(self, images: Tensor) -> Tensor:
        """Map images, (B, in_channels, S, S), to the final head's logits, (B, num_classes)."""
        logits: Tensor = self.network.backbone(images)
        return logits

    def start(self, settings: SearchSettings, data: str) -> Search:
        """Return a search that trains the network where it is now, with images of a fingerprint."""
        self._search = Search(self.network, settings, data)
        return self._search

    @property
    def search(self) -> Search:
        """The search.

        Raises:
            RuntimeError: before its start.
        """
        if self._search is None:
            raise RuntimeError("the search has not been started")
        return self._search

    def resample(self, memo: Sample) -> Sample:
        """Sample nothing: a relaxation is all decouplings at once."""
        return {}

    def export(self, memo: Sample) -> Sample:
        """Return the sample of the best decoupling.

        It has K blocks or, where the space leaves K open, a cut wherever a^loc > a^up, and respects
        the bound of the space.
        """
        space = self._space
        found = discretise(self.search.result(""), space.num_blocks or 0, space.bound)
        return space.sample(found)


class SedonaModule(BaseOneShotLightningModule):
    """The search as Lightning sees it: one training step is one step of `Search`."""

    def __init__(self, training_module: LightningModule, strategy: Sedona) -> None:
        super().__init__(training_module)
        self._strategy = strategy

    def configure_optimizers(self) -> list[Any]:
        """Leave the evaluator's optimizer aside: the search has its own."""
        return []

    def on_train_start(self) -> None:
        """Set the search up on the trainer's device, where its last checkpoint left it."""
        if self.trainer.world_size > 1:
            raise InputError.rule("devices", "must be 1 for Sedona", self.trainer.world_size)
        strategy = self._strategy
        self._search = cast(SedonaSupernet, self.model.supernet).start(
            strategy.settings, strategy.data
        )
        directory = strategy.directory
        if directory is not None and has_checkpoint(directory):
            load_checkpoint(self._search, directory)
        train, validation = self._search.streams(*strategy.images)
        self._train = train.iterate(self._search.train_batches_used)
        self._validation = validation.iterate(self._search.validation_batches_used)
        super().on_train_start()

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Do one pre-training step or one meta-step; save, report and stop when due."""
        search, strategy = self._search, self._strategy
        if not search.done:  # a checkpoint may hold a complete search
            numbers = search.advance(self._train, self._validation)
            numbers["step"] = search.step
            self.log_dict(numbers)
            strategy.on_progress(numbers)
            due = search.done or search.step % strategy.checkpoint_every == 0
            if strategy.directory is not None and due:
                save_checkpoint(search, strategy.directory)
        self.trainer.should_stop = search.done

    def on_validation_start(self) -> None:
        """Validate the weights that have been trained most."""
        if not self.trainer.sanity_checking:  # which comes before the start
            self._search.show_most_trained()
        super().on_validation_start()

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Let the evaluator judge the relaxed network's final head."""
        return self.training_module.validation_step(*args, **kwargs)

    def on_validation_epoch_end(self) -> None:
        """Let the evaluator report its metrics to NNI."""
        self.training_module.on_validation_epoch_end()


class Sedona(OneShotStrategy):
    """Search for a decoupling by differentiating through training: SEDONA.

    ``NasExperiment(space, evaluator, Sedona(meta_steps=500)).run()`` searches a `DecouplingSpace`
    with an evaluator of NNI's Lightning kind. Of the evaluator it uses

    - both loaders: data set, sampler's images, batch size, collate_fn, workers. The order is the
      search's own, random and fixed by its seed, also where a loader does not shuffle; no batch is
      smaller than the others, and every image is used, with or without ``drop_last``;
    - the trainer: its device, its time limit, its loggers and callbacks. The search is one endless
      epoch unless ``limit_train_batches`` says otherwise, and it ends by itself; if the trainer
      ends it before, a line of the log says so;
    - the validation, at the end of an epoch, of the relaxed network's final head, with the
      evaluator's criterion. ``limit_val_batches`` is about this validation alone.

    An image that both loaders load is refused where that can be known: views of one data set, or of
    copies of it. So are options that a search would not follow, such as ``gradient_clip_val`` or a
    learning rate. The optimizer and criterion that NNI's `Classification` has by default, and the
    training step of a module of one's own, are not used: the search has its own.

    Called again with the same directory, an interrupted search goes on from its last checkpoint
    and, on the CPU, ends with the same result to the bit.

    Attributes:
        settings: Settings of the search; the batch sizes are the loaders'.
        directory: Where checkpoints are kept.
    """

    def __init__(
        self,
        *,
        dataset: str = "unnamed",
        data: str | None = None,
        directory: Path | None = None,
        checkpoint_every: int = 25,
        on_progress: Callable[[dict[str, float]], None] = lambda numbers: None,
        **options: Any,
    ) -> None:
        """Choose how to search.

        Args:
            dataset: Name of the data set, which the search result mentions.
            data: Fingerprint of the images; by default one is made of some of them. A directory
                with a search of other images is not gone on with.
            directory: Where to keep checkpoints, so that an interrupted search can go on.
            checkpoint_every: Steps between checkpoints.
            on_progress: Called after every step with its numbers, see `Search.advance`, and with
                ``step``, the number of steps done.
            **options: Fields of `SearchSettings`. Batch sizes, if given, must be the loaders', and
                ``validation_fraction`` is for data sets of our own alone.

        Raises:
            InputError: if an option is unknown or breaks a rule.
        """
        super().__init__()
        if checkpoint_every < 1:
            raise InputError.rule("Sedona.checkpoint_every", "must be at least 1", checkpoint_every)
        try:
            self.settings = SearchSettings(**options)
        except ValidationError as error:
            raise InputError.from_validation(error, "Sedona") from None
        if directory is not None:
            check_output_folder("Sedona.directory", directory)
        self.directory = directory
        self.checkpoint_every = checkpoint_every
        self.on_progress = on_progress
        self._dataset = dataset
        self._data = data
        self._images: tuple[LoadedImages, LoadedImages] | None = None

    def mutate_model(self, model: DecouplingSpace) -> DecouplingSpace:
        """Put the relaxed network into the space. Its initial weights depend on the seed alone."""
        if not isinstance(model, DecouplingSpace):
            raise TypeError(f"Sedona searches a DecouplingSpace, but got {type(model).__name__}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            model.supernet = SedonaSupernet(model)
        return model

    def mutate_evaluator(self, evaluator: Lightning) -> Lightning:
        """Put the search into the evaluator.

        Raises:
            InputError: if the evaluator asks for what a search would not do.
        """
        if isinstance(evaluator, Lightning):
            check_evaluator(evaluator)
        return cast(Lightning, super().mutate_evaluator(evaluator))

    def configure_oneshot_module(self, training_module: LightningModule) -> SedonaModule:
        """Wrap the evaluator's module."""
        return SedonaModule(training_module, self)

    def train_dataloader(
        self, train_dataloader_fn: Callable[[], Any], val_dataloader_fn: Callable[[], Any]
    ) -> Iterator[int]:
        """Keep what the loaders would load, and count steps instead.

        Raises:
            InputError: if a loader brings something that a search could not use, its batch size is
                not the one that was asked for, or both load the same image.
        """
        train = images_of(train_dataloader_fn(), "train_dataloaders")
        validation = images_of(val_dataloader_fn(), "val_dataloaders")
        check_disjoint(train, validation)
        self._images = (train, validation)
        share = self.settings.validation_fraction
        usual = SearchSettings.model_fields["validation_fraction"].default
        if share != usual:
            rule = "must be left out, because the loaders bring both parts"
            raise InputError.rule("Sedona.validation_fraction", rule, share)
        sizes = {
            "batch_size": train.batch_size,
            "validation_batch_size": validation.batch_size,
        }
        for field, size in sizes.items():
            wanted = getattr(self.settings, field)
            if field in self.settings.model_fields_set and wanted != size:
                raise InputError.rule(f"Sedona.{field}", f"must be the loader's, {size}", wanted)
        given = self.settings.model_dump(exclude_unset=True)
        try:
            self.settings = SearchSettings.model_validate({**given, **sizes})
        except ValidationError as error:
            raise InputError.from_validation(error, "loader") from None
        return itertools.count()

    @property
    def images(self) -> tuple[ImageSet, ImageSet]:
        """What the loaders would load, to train on and to validate on."""
        assert self._images is not None
        train, validation = self._images
        # (a BatchStream asks a data set for its length and batches only)
        return cast(ImageSet, train), cast(ImageSet, validation)

    @property
    def data(self) -> str:
        """The fingerprint of the images of both loaders."""
        assert self._images is not None
        return self._data or "/".join(map(fingerprint_of_some, self._images))

    @property
    def search(self) -> Search:
        """The search; only available after its start."""
        return cast(SedonaSupernet, self.supernet.supernet).search

    @property
    def search_result(self) -> SearchResult:
        """What the search has found, or where it stands if it was stopped."""
        return self.search.result(self._dataset)

    def _run(self) -> None:
        with _sober_lightning():
            super()._run()
        if not self.search.done:
            logger.warning(
                "the trainer ended the search after %d of %d steps",
                self.search.step,
                self.search.total_steps,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the state of the search is in its directory."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the search finds its state in its directory."""


@contextmanager
def _sober_lightning() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt, which Lightning turns into exit code 1, and do not show
    that Lightning uses what torch has deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.`", FutureWarning)
        try:
            yield
        except SystemExit as error:
            raise KeyboardInterrupt from error
