"""A trial that takes its parameters at the border and makes its results up.

The environment variable FAKE_TRIAL holds JSON, by the stage or the key of a trial:
    {"search": {"seconds": 3}, "uniform-001": {"fail": true}, ...}
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from strategies.nni_border.trial import report_final, report_intermediate, trial_parameters

parameters = trial_parameters()
key, stage = parameters["key"], parameters["stage"]
behaviour = {}
plan = json.loads(os.environ.get("FAKE_TRIAL", "{}"))
for name in (stage, key):
    behaviour.update(plan.get(name, {}))

with open(os.environ["FAKE_TRIAL_LOG"], "a", encoding="utf-8") as log:
    log.write(
        json.dumps({"key": key, "pid": os.getpid(), "id": os.environ["NNI_TRIAL_JOB_ID"]}) + "\n"
    )

time.sleep(behaviour.get("delay", 0))
report_intermediate({"default": 0.25, "loss": 1.5})
marker = Path(os.environ["NNI_OUTPUT_DIR"]) / "been-here"
again = marker.exists()
marker.touch()
time.sleep(behaviour.get("seconds_again" if again else "seconds", 0))
if behaviour.get("fail"):
    sys.exit("this trial was told to fail")
if behaviour.get("silent"):
    sys.exit(0)

result = {
    "key": key,
    "stage": stage,
    "strategy": parameters["strategy"],
    "default": behaviour.get("accuracy", 0.5),
    "test_accuracy": 0.4,
    "loss": 1.0,
    "parameters": 1000,
    "macs": 2000,
    "peak_memory_mib": 10.0,
    "time_s": 1.0,
}
if stage == "search":
    boundaries = 7  # vgg11
    result["search_result"] = {
        "backbone": parameters["task"]["backbone"],
        "dataset": parameters["task"]["dataset"],
        "aux_choices": parameters["aux"],
        "alpha": [[float(i == 4), 0.0] for i in range(boundaries)],
        "beta": [[float(c == 1) for c in range(len(parameters["aux"]))]] * boundaries,
    }
report_final(result)
