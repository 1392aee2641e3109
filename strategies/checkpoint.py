"""What an experiment's tuner keeps in its checkpoint folder, by the names of the files."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ANNOUNCED_FILE",
    "COMPUTE_FILE",
    "LEDGER_FILE",
    "STUDY_FILE",
    "TRIALS_FILE",
    "ledger_in",
]

ANNOUNCED_FILE = "max-trial-number.json"  # ours, and so not one of the experiment's file
COMPUTE_FILE = "compute.json"  # measured once, so that a resumed experiment goes by the same
LEDGER_FILE = "trials.jsonl"
STUDY_FILE = "optuna.db"
TRIALS_FILE = (
    "trials.json"  # the ledger as one document: among results, and of experiments of before
)


def ledger_in(folder: Path) -> Path | None:
    """Return the file of the ledger that a folder of an experiment has, be it of results.

    None if there is none.
    """
    files = [folder / LEDGER_FILE, folder / TRIALS_FILE]
    return next((file for file in files if file.exists()), None)
