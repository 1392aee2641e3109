"""A trial's side of an experiment without NNI's manager: files in a folder of its own.

parameters.json    what it is to do
reports.jsonl      what it has reported on its way, a line each
final-result.json  what came of it
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import psutil

from sedona_nni.errors import SedonaError
from sedona_nni.files import append_line, read_json, write_json
from sedona_nni.strategies.nni_border.wire import result_file

__all__ = [
    "HOST",
    "OUTPUT",
    "PARAMETERS_FILE",
    "REPORTS_FILE",
    "HostGoneError",
    "host_mark",
    "is_gone",
    "is_of_processes",
    "report_final",
    "report_intermediate",
    "trial_parameters",
]

OUTPUT = "NNI_OUTPUT_DIR"
"""In a trial's environment: its folder, as NNI calls it."""

HOST = "SEDONA_NNI_HOST"
"""In a trial's environment: who runs it, a `host_mark`."""

PARAMETERS_FILE = "parameters.json"
REPORTS_FILE = "reports.jsonl"


class HostGoneError(SedonaError):
    """Who has started the trial has ended."""


def is_of_processes() -> bool:
    """Return whether this process is a trial of an experiment without NNI's manager."""
    return HOST in os.environ


def host_mark() -> str:
    """Return what a trial knows this process by, which is there when the trial begins."""
    return f"{os.getpid()}"


@functools.cache
def _host() -> psutil.Process | None:
    """Return who has started this trial, as seen when first asked."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int(os.environ[HOST]))
    return None


def is_gone() -> bool:
    """Return whether who has started this trial has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        host = _host()
        return host is None or not host.is_running() or host.status() == psutil.STATUS_ZOMBIE
    return True


def _folder() -> Path:
    return Path(os.environ[OUTPUT])


def trial_parameters() -> dict[str, Any]:
    """Return what this trial is to do."""
    parameters: dict[str, Any] = read_json(_folder() / PARAMETERS_FILE)
    return parameters


def report_intermediate(metrics: Mapping[str, float | str | None]) -> None:
    """Report numbers on the way.

    Args:
        metrics: By name, with ``"default"`` for what trials are compared by; None stands for a
            number that there is not yet, and is left out.

    Raises:
        HostGoneError: if who has started the trial has ended. A trial without it should end: it
            is started again when the experiment goes on.
    """
    known = {name: value for name, value in metrics.items() if value is not None}
    _check_host()
    line = json.dumps({"default": math.nan, **known}, default=float)
    append_line(_folder() / REPORTS_FILE, line)


def report_final(result: Mapping[str, Any], shown: Collection[str]) -> None:
    """Leave the final result.

    Args:
        result: JSON values by name.
        shown: Of no account: nothing is shown.

    Raises:
        HostGoneError: see `report_intermediate`.
    """
    _check_host()
    write_json(result_file(_folder()), dict(result))


def _check_host() -> None:
    if is_gone():
        raise HostGoneError(
            "`sedona-nni run`, which has started this trial, has ended; the same command goes on"
        )
