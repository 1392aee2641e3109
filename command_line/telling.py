"""What several commands say while they work, and at their end."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from sedona_nni.printable import printable

if TYPE_CHECKING:
    from sedona_nni.data.sets import Contents
    from sedona_nni.decouplings.outcome import SearchOutcome
    from sedona_nni.progress import Narrator


def tell_contents(contents: Contents | None) -> None:
    """Say what of a data set is used, and what is left out."""
    for line in [] if contents is None else contents.in_words():
        print(printable(line), file=sys.stderr)


def narrator() -> Narrator:
    """Return what tells of the progress of a search or a training."""
    from sedona_nni.progress import Narrator

    return Narrator(lambda line: print(line, file=sys.stderr))


def show_numbers(numbers: dict[str, Any], as_json: bool) -> None:
    """Print what came of a training, a line for each number and each process, or all as JSON."""
    if as_json:
        print(json.dumps(_for_json(numbers)))
    else:
        for name, value in numbers.items():
            if isinstance(value, int | float):  # what is more is for reports
                print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        for number, rank in enumerate(numbers.get("ranks", [])):
            print(
                f"rank {number}, block {rank['block'] + 1}: "
                f"a step {rank['step_peak_mib']:.1f} MiB, "
                f"its process {rank['peak_resident_mib']:.1f} MiB, "
                f"sent {rank['sent_bytes'] / 2**20:.1f} MiB"
            )


def _for_json(value: Any) -> Any:
    """Return a value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _for_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_for_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def undecided_share(result: SearchOutcome) -> dict[str, float]:
    """Return that of a relaxation; other searches decide nothing boundary by boundary."""
    shown = result.for_reports()
    return {"undecided_share": shown["undecided"]} if "undecided" in shown else {}


def show_undecided(result: SearchOutcome) -> None:
    """Print how many boundaries a relaxation left open."""
    for share in undecided_share(result).values():
        count = result.num_layers - 1
        print(
            f"{round(share * count)} of {count} boundaries are undecided: "
            "a_loc is within 0.01 of 0.5"
        )
