"""What goes through NNI, in the form in which its web UI shows what people look for.

The web UI makes an axis and a column of every entry of a trial's parameters, unless there is a
``mutation_summary``: then of the entries of this one, and shows the others on request ("Original
parameters"). It was made for architecture search, whose parameters are whole models.
Of a final result it takes every entry, and the result into the ranking if there is a ``default``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["packed", "unpacked", "with_summary"]

_SUMMARY = "mutation_summary"
_DETAILS = "details"


def with_summary(parameters: Mapping[str, Any], shown: Collection[str]) -> dict[str, Any]:
    """Return a trial's parameters as they are sent: with a summary of those to show.

    Args:
        parameters: All that defines the trial.
        shown: Names of texts and numbers that get an axis and a column.
    """
    chosen = {name: parameters[name] for name in shown if name in parameters}
    # The page would break at a None
    summary = {name: "null" if value is None else value for name, value in chosen.items()}
    return {**parameters, _SUMMARY: summary}


def packed(result: Mapping[str, Any], shown: Collection[str]) -> dict[str, Any]:
    """Return a final result as it is sent: entries to show, and the others as one.

    Args:
        result: JSON values by name.
        shown: Names of numbers that get an axis and a column. Without ``default`` among them none
            does, and the web UI leaves the trial out of the ranking.
    """
    top = {name: result[name] for name in shown if name in result}
    return {**top, _DETAILS: {name: result[name] for name in result if name not in top}}


def unpacked(result: Any) -> Any:
    """Return a final result as it was before it was `packed`; anything else as it is."""
    if not isinstance(result, Mapping) or not isinstance(result.get(_DETAILS), Mapping):
        return result
    top = {name: value for name, value in result.items() if name != _DETAILS}
    return {**top, **result[_DETAILS]}
