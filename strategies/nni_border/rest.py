"""The REST interface of a running NNI manager."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import requests

from sedona_nni.errors import CircumstanceError

__all__ = [
    "ManagerApi",
    "ManagerGoneError",
    "final_metric",
    "proxy_exceptions",
    "trial_record",
    "without_proxy",
]

_TIMEOUT_S = 20.0
_LIMITS = {"maxTrialNumber": "MAX_TRIAL_NUM", "maxExperimentDuration": "MAX_EXEC_DURATION"}


class ManagerGoneError(CircumstanceError, ConnectionError):
    """The NNI manager does not answer any more."""


def proxy_exceptions(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep a proxy away from this machine's own addresses.

    Both spellings get all that either names: most programs look at one of them only.

    Args:
        environment: What may name exceptions already.
    """
    names = ("no_proxy", "NO_PROXY")
    given = [host.strip() for name in names for host in environment.get(name, "").split(",")]
    hosts = dict.fromkeys([*filter(None, given), "localhost", "127.0.0.1"])
    return dict.fromkeys(names, ",".join(hosts))


def without_proxy() -> None:
    """Keep a proxy named in this process's environment away from this machine's own addresses.

    NNI's trials and tuners reach their manager with ``requests``, which would ask the proxy.
    """
    os.environ.update(proxy_exceptions(os.environ))


class ManagerApi:
    """Calls to the manager of one experiment.

    A port is nobody's name: when a manager has gone, that of another experiment may answer there.

    Args:
        address: Where the web UI is, e.g. ``"http://localhost:8080"``, with the URL prefix if any.
        experiment_id: NNI's id of the experiment.
    """

    def __init__(self, address: str, experiment_id: str) -> None:
        self.address = address.rstrip("/")
        self._experiment_id = experiment_id
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and this machine

    def get(self, path: str) -> Any:
        """Return the JSON (or else the text) at ``path``, below ``api/v1/nni``.

        Raises:
            ManagerGoneError: if nobody answers, another manager does, or not with success.
        """
        response = self._request("GET", path)
        try:
            return response.json()
        except ValueError:
            return response.text

    def check(self) -> None:
        """Check that it is the experiment's manager that answers.

        Raises:
            ManagerGoneError: if it is not.
        """
        response = self._send("GET", "experiment")
        try:
            found = response.json()["id"]
        except (ValueError, KeyError, TypeError):  # another server, or a manager without any yet
            found = "no experiment"
        if found != self._experiment_id:
            raise ManagerGoneError(
                f"the NNI manager at {self.address} has {found}, not {self._experiment_id}"
            )

    def end_experiment(self) -> None:
        """Let the experiment be done when the trials submitted so far have ended."""
        self.set_max_trials(max(1, len(self.get("trial-jobs"))))

    def set_max_trials(self, number: int) -> None:
        """Let the experiment be done when so many trials have ended, be it well or not."""
        profile = self.get("experiment")
        profile["params"]["maxTrialNumber"] = number
        self._request("PUT", "experiment?update_type=MAX_TRIAL_NUM", profile)

    def lift_limits(self) -> None:
        """Let the experiment go on beyond its ``maxTrialNumber`` and ``maxExperimentDuration``."""
        profile = self.get("experiment")
        for name, kind in _LIMITS.items():
            profile["params"].pop(name, None)
            self._request("PUT", f"experiment?update_type={kind}", profile)

    def _request(self, method: str, path: str, data: Any = None) -> requests.Response:
        self.check()
        return self._send(method, path, data)

    def _send(self, method: str, path: str, data: Any = None) -> requests.Response:
        url = f"{self.address}/api/v1/nni/{path}"
        try:
            response = self._session.request(method, url, json=data, timeout=_TIMEOUT_S)
            response.raise_for_status()
        except requests.RequestException as error:
            raise ManagerGoneError(f"the NNI manager at {self.address}: {error}") from None
        return response


def trial_record(job: dict[str, Any]) -> dict[str, Any]:
    """Return what the tuner sent for a trial: ``{"parameter_id", "parameters", ...}``.

    Args:
        job: An entry of ``trial-jobs``.
    """
    hyper_parameters = job.get("hyperParameters")
    record: dict[str, Any] = json.loads(hyper_parameters[0]) if hyper_parameters else {}
    return record


def final_metric(job: dict[str, Any]) -> Any:
    """Return the final result as a trial sent it (see `strategies.nni_border.wire`), or None.

    Args:
        job: An entry of ``trial-jobs``.
    """
    metrics = job.get("finalMetricData")
    return json.loads(json.loads(metrics[0]["data"])) if metrics else None  # JSON within JSON
