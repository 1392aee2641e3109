"""`decouplings.choice`: cases by hand, the published results.

Against all decouplings of small random instances: tests/decouplings/test_choice_exhaustively.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sedona_nni.decouplings.bounds import BlockBound
from sedona_nni.decouplings.choice import discretise, evidence, pareto_front
from sedona_nni.decouplings.compute import Compute, compute_in_macs
from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.errors import InputError
from sedona_nni.models import build_backbone
from sedona_nni.searches.sedona.result import SearchResult

ROOT = Path(__file__).parents[2]


BY_HAND = Compute(
    backbone="mine",
    unit="macs",
    layers=[4, 2, 2, 2],
    auxiliary=[{"a": 0, "b": 3}, {"a": 1, "b": 1}, {"a": 0, "b": 9}],
)


def result(*differences: float, **changes: Any) -> SearchResult:
    return SearchResult(
        backbone="mine",
        dataset="digits",
        aux_choices=["a", "b"],
        alpha=[(difference, 0.0) for difference in differences],
        beta=changes.get("beta", [[1.0, 0.0]] * 3),
        provenance={"strategy": "sedona"},
    )


def test_by_hand() -> None:
    """Blocks with `a`, of 10: cut at 0: 4|6; at 1: 7|4; at 2: 8|2; at 0, 1: 4|3|4; 0, 2: 4|4|2."""
    found = result(0.1, 0.2, 0.3)
    assert discretise(found, 2).cuts == [2]
    for bound, cuts in [("0.8", [2]), ("0.79", [1]), ("0.7", [1]), ("0.69", [0]), ("1.2/K", [0])]:
        chosen = discretise(found, 2, BlockBound(BY_HAND, bound))
        assert (chosen.cuts, chosen.aux) == (cuts, ["a"])
    assert discretise(found, 3, BlockBound(BY_HAND, "1.2/K")).cuts == [0, 2]
    assert discretise(found, 3, BlockBound(BY_HAND, "0.7")).cuts == [1, 2]
    assert chosen.provenance == {
        "strategy": "sedona",
        "num_blocks": 2,
        "max_block_share": "1.2/K",
        "compute": "macs",
    }


def test_the_auxiliary_network_stays_the_preferred_one() -> None:
    """`b` at boundary 0 makes its block 7, at boundary 2 17: these cuts are not possible then."""
    found = result(0.1, 0.2, 0.3, beta=[[0.0, 1.0]] * 3)
    chosen = discretise(found, 2, BlockBound(BY_HAND, "0.7"))
    assert (chosen.cuts, chosen.aux) == ([1], ["b"])
    with pytest.raises(InputError) as caught:
        discretise(found, 2, BlockBound(BY_HAND, "0.6"))
    assert str(caught.value) == (
        "max_block_share: must be at least 0.7 for 2 blocks of mine, but got '0.6'"
    )
    with pytest.raises(InputError, match=r"at least 2\.1/K for 3 blocks of mine, but got '1/K'"):
        discretise(found, 3, BlockBound(BY_HAND, "1/K"))


def test_measured_computes_travel_with_what_was_derived() -> None:
    measured = BY_HAND.model_copy(update={"unit": "ns"})
    chosen = discretise(result(0.1, 0.2, 0.3), 2, BlockBound(measured, "0.7"))
    assert Compute.model_validate(chosen.provenance["compute"]) == measured
    point = pareto_front(result(0.1, 0.2, 0.3), 2, measured)[0]
    assert Compute.model_validate(point.decoupling.provenance["compute"]) == measured


def test_the_front_by_hand() -> None:
    front = pareto_front(result(0.1, 0.2, 0.3), 2, BY_HAND)
    assert [point.decoupling.cuts for point in front] == [[2], [1], [0]]
    assert [point.evidence for point in front] == pytest.approx([0.3, 0.2, 0.1])
    assert [point.ideal_speedup for point in front] == pytest.approx([10 / 8, 10 / 7, 10 / 6])
    assert len(pareto_front(result(0.3, 0.2, 0.1), 2, BY_HAND)) == 1  # best in both
    assert [p.decoupling.cuts for p in pareto_front(result(0, 0, 0), 2, BY_HAND)] == [[0]]


def test_a_given_decoupling_has_to_respect_the_bound() -> None:
    bound = BlockBound(BY_HAND, "0.7")
    given = Decoupling(backbone="mine", cuts=[2], aux=["a"])
    with pytest.raises(InputError) as caught:
        bound.require(given, "decoupling")
    assert str(caught.value) == (
        "decoupling: must respect max_block_share 0.7, but the largest block of "
        "'cut after layer 2 (a)' has 0.8000"
    )
    bound.require(Decoupling(backbone="mine", cuts=[1], aux=["a"]), "decoupling")


PUBLISHED = ("vgg19", "resnet50", "resnet101", "resnet152")


def published(name: str) -> tuple[SearchResult, Compute]:
    found = SearchResult.load(ROOT / "experiments" / "published" / f"{name}.json")
    with torch.device("meta"):
        backbone = build_backbone(name, num_classes=10)
    return found, compute_in_macs(backbone, found.aux_choices)


@pytest.mark.slow(reason="the published results, for many K")
def test_the_published_results_with_and_without_a_bound() -> None:
    """The table of docs/method.md."""
    lines = []
    for name in PUBLISHED:
        found, compute = published(name)
        for bound in (None, BlockBound(compute, "1.3/K")):
            chosen = discretise(found, 4, bound)
            share = compute.largest_share(chosen)
            places = zip(chosen.cuts, chosen.aux, strict=True)
            cuts = ", ".join(f"{cut}:{aux.removeprefix('conv')}" for cut, aux in places)
            lines.append(
                f"| {name} | {'1.3/K' if bound else 'none'} | {cuts} | "
                f"{evidence(found, chosen):.2f} | {share:.1%} | {1 / share:.2f} |"
            )
            if bound is not None:
                assert share <= 1.3 / 4
                assert evidence(found, chosen) <= evidence(found, discretise(found, 4))
    text = (ROOT / "docs" / "method.md").read_text()
    assert re.findall(r"^\| \w+ \| (?:none|1\.3/K) \|.*\|$", text, re.MULTILINE) == lines
