"""The REST interface of a running NNI manager."""

from __future__ import annotations

import json
import os
from typing import Any

import requests

from sedona_nni.errors import SedonaError

__all__ = ["ManagerApi", "ManagerGoneError", "final_metric", "trial_record", "without_proxy"]

_TIMEOUT_S = 20.0


class ManagerGoneError(SedonaError, ConnectionError):
    """The NNI manager does not answer any more."""


def without_proxy() -> None:
    """Keep a proxy named in the environment away from this machine's own addresses.

    NNI's trials and tuners reach their manager with ``requests``, which would ask the proxy.
    """
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        local = [host for host in ("localhost", "127.0.0.1") if host not in hosts]
        os.environ[name] = ",".join([*hosts, *local])


class ManagerApi:
    """Calls to one manager.

    Args:
        address: Where the web UI is, e.g. ``"http://localhost:8080"``, with the URL prefix if any.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy between us and this machine

    def get(self, path: str) -> Any:
        """Return the JSON (or else the text) at ``path``, below ``api/v1/nni``.

        Raises:
            ManagerGoneError: if nobody answers, or not with success.
        """
        response = self._request("GET", path)
        try:
            return response.json()
        except ValueError:
            return response.text

    def end_experiment(self) -> None:
        """Let the experiment be done when the trials submitted so far have ended."""
        profile = self.get("experiment")
        profile["params"]["maxTrialNumber"] = max(1, len(self.get("trial-jobs")))
        self._request("PUT", "experiment?update_type=MAX_TRIAL_NUM", profile)

    def stop(self) -> None:
        """Ask the manager to stop its trials, its tuner and itself."""
        self._request("DELETE", "experiment")

    def _request(self, method: str, path: str, data: Any = None) -> requests.Response:
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
    """Return the final result that a trial reported, None without one.

    Args:
        job: An entry of ``trial-jobs``.
    """
    metrics = job.get("finalMetricData")
    return json.loads(json.loads(metrics[0]["data"])) if metrics else None  # JSON within JSON
