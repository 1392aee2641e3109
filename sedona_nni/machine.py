"""Where something is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DeviceName", "Machine"]

DeviceName = Literal["auto", "cpu", "cuda"]


class Machine(BaseModel):
    """What a trial may use of the machine that it runs on.

    Attributes:
        device: ``"auto"`` takes a GPU if there is one. Each trial has a GPU of its own.
        threads: CPU threads per trial; by default PyTorch decides.
        workers: Processes per trial that read image files, see
            `sedona_nni.data.batches.FolderImages.workers`; 0 for none beside the trial's own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: DeviceName = "auto"
    threads: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=0)
