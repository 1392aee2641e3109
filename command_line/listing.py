"""``list``: the experiments of this user."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sedona_nni.command_line.options import Json
from sedona_nni.command_line.tables import show_table

if TYPE_CHECKING:
    from sedona_nni.strategies.known import KnownExperiment


def list_experiments(as_json: Json = False) -> None:
    """List the experiments of this user: what they are at, the best so far, where they are."""
    from sedona_nni.strategies.known import known_experiments

    found = known_experiments()
    if as_json:
        print(json.dumps([each.model_dump(mode="json") for each in found]))
    elif not found:
        print("there are no experiments yet; `sedona-nni run experiments/quickstart.yml` makes one")
    else:
        _show_known(found)


def _show_known(found: Iterable[KnownExperiment]) -> None:
    show_table(
        ("experiment", "name", "state", "trials", "best so far", "started", "where"),
        (
            [
                each.id,
                each.name,
                each.state,
                f"{each.ended} of {'?' if each.planned is None else each.planned}",
                "–" if each.best is None else f"{each.best:.1%} ({each.best_strategy})",
                f"{each.started:%Y-%m-%d %H:%M}",
                each.web_ui or str(each.folder),
            ]
            for each in found
        ),
    )
