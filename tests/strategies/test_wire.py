"""`sedona_nni.strategies.nni_border.wire`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sedona_nni.strategies.nni_border.wire import packed, unpacked, with_summary, without_summary

PARAMETERS = {"key": "sedona-000", "task": {"backbone": "vgg11"}, "lr": 0.1, "schedule": None}
RESULT = {"default": 0.5, "time_s": 3.0, "key": "sedona-000", "history": {"loss": [1.0, 0.5]}}


def test_parameters_get_a_summary_and_lose_nothing() -> None:
    summary = {"key": "sedona-000", "lr": 0.1, "schedule": None}
    sent = with_summary(PARAMETERS, summary)
    # the web UI's own name for it, in whose place nothing else is shown; it breaks at a null
    assert sent.pop("mutation_summary") == {"key": "sedona-000", "lr": 0.1, "schedule": "null"}
    assert sent == PARAMETERS
    assert without_summary(with_summary(PARAMETERS, summary)) == PARAMETERS


def test_a_result_shows_what_it_should_and_loses_nothing(tmp_path: Path) -> None:
    sent = packed(RESULT, ["default", "time_s", "loss"], tmp_path)
    assert sent == {"default": 0.5, "time_s": 3.0, "key": "sedona-000"}
    assert unpacked(sent, tmp_path) == RESULT


def test_without_a_folder_in_common_the_rest_is_one_entry() -> None:
    sent = packed(RESULT, ["default"], None)
    assert set(sent) == {"default", "key", "details"}
    assert unpacked(sent, None) == RESULT


def test_a_result_without_default_is_left_out_of_the_ranking(tmp_path: Path) -> None:
    sent = packed(RESULT, [], tmp_path)
    assert sent == {"key": "sedona-000"}
    assert unpacked(sent, tmp_path) == RESULT


@pytest.mark.parametrize("result", [RESULT, 0.5, {"default": 1.0, "details": "none"}, None])
def test_results_of_earlier_versions_and_of_others_stay_as_they_are(
    result: Any, tmp_path: Path
) -> None:
    assert unpacked(result, tmp_path) == result
    assert unpacked(result, None) == result
