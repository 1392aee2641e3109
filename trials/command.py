"""The command ``sedona-nni-trial``, the ``trialCommand`` of every experiment.

It is found in any folder. ``python -m trials``, as experiments had it before, is not: Python looks
for a module first where it is started, and there may be other trials.
"""

from __future__ import annotations

import sys

from sedona_nni.extras import how_to_get

__all__ = ["main"]


def main() -> int:
    """Run the trial that this process was started for; return the exit code."""
    try:
        from sedona_nni.trials.__main__ import main as run_trial
    except ModuleNotFoundError as error:
        missing = how_to_get(error)
        if missing is None:
            raise
        print(f"sedona-nni-trial: a trial needs {missing}", file=sys.stderr)
        return 2
    return run_trial()
