"""The suite for searches, for each of ours; their registry; and outcomes by their format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from sedona_nni.errors import InputError
from sedona_nni.searches import SEARCHES, Findings, SearchKind, SearchSetup, register_search
from sedona_nni.searches.documents import parse_result
from sedona_nni.searches.probing.probing import ProbeSettings
from sedona_nni.searches.probing.result import ProbeResult
from sedona_nni.searches.sedona.result import SearchResult
from sedona_nni.searches.sedona.settings import SearchSettings
from sedona_nni.searches.slopes.kind import SlopeSettings
from sedona_nni.testing.searches import SearchConformance


@pytest.mark.slow(reason="a dozen searches")
class TestSedona(SearchConformance):
    name = "sedona"
    settings = SearchSettings(
        pretrain_steps=3,
        meta_steps=3,
        inner_steps=2,
        batch_size=8,
        validation_batch_size=8,
        memory_size=2,
        meta_lr=0.1,
    )
    depends_on = ("train", "validation")


@pytest.mark.slow(reason="a dozen searches")
class TestProbing(SearchConformance):
    name = "probe"
    settings = ProbeSettings()
    depends_on = ("train",)


@pytest.mark.slow(reason="a dozen searches")
class TestSlopes(SearchConformance):
    name = "slopes"
    settings = SlopeSettings(steps=34, validation_batch_size=8)  # two legs
    depends_on = ("train", "validation")


class OtherResult(ProbeResult):
    """An outcome of the same format as another search's."""


class Other(SearchKind[ProbeSettings]):
    """A search that only has a name."""

    name, field, settings, outcome = "other", "other", ProbeSettings, SearchResult

    def run(self, setup: SearchSetup, settings: ProbeSettings) -> Findings:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    yield
    if "other" in SEARCHES:
        SEARCHES.remove("other")


def test_ours_are_known() -> None:
    assert [*SEARCHES] == ["sedona", "probe", "slopes"]


def test_a_search_is_known_once_it_is_registered() -> None:
    register_search(Other())
    assert isinstance(SEARCHES["other"], Other)


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        ({"name": "probe"}, "search: must have a name that is not taken, but got 'probe'"),
        ({"field": "search"}, "search: must have a field that is not taken, but got 'search'"),
        ({"outcome": OtherResult}, "search: must have an outcome of another format .*/1'"),
    ],
)
def test_what_is_taken_is_refused(taken: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        register_search(type("Another", (Other,), taken)())
    assert [*SEARCHES] == ["sedona", "probe", "slopes"]


FOUND = {
    "backbone": "vgg11",
    "dataset": "digits",
    "aux_choices": ["conv1"],
    "losses": [[1.0]] * 7,
    "undivided": 0.5,
}


def test_an_outcome_is_read_by_its_format() -> None:
    found = parse_result({**FOUND, "format": "sedona-nni/probe-result/1"})
    assert isinstance(found, ProbeResult)
    assert parse_result(found) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FOUND, "format must be one of sedona-nni/search-result/1, .*, but got None"),
        ({**FOUND, "format": "x"}, "format must be one of .* but got 'x'"),
        ({**FOUND, "format": ["x"]}, "format must be one of .* but got \\['x'\\]"),
        ({"format": "sedona-nni/probe-result/1"}, "undivided\n  Field required"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_what_is_no_outcome_is_refused(content: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_result(content)
