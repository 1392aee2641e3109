"""A trial that takes its parameters at the border and makes its results up.

The environment variable FAKE_TRIAL, or a file plan.json where it runs, holds JSON, by the kind or
the key of a trial:
    {"search": {"seconds": 3}, "uniform-001": {"fail": true, "accuracies": [0.1, 0.2]}, ...}
and "first_asks_late": true lets the first trial ask for its parameters after the second.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sedona_nni.strategies.nni_border.trial import (
    report_final,
    report_intermediate,
    trial_parameters,
)

beside = Path("plan.json")
given = beside.read_text() if beside.exists() else os.environ.get("FAKE_TRIAL", "{}")
plan: dict[str, Any] = json.loads(given)
if plan.get("first_asks_late") and os.environ["NNI_TRIAL_SEQ_ID"] == "0":
    time.sleep(4)
parameters = trial_parameters()
key, kind = parameters["key"], parameters["kind"]
behaviour: dict[str, Any] = {}
for name in (kind, key):
    behaviour.update(plan.get(name, {}))

started = {"key": key, "id": os.environ["NNI_TRIAL_JOB_ID"]}
with open(os.environ["FAKE_TRIAL_LOG"], "a", encoding="utf-8") as log:
    log.write(json.dumps(started) + "\n")

report_intermediate({"default": 0.25, "loss": 1.5, "nothing yet": None})
been_here = Path(os.environ["NNI_OUTPUT_DIR"]) / "been-here"  # stays for a second run
for epoch, accuracy in enumerate(behaviour.get("accuracies", []), start=1):
    report_intermediate({"default": accuracy, "loss": 1.5, "epoch": epoch})
    time.sleep(0.5)
seconds = 0 if been_here.exists() else behaviour.get("seconds", 0)
been_here.touch()
time.sleep(seconds)
if behaviour.get("fail"):
    sys.exit("this trial was told to fail")

result: dict[str, Any] = {
    "key": key,
    "kind": kind,
    "default": 0.5,
    "test_accuracy": 0.4,
    "loss": 1.0,
    "parameters": 1000,
    "macs": 2000,
    "peak_memory_mib": 10.0,
    "time_s": 1.0,
}
if kind == "search":
    boundaries = 7  # vgg11
    aux = parameters["aux"]
    result["search_result"] = {
        "format": "sedona-nni/search-result/1",
        "backbone": parameters["task"]["backbone"],
        "dataset": parameters["task"]["dataset"],
        "aux_choices": aux,
        "alpha": [[float(i == 4), 0.0] for i in range(boundaries)],
        "beta": [[float(c == 1) for c in range(len(aux))]] * boundaries,
    }
report_final(result, [] if kind == "search" else ["default", "test_accuracy"])
