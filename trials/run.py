"""What a directory of a training, a search or a probing was started with: its ``run.json``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from sedona_nni.data.identity import DataIdentity
from sedona_nni.errors import InputError
from sedona_nni.files import Document, reading
from sedona_nni.models.pretrained import fingerprint_of_weights
from sedona_nni.task import Task

__all__ = ["RUN_FILE", "Run", "alone_in", "weights_of"]

RUN_FILE = "run.json"
_LOCK_FILE = ".lock"

_logger = logging.getLogger(__name__)


class Run(Document):
    """All that defines what is done in a directory; a kind of it has fields of its own.

    Attributes:
        task: Backbone and data.
        data: What the images are; None in a directory of a version that did not say so, which is
            gone on with all the same.
        weights: Fingerprint of the file of weights that the task begins with, if it has one.
    """

    task: Task
    data: DataIdentity | None = None
    weights: str | None = None

    def check_goes_on(self, directory: Path, what: str) -> None:
        """Check that a directory holds nothing yet, or what this goes on with.

        The same images and the same weights may be in another place than before.

        Args:
            directory: Where.
            what: ``"training"`` and the like, for messages.

        Raises:
            InputError: if it holds something else, or was started with other images or weights.
        """
        path = directory / RUN_FILE
        if not path.exists():
            return
        with reading(path, "remove it to start again"):
            before = type(self).load(path)
        moved = [
            name
            for name, known in (
                ("data_dir", (self.data, before.data)),
                ("weights", (self.weights, before.weights)),
            )
            if None not in known
        ]
        if self._without_contents(moved) != before._without_contents(moved):
            raise InputError(f"directory: {directory} holds another {what}, please name a new one")
        if self.weights != before.weights:
            raise InputError(
                f"weights: the file must be the one that {directory} began with, but it holds "
                "something else; please name a new directory"
            )
        if self.data is not None and before.data is not None:
            self.data.check_same(before.data, str(directory))
        elif before.data is None:
            _logger.warning(
                "%s does not say which images it began with; the present ones are taken for them",
                path,
            )

    def _without_contents(self, moved: Sequence[str]) -> Run:
        task = self.task.model_copy(update=dict.fromkeys(moved))
        return self.model_copy(update={"task": task, "data": None, "weights": None})


@contextlib.contextmanager
def alone_in(directory: Path | None) -> Iterator[None]:
    """Let nobody else train or search in a directory meanwhile.

    Args:
        directory: It need not exist yet; None is nobody's.

    Raises:
        InputError: if somebody does.
    """
    if directory is None:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(directory / _LOCK_FILE).acquire(timeout=0)
    except Timeout:
        raise InputError(f"directory: another run is at work in {directory}") from None
    with lock:
        yield


def weights_of(task: Task) -> str | None:
    """Return the fingerprint of a task's file of weights, None if it has none.

    Raises:
        InputError: if it cannot be read.
    """
    return None if task.weights is None else fingerprint_of_weights(Path(task.weights))
