"""`sedona_nni.progress`: lines that fit a terminal and say what is done and what is left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sedona_nni.progress import Narrator, duration

ROOT = Path(__file__).parents[1]

_BAR = """
from rich.console import Console
from sedona_nni.progress import progress_bar

with progress_bar(Console(stderr=True)) as bar:
    task = bar.add_task("starting", total=13, best="", left="")
    what = "regularized_evolution-k3-001: epoch 103 of 182, validation accuracy 94.2%"
    bar.update(task, description=what, completed=12, left="> 12 min left", best="best 95.0%")
    bar.refresh()
"""


def shown_in_a_terminal(script: str, width: int) -> list[str]:
    """Run a script in a terminal that is so wide; return the lines, without control sequences."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=there, stdout=there, stderr=there, env=environment
    )
    os.close(there)
    text = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
    os.close(here)
    assert process.wait(60) == 0, text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode())
    return [line for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.mark.parametrize("width", [80, 100])
def test_the_bar_fits_the_terminal_and_keeps_count_and_time(width: int) -> None:
    lines = shown_in_a_terminal(_BAR, width)
    assert lines
    assert max(map(len, lines)) <= width
    last = lines[-1]
    assert last.startswith("regularized_evolution-k3-001: ep")
    for text in ("12 of 13", "> 12 min left", "best 95.0%", "━"):
        assert text in last


def test_a_narrow_terminal_still_shows_count_and_time() -> None:
    last = shown_in_a_terminal(_BAR, 50)[-1]
    assert len(last) <= 50
    assert "12 of 13" in last
    assert "> 12 min left" in last


class Clock:
    """Shows what it is set to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(reports: Iterable[tuple[float, dict[str, Any]]]) -> list[str]:
    """Return what is told of reports, each with the time when it comes."""
    lines: list[str] = []
    clock = Clock()
    narrator = Narrator(lines.append, clock)
    for clock.now, numbers in reports:
        narrator(numbers)
    return lines


def test_a_training_is_told_epoch_by_epoch() -> None:
    accuracies = [0.9, 0.95, 0.942]
    assert told(
        (10.0 * epoch, {"default": accuracy, "loss": 1.0, "epoch": epoch, "epochs": 4})
        for epoch, accuracy in enumerate(accuracies, start=1)
    ) == [
        "epoch 1 of 4, validation accuracy 90.0%, best 90.0% (epoch 1), 30 s left",
        "epoch 2 of 4, validation accuracy 95.0%, best 95.0% (epoch 2), 20 s left",
        "epoch 3 of 4, validation accuracy 94.2%, best 95.0% (epoch 2), 10 s left",
    ]


def test_what_was_done_before_an_interruption_is_not_taken_for_fast() -> None:
    """Its reports come again at once."""
    reports = [(0.01, epoch) for epoch in (1, 2, 3)] + [(20.0, 4), (40.0, 5)]
    lines = told((at, {"default": 0.5, "epoch": n, "epochs": 8}) for at, n in reports)
    assert lines[-1].endswith("60 s left")


def test_a_search_is_told_with_how_decided_it_is() -> None:
    numbers = {"default": 0.881, "loss": 1.0, "decided": 0.123, "step": 60, "steps": 240}
    assert told([(60.0, numbers)]) == [
        "step 60 of 240, validation accuracy 88.1%, decided 12.3%, 3 min left"
    ]


def test_a_probing_tells_which_cut_was_tried() -> None:
    probes = [(1, 2.25, "no cut"), (2, 2.319, "cut after layer 4 (conv2)")]
    lines = told(
        (5.0 * n, {"loss": loss, "least_loss": 2.25, "probe": n, "probes": 29, "tried": probed})
        for n, loss, probed in probes
    )
    assert lines[-1] == (
        "probe 2 of 29, cut after layer 4 (conv2): loss 2.319, least 2.250 (no cut), 2 min left"
    )


def test_another_search_tells_what_it_maximises() -> None:
    assert told([(60.0, {"default": -3.21, "step": 1, "steps": 3})]) == [
        "step 1 of 3, default -3.21, 2 min left"
    ]


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ({"step": 1, "steps": 4, "loss": 2.0}, "step 1 of 4"),
        ({"epoch": 1, "epochs": 4}, "epoch 1 of 4"),
        ({"probe": 1, "probes": 4, "loss": 2.0, "probed": "no cut"}, "probe 1 of 4"),  # of before
        ({"loss": 2.0, "phase": "looks"}, "loss 2, phase looks"),
    ],
)
def test_reports_that_tell_less_are_told_all_the_same(numbers: dict[str, Any], line: str) -> None:
    told: list[str] = []
    Narrator(told.append, clock=lambda: 0.0)(numbers)
    assert told[0].startswith(line)
    assert not told[0].rstrip().endswith(",")


def test_the_last_report_has_no_time_left() -> None:
    assert told([(10.0, {"default": 0.5, "epoch": 1, "epochs": 1})]) == [
        "epoch 1 of 1, validation accuracy 50.0%, best 50.0% (epoch 1)"
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (9000, "2.5 h"),
        (3e5, "3.5 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
