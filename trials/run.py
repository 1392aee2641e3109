"""What a directory of a training, a search or a probing was started with: its ``run.json``."""

from __future__ import annotations

import logging
from pathlib import Path

from sedona_nni.data.identity import DataIdentity
from sedona_nni.errors import InputError
from sedona_nni.files import Document, reading
from sedona_nni.task import Task

__all__ = ["RUN_FILE", "Run"]

RUN_FILE = "run.json"

_logger = logging.getLogger(__name__)


class Run(Document):
    """All that defines what is done in a directory; a kind of it has fields of its own.

    Attributes:
        task: Backbone and data.
        data: What the images are; None in a directory of a version that did not say so, which is
            gone on with all the same.
    """

    task: Task
    data: DataIdentity | None = None

    def check_goes_on(self, directory: Path, what: str) -> None:
        """Check that a directory holds nothing yet, or what this goes on with.

        The same images may be in another folder than before.

        Args:
            directory: Where.
            what: ``"training"`` and the like, for messages.

        Raises:
            InputError: if it holds something else, or was started with other images.
        """
        path = directory / RUN_FILE
        if not path.exists():
            return
        with reading(path, "remove it to start again"):
            before = type(self).load(path)
        ours, theirs = self._without_data(), before._without_data()
        if None not in (self.data, before.data):
            ours, theirs = ours._without_folder(), theirs._without_folder()
        if ours != theirs:
            raise InputError(f"directory: {directory} holds another {what}, please name a new one")
        if self.data is not None and before.data is not None:
            self.data.check_same(before.data, str(directory))
        elif before.data is None:
            _logger.warning(
                "%s does not say which images it began with; the present ones are taken for them",
                path,
            )

    def _without_data(self) -> Run:
        return self.model_copy(update={"data": None})

    def _without_folder(self) -> Run:
        return self.model_copy(update={"task": self.task.model_copy(update={"data_dir": None})})
