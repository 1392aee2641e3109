"""Where the commands of this project are, for those who start trials."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["TRIAL", "path_of_trials"]

TRIAL = "sedona-nni-trial"
"""The command that a trial is."""


def path_of_trials() -> str:
    """Return the PATH on which trials find their command, without activating anything.

    ``python`` on it is the one that runs this.
    """
    user = sysconfig.get_preferred_scheme("user")
    scripts = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", user)]
    here = [str(Path(sys.executable).parent), *scripts]
    return os.pathsep.join([*dict.fromkeys(here), os.environ.get("PATH", os.defpath)])
