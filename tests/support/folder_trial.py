"""A trial in a folder that makes its results up; no torch.

In the folder that it is started in, ``plan.json`` says what, by the kind or the key of a trial:
    {"train": {"accuracies": [0.1, 0.2], "seconds": 0.1}, "uniform-001": {"fail": true}}
"kills": 2 lets its first two starts be killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from sedona_nni.errors import SedonaError
from sedona_nni.strategies.process_trial import (
    OUTPUT,
    report_final,
    report_intermediate,
    trial_parameters,
)

FOUND = {
    "format": "sedona-nni/search-result/1",
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1", "conv2"],
    "alpha": [[float(i == 4), 0.0] for i in range(7)],
    "beta": [[0.0, 1.0]] * 7,
}


def main() -> int:
    parameters = trial_parameters()
    key, kind = parameters["key"], parameters["kind"]
    plan = json.loads(Path("plan.json").read_text())
    does: dict[str, Any] = plan.get(kind, {}) | plan.get(key, {})
    with Path(os.environ[OUTPUT], "starts").open("a+") as starts:
        starts.write("started\n")
        starts.seek(0)
        if len(starts.readlines()) <= does.get("kills", 0):
            os.kill(os.getpid(), signal.SIGKILL)
    accuracies = does.get("accuracies", [0.5])
    for epoch, accuracy in enumerate(accuracies, start=1):
        time.sleep(does.get("seconds", 0))
        report_intermediate({"default": accuracy, "epoch": epoch, "epochs": len(accuracies)})
    if does.get("fail"):
        print("there is no luck today", file=sys.stderr)
        return 1
    if does.get("silent"):
        return 0
    result = {"key": key, "default": accuracies[-1]}
    if kind == "search":
        result["search_result"] = FOUND
    report_final(result, ())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SedonaError as error:
        print(f"sedona-nni: {error}", file=sys.stderr)
        sys.exit(1)
