"""A trial of about a second that makes its results up; no torch. `endurance` runs hundreds.

It leaves ``brief.json`` in its folder: when its process began, and when it was done, in seconds
since the machine was started.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil

from sedona_nni.files import write_json
from sedona_nni.strategies import process_trial
from sedona_nni.strategies.nni_border import trial as nni_trial

__all__ = ["BRIEF_FILE", "SECONDS"]

BRIEF_FILE = "brief.json"
SECONDS = "SEDONA_NNI_BRIEF_S"
"""In its environment: how long it sleeps."""

_EPOCHS = 3


def main() -> int:
    """Run the trial that this process was started for; return the exit code."""
    host = process_trial if process_trial.is_of_processes() else nni_trial
    parameters = host.trial_parameters()
    accuracy = 1 / (1 + parameters["hyperparameters"]["lr"])
    history: dict[str, list[float]] = {"epoch": [], "default": []}
    for epoch in range(1, _EPOCHS + 1):
        time.sleep(float(os.environ[SECONDS]) / _EPOCHS)
        history["epoch"].append(epoch)
        history["default"].append(accuracy * epoch / _EPOCHS)
        host.report_intermediate(
            {"default": history["default"][-1], "epoch": epoch, "epochs": _EPOCHS}
        )
    result = {
        "key": parameters["key"],
        "kind": "train",
        "default": accuracy,
        "test_accuracy": accuracy - 0.01,
        "time_s": 1.0,
        "images": 1000,
        "parameters": 1000,
        "peak_memory_mib": 10.0,
        "history": history,
    }
    host.report_final(result, ["default", "test_accuracy", "time_s"])
    folder = Path(os.environ[process_trial.OUTPUT])
    # Both since the machine was started: when that was the system knows by the second alone
    began = psutil.Process().create_time() - psutil.boot_time()
    ended = time.clock_gettime(time.CLOCK_BOOTTIME)
    write_json(folder / BRIEF_FILE, {"began": began, "ended": ended})
    return 0


if __name__ == "__main__":
    sys.exit(main())
