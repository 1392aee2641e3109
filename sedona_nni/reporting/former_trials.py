"""How trials were written before they said of which kind they are.

Ledgers, and what NNI keeps of experiments that were begun then, stay readable: what was there tells
the kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["with_kind"]

_COMMON = ("key", "strategy", "task")
_MACHINE = ("device", "threads", "workers")
_TRAIN = ("decoupling", "train", "hyperparameters", "second_objective", "ideal_speedup")
_REPEATED = ("decoupling", "train", "repetitions")
_STUDY = ("replicate", "aux", "train", "seed", "spaces", "budget")


def with_kind(given: Any) -> Any:
    """Return the parameters of a trial as they are written now; what is so already, as it is.

    What was there only to be shown is left out.
    """
    if not isinstance(given, Mapping) or "kind" in given:
        return given
    from sedona_nni.searches import SEARCHES  # late: a training, as it is written now, needs none

    common = {**_chosen(given, _COMMON), "machine": _chosen(given, _MACHINE)}
    if given.get("stage") == "search":
        for kind in (SEARCHES[name] for name in SEARCHES if SEARCHES[name].field in given):
            common |= {"search": kind.name, "settings": given[kind.field]}
        return {"kind": "search", **common, **_chosen(given, ("aux", "train"))}
    if "replicate" in given:
        if given.get("strategy") in SEARCHES:
            kind = SEARCHES[given["strategy"]]
            options = _chosen(given, kind.study_options.model_fields)
            common["search"] = {"settings": given.get(kind.field, {}), "options": options}
        return {"kind": "study", **common, **_chosen(given, _STUDY)}
    if "repetitions" in given:
        return {"kind": "repeated", **common, **_chosen(given, _REPEATED)}
    return {"kind": "train", **common, **_chosen(given, _TRAIN)}


def _chosen(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}
