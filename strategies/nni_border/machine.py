"""A machine's side of trials that run there; the manager's is ``machines.js``.

It is called over SSH with JSON as its only argument, and answers with JSON, or ends with a line on
standard error that says what is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

import sedona_nni
from sedona_nni.files import write_json
from sedona_nni.strategies.nni_border.launcher import require_option
from sedona_nni.strategies.nni_border.scripts import path_of_trials

__all__ = ["main"]


def main() -> None:
    """Start what keeps trials here, by NNI's own scripts."""
    config = json.loads(sys.argv[1])
    version = config.pop("sedonaNniVersion")
    if sedona_nni.__version__ != version:
        sys.exit(f"has sedona-nni {sedona_nni.__version__}, not {version}")
    from nni.tools.nni_manager_scripts import create_trial_keeper_dir, launch_trial_keeper

    sys.argv[1:] = [config["experimentId"], config["environmentId"]]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        create_trial_keeper_dir.main()
    folder = Path(printed.getvalue().strip())
    write_json(folder / "launcher_config.json", config)

    os.environ["PATH"] = path_of_trials()
    # By these bash sees that it was started over SSH, and reads a file that may change PATH
    for name in ("SSH_CLIENT", "SSH_CONNECTION"):
        os.environ.pop(name, None)
    # Its server is for its trials, and asks nobody who he is: loopback is enough
    hooks = [Path(__file__).with_name(name) for name in ("loopback.js", "keeper.js")]
    os.environ["NODE_OPTIONS"] = " ".join(map(require_option, hooks))
    sys.argv[1:] = [str(folder)]
    launch_trial_keeper.main()


if __name__ == "__main__":
    main()
