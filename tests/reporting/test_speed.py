"""`sedona_nni.reporting.speed`, and where reports show what it finds; worked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from report_records import COMPUTE, trained

from sedona_nni.errors import InputError
from sedona_nni.reporting.build import Source, build_report
from sedona_nni.reporting.data import Group, Report
from sedona_nni.reporting.ledger import TrialRecord
from sedona_nni.reporting.page import render
from sedona_nni.reporting.results import as_markdown, closing_table, comparison
from sedona_nni.reporting.speed import ideal_speedup, measured_speedups
from sedona_nni.reporting.text import summary_table

TRAIN = {"seed": 3, "epochs": 2, "batch_size": 10, "lr": 0.1}
RANKS = [
    {"block": block, "step_peak_mib": 3.0 - block, "peak_resident_mib": 300.0, "sent_bytes": 9}
    for block in range(2)
]


def training(key: str, time_s: float, given: Any = None, **more: Any) -> TrialRecord:
    """A training of 50 images on two processors; only those named uniform are cut."""
    cut = {} if key.startswith("uniform") else {"decoupling": {"backbone": "vgg11"}}
    memory = {"ideal_peak_memory_mib": 22.2, "peak_resident_mib": 444.4}
    result = {"device": "cpu", "cores": 2, **memory, **more}
    compute = {"compute": COMPUTE, "sizes": [32] * 8}
    return trained(
        key, 0.6, given={"train": TRAIN, **cut, **(given or {})}, time_s=time_s, **compute, **result
    )


WHOLE = training("backprop-000", 6.0)
IN_PARALLEL = training("uniform-000", 4.0, ranks=RANKS)


def test_back_propagation_s_time_over_that_of_a_training() -> None:
    slower, faster = training("backprop-001", 8.0), training("backprop-002", 1.0)
    records = [WHOLE, IN_PARALLEL, slower, faster]
    found = measured_speedups(records)
    assert found["uniform-000"] == pytest.approx(6 / 4)  # the median of 1, 6 and 8
    assert found["backprop-001"] == pytest.approx(6 / 8)
    assert ideal_speedup(IN_PARALLEL) == pytest.approx(8 / 6)


@pytest.mark.parametrize(
    "other",
    [
        training("uniform-000", 4.0, cores=1),
        training("uniform-000", 4.0, device="cuda"),
        training("uniform-000", 4.0, cores=None),  # of an earlier version
        training("uniform-000", 4.0, images=100),  # each block by itself
        training("uniform-000", 4.0, given={"train": {**TRAIN, "batch_size": 20}}),
        training("uniform-000", 4.0, given={"hyperparameters": {"epochs": 3}}),
    ],
    ids=["cores", "device", "unknown", "sequential", "batch", "tuned"],
)
def test_what_cannot_be_compared_is_not(other: TrialRecord) -> None:
    assert "uniform-000" not in measured_speedups([WHOLE, other])
    assert "speed-up" not in closing_table(comparison([WHOLE, other]))[0]


def test_the_closing_table_has_columns_for_what_is_known() -> None:
    rows = comparison([WHOLE, IN_PARALLEL])
    whole, cut = (line.split(" | ") for line in as_markdown(rows).splitlines()[2:])
    assert closing_table(rows)[0][6:10] == [
        *("largest block", "process peak", "processes", "speed-up"),
    ]
    assert cut[6:10] == ["22 MiB", "444 MiB", "2", "1.50× of 1.33×"]
    assert whole[6:10] == ["22 MiB", "444 MiB", "1", "1.00× of 1.00×"]
    one = closing_table(comparison([training("uniform-000", 4.0)]))[0]
    assert one[6:9] == ["largest block", "process peak", "training"]
    former = closing_table(comparison([trained("uniform-000", 0.6)]))[0]
    assert former[5:7] == ["peak memory", "training"]


def group(records: Sequence[TrialRecord]) -> Group:
    (only,) = build_report([Source("e0", records)], no_importance).groups
    return only


def no_importance(trials: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    raise AssertionError("too few to tell")


@pytest.mark.slow(reason="draws every picture")
def test_the_report_shows_it_beside_the_ideal_one() -> None:
    found = group([WHOLE, IN_PARALLEL])
    headings, rows = summary_table(found)
    shown = dict(zip(headings, rows[1], strict=True))
    assert (shown["ideal speed-up"], shown["measured speed-up"]) == ("1.33×", "1.50×")
    assert shown["process peak"] == "444 MiB"
    page = render(Report(groups=[found]), "a test")
    assert "Test accuracy against measured speed-up" in page
    assert "1.50×</td>" in page
    assert page.count("22.2 MiB</td>") == 4  # in either table, of either training
    assert "<small>(largest of 2)</small>" in page

    former = group([trained("backprop-000", 0.6), trained("uniform-000", 0.6, compute=COMPUTE)])
    assert "measured speed-up" not in summary_table(former)[0]
    page = render(Report(groups=[former]), "a test")
    assert "measured speed-up</th>" not in page
    assert "process peak</th>" not in page


def test_a_ledger_whose_compute_makes_no_sense_is_refused_in_one_line() -> None:
    wrong = training("uniform-000", 4.0)
    assert wrong.result is not None
    result = wrong.result.model_copy(update={"compute": {"layers": 1}})
    with pytest.raises(InputError, match=r"uniform-000\.compute\.backbone: "):
        comparison([wrong.model_copy(update={"result": result})])
