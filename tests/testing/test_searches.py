"""The suite for searches notices what it is for: a search that fails in one way fails that test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from third_search import Drawing, DrawingSettings

from sedona_nni.searches import SEARCHES, register_search
from sedona_nni.testing.searches import SearchConformance


class Suite(SearchConformance):
    name = "drawing"
    settings = DrawingSettings()
    depends_on = ("train",)


TESTS = [name for name in vars(SearchConformance) if name.startswith("test_")]


def failures(fault: str, folder: Path) -> set[str]:
    """Return the tests of the suite that a search with a fault fails."""

    class Fresh(Suite):
        """One whose first search was not run yet."""

    register_search(Drawing(fault))
    failed = set()
    for name in TESTS:
        test = getattr(Fresh(), name)
        directory = folder / name
        directory.mkdir()
        try:
            test(directory) if "tmp_path" in test.__code__.co_varnames else test()
        except (Exception, pytest.fail.Exception):
            failed.add(name.removeprefix("test_"))
    return failed


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    SEARCHES.remove("drawing")


def test_a_search_without_a_fault_passes(tmp_path: Path) -> None:
    assert failures("", tmp_path) == set()


@pytest.mark.fast_cases(4)
@pytest.mark.parametrize(
    ("fault", "failed"),
    [
        ("knows no seed", "another_seed_is_another_search"),
        ("peeps", "it_depends_on_the_images_that_it_says_and_on_no_other"),
        ("cheats", "it_depends_on_the_images_that_it_says_and_on_no_other"),
        ("is moody", "the_same_search_finds_the_same"),
        ("stirs", "it_leaves_the_random_numbers_of_others_alone"),
        ("forgets", "interrupted_it_goes_on_to_the_same_end"),
        ("is unfit for JSON", "its_numbers_are_fit_for_json"),
        ("counts in halves", "its_numbers_are_fit_for_json"),
        ("mistakes", "its_outcome_is_of_what_was_searched"),
        ("is short", "its_evidence_is_a_number_for_each_block_and_auxiliary_network"),
    ],
)
def test_a_fault_is_found(fault: str, failed: str, tmp_path: Path) -> None:
    assert failed in failures(fault, tmp_path)
