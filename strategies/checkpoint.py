"""What an experiment's tuner keeps in its checkpoint folder, by the names of the files."""

from __future__ import annotations

__all__ = ["ANNOUNCED_FILE", "COMPUTE_FILE", "LEDGER_FILE", "STUDY_FILE"]

ANNOUNCED_FILE = "max-trial-number.json"  # ours, and so not one of the experiment's file
COMPUTE_FILE = "compute.json"  # measured once, so that a resumed experiment goes by the same
LEDGER_FILE = "trials.json"
STUDY_FILE = "optuna.db"
