"""Start-up: imports, and a trial that says when it reached what. No times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import start_up
from sedona_nni.strategies.process_trial import HOST, OUTPUT, PARAMETERS_FILE, host_mark

ROOT = Path(__file__).parents[2]


class TestStartUp:
    def test_import_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(start_up, "MODULES", ("sedona_nni.errors",))
        monkeypatch.setattr(start_up, "import_time", {"torch": 2.0, "sedona_nni.errors": 0.5}.get)
        measured = start_up.import_times(2)
        assert measured["torch"] == {"median_s": 2.0, "values_s": [2.0, 2.0]}
        rows = start_up.import_table(measured).rows
        assert rows[1] == ["sedona_nni.errors", "0.50", "0.50", "0.50"]

    @pytest.mark.slow(reason="a trial in a process of its own")
    def test_timed_trial_reaches_every_stage(self, tmp_path: Path) -> None:
        """The trial of the experiment, started without NNI."""
        experiment = start_up.search_experiment("vgg11", batch_size=8)["tuner"]["classArgs"]
        parameters = {
            "stage": "search",
            "key": "search",
            "strategy": "sedona",
            "task": experiment["task"],
            "aux": ["conv1"],
            "search": experiment["search"],
            "device": "cpu",
            "threads": 1,
        }
        code = """if True:
            from benchmarks import timed_trial
            assert timed_trial.main() == 0
        """
        (tmp_path / PARAMETERS_FILE).write_text(json.dumps(parameters))
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, OUTPUT: str(tmp_path), HOST: host_mark()},
            check=True,
        )
        reached = json.loads((tmp_path / "start-up.json").read_text())
        assert list(reached) == ["process", *start_up.STAGES]
        assert sorted(reached.values()) == list(reached.values())

    def test_trial_table_adds_up(self) -> None:
        stages = dict.fromkeys(start_up.STAGES, 1.0)
        rows = start_up.trial_table([{"manager": 5.0, **stages}], "vgg19").rows
        assert rows[0][1] == "5.00"
        assert rows[-1][1] == f"{len(stages):.2f}"
