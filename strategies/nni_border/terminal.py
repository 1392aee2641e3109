"""Telling the person who started an experiment what went wrong in it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from sedona_nni.errors import InputError, SedonaError, UnwritableError
from sedona_nni.files import check_room, read_json, write_json

__all__ = ["ERROR_PARAMETER", "TunerError", "checkpoint_folder", "finish_mark", "tell"]

ERROR_PARAMETER = "error"  # of a trial that is there to say why there is none


def tell(message: str) -> None:
    """Write ``message`` to the terminal that the experiment was started from, if there is one.

    A detached manager sends its processes' standard error to a file that nobody reads, but they
    keep their controlling terminal.
    """
    print(message, file=sys.stderr, flush=True)
    if not sys.stderr.isatty():
        try:
            with open("/dev/tty", "w", encoding="utf-8") as terminal:
                terminal.write(f"\n{message}\n")
        except OSError:
            pass  # started without a terminal, or it was closed since


class TunerError(BaseModel):
    """Why a tuner gave up; left in the experiment's checkpoint folder for ``sedona-nni``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    is_input_error: bool

    @classmethod
    def of(cls, error: BaseException, checkpoint: Path) -> TunerError:
        """Describe an exception: by its trace if it is a defect and was not raised on purpose.

        Args:
            error: It.
            checkpoint: Where nothing can be written, that is what has gone wrong.
        """
        try:
            check_room(checkpoint)
        except UnwritableError as refusal:
            error = refusal
        if isinstance(error, SedonaError):
            return cls(message=str(error), is_input_error=isinstance(error, InputError))
        return cls(message="".join(traceback.format_exception(error)), is_input_error=False)

    @staticmethod
    def path(checkpoint: Path) -> Path:
        """Return the file in which `save` leaves an error."""
        return checkpoint / "tuner-error.json"

    @classmethod
    def clear(cls, checkpoint: Path) -> None:
        """Forget the error of an earlier session."""
        cls.path(checkpoint).unlink(missing_ok=True)

    def save(self, checkpoint: Path) -> None:
        """Leave the error for `load`."""
        write_json(self.path(checkpoint), self.model_dump())

    @classmethod
    def load(cls, checkpoint: Path) -> TunerError | None:
        """Return the error that the tuner gave up with, None if it did not."""
        path = cls.path(checkpoint)
        return cls.model_validate(read_json(path)) if path.exists() else None


def finish_mark(checkpoint: Path) -> Path:
    """Return the file that says that the tuner has handed out all its trials and all have ended.

    NNI's status is DONE, too, when ``maxExperimentDuration`` or ``maxTrialNumber`` has ended an
    experiment before.
    """
    return checkpoint / "finished"


def checkpoint_folder() -> Path:
    """Return the folder that NNI gives a tuner for its own state."""
    return Path(os.environ["NNI_CHECKPOINT_DIRECTORY"])
