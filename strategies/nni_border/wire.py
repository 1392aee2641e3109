"""What goes through NNI, in the form in which its web UI shows what people look for.

The web UI makes an axis and a column of every entry of a trial's parameters, unless there is a
``mutation_summary``: then of the entries of this one, and shows the others on request ("Original
parameters"). It was made for architecture search, whose parameters are whole models.
Of a final result it takes every entry, and the result into the ranking if there is a ``default``.
So the other entries go by a file, or as one where trial and tuner share none.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sedona_nni.files import read_json, write_json

__all__ = [
    "folders_of_trial",
    "packed",
    "result_file",
    "trial_folder",
    "unpacked",
    "with_summary",
    "without_summary",
]

_SUMMARY = "mutation_summary"
_DETAILS = "details"


def with_summary(parameters: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as they are sent: with a summary.

    Args:
        parameters: All that defines the trial.
        summary: Texts and numbers that get an axis and a column, by name.
    """
    # The page would break at a None
    shown = {name: "null" if value is None else value for name, value in summary.items()}
    return {**parameters, _SUMMARY: shown}


def without_summary(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as they were before they were sent."""
    return {name: value for name, value in parameters.items() if name != _SUMMARY}


def trial_folder(experiment: Path, trial_id: str) -> Path:
    """Return the folder that a trial on this machine has, its NNI_OUTPUT_DIR.

    Args:
        experiment: NNI's folder of the experiment.
        trial_id: NNI's id of the trial.
    """
    return experiment / "environments" / "local-env" / "trials" / trial_id


def result_file(folder: Path) -> Path:
    """Return where a trial on this machine leaves its result.

    Args:
        folder: The trial's.
    """
    return folder / "final-result.json"


def folders_of_trial(experiment: Path, key: str) -> list[Path]:
    """Return where a trial on this machine has come to a result; after a resume, maybe twice.

    Args:
        experiment: NNI's folder of the experiment.
        key: Our name of the trial.
    """
    found = map(result_file, trial_folder(experiment, "").glob("*"))
    return [path.parent for path in sorted(found) if path.exists() and _key_in(path) == key]


@functools.cache  # a trial's folder stays that trial's
def _key_in(path: Path) -> str | None:
    details = read_json(path)
    key = details.get("key") if isinstance(details, dict) else None
    return key if isinstance(key, str) else None


def packed(
    result: Mapping[str, Any], shown: Collection[str], folder: Path | None
) -> dict[str, Any]:
    """Return a final result as it is sent.

    Args:
        result: JSON values by name, ``"key"`` among them.
        shown: Names of numbers that get an axis and a column. Without ``default`` among them none
            does, and the web UI leaves the trial out of the ranking.
        folder: Of the trial, for what is not shown; None if the tuner cannot read it.
    """
    sent = {name: result[name] for name in (*shown, "key") if name in result}
    rest = {name: result[name] for name in result if name not in sent}
    if folder is None:
        return {**sent, _DETAILS: rest}
    write_json(result_file(folder), {**rest, "key": result["key"]})  # to be found by
    return sent


def unpacked(result: Any, folder: Path | None) -> Any:
    """Return a final result as it was before it was `packed`; anything else as it is."""
    if not isinstance(result, Mapping):
        return result
    details = result.get(_DETAILS)
    if isinstance(details, Mapping):
        sent = {name: value for name, value in result.items() if name != _DETAILS}
        return {**sent, **details}
    if folder is not None and result_file(folder).exists():
        return {**result, **read_json(result_file(folder))}
    return result
