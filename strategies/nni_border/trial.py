"""A trial's side of NNI: its parameters and its results.

To import nni takes a second, mostly for scipy.stats and pandas. A trial on the manager's machine
or one that is reached over SSH can do without: there NNI's own client is a request to the address
in its environment, which does not look at the answer's status.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import psutil
import requests

from sedona_nni.errors import InputError
from sedona_nni.strategies.nni_border.launcher import own_manager
from sedona_nni.strategies.nni_border.rest import (
    ManagerApi,
    ManagerGoneError,
    trial_record,
    without_proxy,
)
from sedona_nni.strategies.nni_border.terminal import ERROR_PARAMETER
from sedona_nni.strategies.nni_border.wire import packed, without_summary

__all__ = ["is_gone", "report_final", "report_intermediate", "trial_parameters"]

_RECORD_WAIT_S = 20.0
_SEND_WAIT_S = 60.0  # on a busy machine a manager is long in answering

_reported = 0  # how often, on the way


@functools.cache
def _local_manager() -> psutil.Process | None:
    """Return the manager that has started this trial, as seen when first asked."""
    return own_manager() if _is_local() else None


def is_gone() -> bool:
    """Return whether the manager has ended that has started this trial on its own machine."""
    manager = _local_manager()
    return manager is not None and not manager.is_running()


def trial_parameters() -> dict[str, Any]:
    """Return the parameters that the tuner meant for this trial.

    NNI hands parameters to whichever trial asks first, while its records, the web UI and a resumed
    experiment go by the trial's id. So the trial follows the record.

    Raises:
        InputError: outside of NNI, when NNI has no parameters for this trial, or with the reason
            why the tuner has none.
        ManagerGoneError: if the manager does not answer.
    """
    if "NNI_TRIAL_JOB_ID" not in os.environ:
        raise InputError(
            "a trial is started by NNI; without it, use `sedona-nni search` or `sedona-nni train`"
        )
    without_proxy()
    if _has_channel():
        parameters = _own_record()["parameters"]
    else:
        import nni

        parameters = nni.get_next_parameter()
    if not isinstance(parameters, dict):
        raise InputError("NNI has no parameters for this trial")
    if ERROR_PARAMETER in parameters:
        raise InputError(parameters[ERROR_PARAMETER])
    return without_summary(parameters)


def _is_local() -> bool:
    return os.environ.get("NNI_PLATFORM") == "local"


def _has_channel() -> bool:
    return os.environ.get("NNI_PLATFORM") in ("local", "remote")


def _manager() -> ManagerApi:
    # http://localhost:8080[/prefix]/env/local-env/<trial>
    address = os.environ["NNI_TRIAL_COMMAND_CHANNEL"].split("/env/")[0]
    return ManagerApi(address, os.environ["NNI_EXP_ID"])


@functools.cache
def _own_record() -> dict[str, Any]:
    try:
        return _recorded() if _is_local() else _handed_out()
    except requests.RequestException:
        raise _gone() from None


def _handed_out() -> dict[str, Any]:
    """Ask what NNI runs on this machine; the manager is out of reach, see ``machines.js``."""
    _send({"type": "request_parameter"})
    give_up_at = time.monotonic() + _SEND_WAIT_S
    while time.monotonic() < give_up_at:
        answer = requests.get(os.environ["NNI_TRIAL_COMMAND_CHANNEL"], timeout=_SEND_WAIT_S)
        if answer.status_code != requests.codes.request_timeout:  # after a second
            answer.raise_for_status()
            record: dict[str, Any] = json.loads(answer.json()["parameter"])
            return record
    raise InputError("NNI has no parameters for this trial")


def _recorded() -> dict[str, Any]:
    manager = _manager()
    give_up_at = time.monotonic() + _RECORD_WAIT_S
    while True:
        record = trial_record(manager.get(f"trial-jobs/{os.environ['NNI_TRIAL_JOB_ID']}"))
        if record:
            return record
        if time.monotonic() > give_up_at:  # the record follows the start of the trial
            raise InputError("NNI has no parameters for this trial")
        time.sleep(0.1)


def report_intermediate(metrics: Mapping[str, float | str | None]) -> None:
    """Show numbers in the web UI's curves.

    Args:
        metrics: Plain numbers by name, with ``"default"`` for the chart of all trials; None (which
            breaks the web UI's page) stands for a number that there is not yet and is left out.
            Texts are for the terminal only.

    Raises:
        ManagerGoneError: if the manager has gone. A trial without it should end: after a resume
            NNI starts it again.
    """
    known = {
        name: value if isinstance(value, str) else float(value)
        for name, value in metrics.items()
        if value is not None
    }
    global _reported
    _report("PERIODICAL", {"default": math.nan, **known})
    _reported += 1


def report_final(result: Mapping[str, Any], shown: Collection[str]) -> None:
    """Report the final result.

    Args:
        result: JSON values by name, numpy and torch numbers included.
        shown: See `sedona_nni.strategies.nni_border.wire.packed`.

    Raises:
        ManagerGoneError: if the manager has gone.
    """
    plain = {name: _plain(value) for name, value in result.items()}
    folder = Path(os.environ["NNI_OUTPUT_DIR"]) if _is_local() else None
    if "default" not in shown and _reported:
        # The web UI shows no number then, but sorts and filters its list by the one reported last
        report_intermediate({"default": None})
    _report("FINAL", packed(plain, shown, folder))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _report(kind: Literal["PERIODICAL", "FINAL"], metrics: dict[str, Any]) -> None:
    if not _has_channel():
        import nni

        reports = {
            "PERIODICAL": nni.report_intermediate_result,
            "FINAL": nni.report_final_result,
        }
        reports[kind](metrics)
        return
    try:
        if _is_local():
            _manager().check()  # whoever answers takes anything
        metric = {
            "parameter_id": _own_record()["parameter_id"],
            "trial_job_id": os.environ["NNI_TRIAL_JOB_ID"],
            "type": kind,
            "sequence": _reported if kind == "PERIODICAL" else 0,
            "value": json.dumps(metrics),
        }
        _send({"type": "metric", "metric": json.dumps(metric)})
    except (requests.RequestException, ManagerGoneError):
        raise _gone() from None


def _send(command: dict[str, str]) -> None:
    address = os.environ["NNI_TRIAL_COMMAND_CHANNEL"]
    requests.put(address, json=command, timeout=_SEND_WAIT_S).raise_for_status()


def _gone() -> ManagerGoneError:
    experiment = os.environ.get("NNI_EXP_ID")
    return ManagerGoneError(
        f"the NNI manager does not answer any more; `sedona-nni resume {experiment}` goes on"
    )
