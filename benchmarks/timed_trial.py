"""A trial of an experiment that writes down when it reached what.

It is ``sedona-nni-trial`` with a clock: `start_up` puts it in its place. A search trial leaves
``start-up.json`` in its folder, once it has done its first training step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sedona_nni.data.batches import Batch
    from sedona_nni.reporting.trial import AnyResult, AnyTrial
    from sedona_nni.trials.__main__ import Claimed, Report


def _process_start() -> float:
    """Return when the system started this process, seconds since it booted."""
    ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    return int(ticks) / os.sysconf("SC_CLK_TCK")


_reached = {"process": _process_start(), "python": time.clock_gettime(time.CLOCK_BOOTTIME)}


def _reach(what: str) -> None:
    _reached.setdefault(what, time.clock_gettime(time.CLOCK_BOOTTIME))


def main() -> int:
    """Run the trial that NNI has started this process for; return the exit code."""
    import sedona_nni.trials.__main__ as trials

    _reach("imports")
    run = trials.run

    def timed_run(trial: AnyTrial, device: Claimed, directory: Path, report: Report) -> AnyResult:
        _reach("parameters")
        if trial.kind == "search":
            _watch_search()
        return run(trial, device, directory, report)

    trials.run = timed_run
    return trials.main()


def _watch_search() -> None:
    import sedona_nni.trials.search
    from sedona_nni.files import write_json
    from sedona_nni.searches.sedona.search import Search

    _reach("search imports")
    load_splits, steps = sedona_nni.trials.search.load_splits, Search.steps

    def timed_load(*arguments: object, **options: object) -> object:
        splits = load_splits(*arguments, **options)  # type: ignore[arg-type]
        _reach("data")
        return splits

    def timed_steps(search: Search, *batches: Iterator[Batch]) -> Iterator[dict[str, float]]:
        _reach("network")
        Search.steps = steps  # type: ignore[method-assign]
        each = steps(search, *batches)
        numbers = next(each)
        _reach("first step")
        write_json(Path(os.environ["NNI_OUTPUT_DIR"]) / "start-up.json", _reached)
        yield numbers
        yield from each

    sedona_nni.trials.search.load_splits = timed_load  # type: ignore[assignment]
    Search.steps = timed_steps  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    sys.exit(main())
