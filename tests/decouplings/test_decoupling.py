"""Decouplings and search results: published values, ties, rules, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sedona_nni.decouplings.choice import discretise
from sedona_nni.decouplings.decoupling import Decoupling, check_num_blocks, uniform_cuts
from sedona_nni.errors import InputError
from sedona_nni.models import num_layers
from sedona_nni.searches.documents import load_decoupling, load_document
from sedona_nni.searches.sedona.result import SearchResult

PUBLISHED = Path(__file__).parents[2] / "experiments" / "published"


def result(alpha: list[tuple[float, float]], **fields: Any) -> SearchResult:
    """A result with two auxiliary choices; the first is preferred everywhere."""
    beta = [[1.0, 0.0] for _ in alpha]
    defaults = {
        "backbone": "mine",
        "dataset": "digits",
        "aux_choices": ["conv1", "conv2"],
        "alpha": alpha,
        "beta": beta,
    }
    return SearchResult(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("layers", "blocks", "cuts"),
    [
        (16, 2, [7]),
        (16, 3, [4, 9]),
        (16, 4, [3, 7, 11]),
        (16, 5, [2, 5, 8, 11]),
        (16, 6, [1, 4, 7, 9, 12]),
        (16, 7, [1, 3, 5, 8, 10, 12]),
        (16, 8, [1, 3, 5, 7, 9, 11, 13]),
        (33, 2, [15]),
        (33, 3, [10, 21]),
        (33, 4, [7, 15, 23]),
        (33, 5, [5, 12, 18, 25]),
        (33, 8, [3, 7, 11, 15, 19, 23, 27]),
        (50, 2, [24]),
        (50, 3, [15, 32]),
        (50, 4, [11, 24, 36]),
        (50, 5, [9, 19, 29, 39]),
        (50, 8, [5, 11, 17, 24, 30, 36, 42]),
        (8, 2, [3]),
        (8, 4, [1, 3, 5]),
        (10, 4, [1, 4, 6]),
        (13, 4, [2, 5, 8]),
        (16, 1, []),
        (1, 1, []),
    ],
)
def test_uniform_cuts(layers: int, blocks: int, cuts: list[int]) -> None:
    assert uniform_cuts(layers, blocks) == cuts


@pytest.mark.parametrize("layers", range(1, 51))
def test_uniform_cuts_are_boundaries(layers: int) -> None:
    for blocks in range(1, layers + 1):
        cuts = uniform_cuts(layers, blocks)
        decoupling = Decoupling(backbone="mine", cuts=cuts, aux=["conv1"] * len(cuts))
        assert decoupling.num_blocks == len(decoupling.blocks(layers)) == blocks


@pytest.mark.parametrize("blocks", [0, -1, 9])
def test_number_of_blocks_out_of_range(blocks: int) -> None:
    message = f"num_blocks: must be from 1 to the number of layers, 8, but got {blocks}"
    for call in (check_num_blocks, lambda k, n: uniform_cuts(n, k)):
        with pytest.raises(InputError) as caught:
            call(blocks, 8)
        assert str(caught.value) == message
    if blocks:  # a search result can decide on the number itself
        with pytest.raises(InputError, match=f"8, but got {blocks}"):
            discretise(result([(0.0, 0.0)] * 7), blocks)


# Published decouplings: "cut:depth" that K = 2, 3, ... 8 adds in turn, and the cuts of the
# threshold rule
ADDED = {
    "vgg19": ["5:4", "12:1", "13:1", "14:1", "11:1", "10:2", "7:1"],
    "resnet50": ["9:4", "11:4", "10:4", "12:4", "14:4", "13:1", "8:1"],
    "resnet101": ["6:4", "10:4", "11:4", "21:4", "24:4", "26:4", "27:4"],
    "resnet152": ["10:4", "12:4", "16:4", "18:3", "21:2", "22:4", "24:2"],
}
THRESHOLD = {
    "vgg19": [5, *range(10, 15)],
    "resnet50": [9, 10, 11, 12, 14],
    "resnet101": [6, 10, 11, 18, 21, 24, 26, 27, 28],
    "resnet152": [10, 12, 16, 18, 21, 22, 24, 25, 27, 28, 31, 32, 34, 38, 42, 47, 48],
}


class TestPublished:
    def test_the_files_are_these(self) -> None:
        assert {path.stem for path in PUBLISHED.glob("*.json")} == set(ADDED)

    @pytest.mark.parametrize("name", list(ADDED))
    def test_decouplings(self, name: str) -> None:
        published = SearchResult.load(PUBLISHED / f"{name}.json")
        assert (published.backbone, published.dataset) == (name, "cifar10")
        assert published.num_layers == num_layers(name)
        for blocks in range(1, 9):
            pairs = sorted(
                (int(cut), f"conv{depth}")
                for cut, depth in (added.split(":") for added in ADDED[name][: blocks - 1])
            )
            decoupling = discretise(published, blocks)
            assert decoupling.backbone == name
            assert list(zip(decoupling.cuts, decoupling.aux, strict=True)) == pairs
            assert decoupling.num_blocks == blocks
            assert decoupling.provenance == {**published.provenance, "num_blocks": blocks}
            assert "ICLR 2021" in decoupling.provenance["source"]

    @pytest.mark.fast_cases(2)
    @pytest.mark.parametrize("name", list(ADDED))
    def test_threshold_rule(self, name: str) -> None:
        decoupling = discretise(SearchResult.load(PUBLISHED / f"{name}.json"), 0)
        assert decoupling.cuts == THRESHOLD[name]

    @pytest.mark.fast_cases(1)
    @pytest.mark.parametrize(
        ("name", "tied", "first"), [("resnet101", [18, 28], 18), ("resnet152", [27, 28], 28)]
    )
    def test_float32_ties_are_decided_by_the_logits(
        self, name: str, tied: list[int], first: int
    ) -> None:
        published = SearchResult.load(PUBLISHED / f"{name}.json")
        rounded = published.a_loc().astype(np.float32)
        assert rounded[tied[0]] == rounded[tied[1]]
        every_cut = [set(discretise(published, blocks).cuts) for blocks in range(1, 15)]
        assert next(cuts for cuts in every_cut if cuts & set(tied)) & set(tied) == {first}

    @pytest.mark.fast_cases(2)
    @pytest.mark.parametrize(
        ("name", "tied", "undecided"),
        [
            ("vgg19", 0, []),
            ("resnet50", 0, []),
            ("resnet101", 2, [9]),
            ("resnet152", 21, [10, *range(12, 30)]),
        ],
    )
    def test_float32_ties(self, name: str, tied: int, undecided: list[int]) -> None:
        """How many boundaries share their float32 softmax, and for which K it names no K-1 cuts."""
        published = SearchResult.load(PUBLISHED / f"{name}.json")
        a_loc = torch.tensor(published.alpha, dtype=torch.float32).softmax(1)[:, 0].tolist()
        assert sum(a_loc.count(each) > 1 for each in a_loc) == tied
        falling = sorted(a_loc, reverse=True)
        counts = range(2, published.num_layers)
        assert [k for k in counts if falling[k - 2] == falling[k - 1]] == undecided
        for k in set(counts) - set(undecided):
            least = falling[k - 2]
            assert discretise(published, k).cuts == [i for i, a in enumerate(a_loc) if a >= least]

    @pytest.mark.parametrize(
        ("name", "undecided"),
        [("vgg19", 1), ("resnet50", 1), ("resnet101", 18), ("resnet152", 34)],
    )
    def test_undecided_boundaries(self, name: str, undecided: int) -> None:
        published = SearchResult.load(PUBLISHED / f"{name}.json")
        assert published.undecided_share * (published.num_layers - 1) == pytest.approx(undecided)

    def test_the_end_of_vgg19_is_hardly_decided(self) -> None:
        a_loc = SearchResult.load(PUBLISHED / "vgg19.json").a_loc()
        hardly = [i for i, local in enumerate(a_loc) if abs(local - 0.5) < 0.07]
        assert hardly == [10, 11, 12, 13, 14]


class TestDiscretisation:
    def test_cuts_where_the_local_loss_weighs_most(self) -> None:
        """Differences of the logits: -2, 3, 0, 1."""
        relaxed = result([(0, 2), (1, -2), (5, 5), (1, 0)])
        assert discretise(relaxed, 1).cuts == []
        assert discretise(relaxed, 2).cuts == [1]
        assert discretise(relaxed, 3).cuts == [1, 3]
        assert discretise(relaxed, 4).cuts == [1, 2, 3]
        assert discretise(relaxed, 5).cuts == [0, 1, 2, 3]
        assert discretise(relaxed, 0).cuts == [1, 3]

    def test_a_loc_is_the_softmax(self) -> None:
        assert result([(0, 0), (np.log(3), 0), (-5000, 5000)]).a_loc() == pytest.approx(
            [0.5, 0.75, 0]
        )

    def test_the_auxiliary_network_with_the_largest_beta(self) -> None:
        relaxed = result([(0, 0)] * 3, beta=[[0, 1], [1, 0], [-1, -0.5]])
        assert discretise(relaxed, 4).aux == ["conv2", "conv1", "conv2"]

    def test_ties_go_to_the_lower_boundary_and_the_earlier_choice(self) -> None:
        relaxed = result([(0, 0), (1, 1), (-2, -2), (0, 0)], beta=[[3, 3]] * 4)
        assert discretise(relaxed, 3).cuts == [0, 1]
        assert discretise(relaxed, 3).aux == ["conv1", "conv1"]
        assert discretise(relaxed, 0).cuts == []
        every_other = result([(0, 0), (1, 0)] * 25)
        assert discretise(every_other, 6).cuts == [1, 3, 5, 7, 9]

    def test_differences_too_small_for_a_softmax_count(self) -> None:
        relaxed = result([(0, 0), (1e-13, 0), (9, -9), (8, -8 - 1e-9)])
        assert discretise(relaxed, 2).cuts == [2]
        assert discretise(relaxed, 4).cuts == [1, 2, 3]


class TestDecoupling:
    def test_blocks(self) -> None:
        decoupling = Decoupling(backbone="vgg11", cuts=[0, 4], aux=["cnn", "mlp"])
        assert decoupling.num_blocks == 3
        assert decoupling.blocks(8) == [range(1), range(1, 5), range(5, 8)]
        assert Decoupling(backbone="vgg11").blocks(8) == [range(8)]

    def test_a_cut_behind_the_last_boundary(self) -> None:
        decoupling = Decoupling(backbone="vgg11", cuts=[1, 7], aux=["cnn", "mlp"])
        with pytest.raises(InputError) as caught:
            decoupling.blocks(8)
        assert str(caught.value) == ("cuts: must be boundaries of vgg11, 0 to 6, but got [1, 7]")

    def test_equal_when_they_train_the_same_network(self) -> None:
        one = Decoupling(backbone="a", cuts=[1], aux=["cnn"], provenance={"seed": 1})
        assert one == Decoupling(backbone="a", cuts=[1], aux=["cnn"])
        assert len({one, one.model_copy(update={"provenance": {}})}) == 1
        others = [
            Decoupling(backbone="b", cuts=[1], aux=["cnn"]),
            Decoupling(backbone="a", cuts=[2], aux=["cnn"]),
            Decoupling(backbone="a", cuts=[1], aux=["mlp"]),
            Decoupling(backbone="a"),
        ]
        assert all(one != other and one.key != other.key for other in others)
        assert one != "a 1:cnn"

    @pytest.mark.parametrize(
        ("cuts", "words"),
        [
            ([], "no cut: back-propagation"),
            ([4], "cut after layer 4 (cnn)"),
            ([4, 6], "cut after layer 4 (cnn) and 6 (cnn)"),
            ([1, 4, 6], "cut after layer 1 (cnn), 4 (cnn) and 6 (cnn)"),
        ],
    )
    def test_in_words(self, cuts: list[int], words: str) -> None:
        decoupling = Decoupling(backbone="a", cuts=cuts, aux=["cnn"] * len(cuts))
        assert decoupling.in_words() == words


GOOD_DECOUPLING = {"backbone": "vgg11", "cuts": [1, 4], "aux": ["conv1", "cnn"]}
GOOD_RESULT = {
    "backbone": "mine",
    "dataset": "digits",
    "aux_choices": ["conv1", "cnn"],
    "alpha": [[0.1, -0.1], [1e-17, 0.30000000000000004]],
    "beta": [[1.0, 2.0], [3.0, 4.0]],
}


class TestFiles:
    @pytest.mark.parametrize(
        ("kind", "good"), [(Decoupling, GOOD_DECOUPLING), (SearchResult, GOOD_RESULT)]
    )
    def test_saved_and_loaded_is_the_same(
        self,
        kind: type[Decoupling] | type[SearchResult],
        good: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        document = kind(**good, provenance={"seed": 3})
        path = tmp_path / "new" / "file.json"
        document.save(path)
        assert kind.load(path).model_dump() == document.model_dump()
        stored = json.loads(path.read_text())
        unsaid = {"perturbed": None} if kind is SearchResult else {}
        expected = {**good, **unsaid, "format": document.format, "provenance": {"seed": 3}}
        assert stored == expected
        assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"cuts": [4, 1]}, ": cuts must be strictly increasing boundaries from 0, .*4, 1"),
            ({"cuts": [4, 4]}, ": cuts must be strictly increasing"),
            ({"cuts": [-1, 4]}, ": cuts must be strictly increasing boundaries from 0, .*-1, 4"),
            ({"cuts": [4]}, r": aux must name one auxiliary network per cut \(1 cuts\)"),
            ({"cuts": ["x", 4]}, ".cuts.0: .*valid integer.*, but got 'x'"),
            ({"cut": [4]}, ".cut: unknown field, please check its spelling"),
            ({"format": "sedona-nni/decoupling/2"}, ".format: .*sedona-nni/decoupling/1"),
        ],
    )
    def test_decouplings_that_break_a_rule(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "d.json"
        path.write_text(json.dumps({**GOOD_DECOUPLING, **change}))
        with pytest.raises(InputError, match=f"d.json{message}") as caught:
            Decoupling.load(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"alpha": [[0, 0]]}, ": alpha and beta must have one row per boundary, .*1 and 2"),
            ({"beta": [[1, 2], [1]]}, ": beta rows must have 2 entries"),
            ({"beta": [[1, 2, 3], [1, 2, 3]]}, r": beta rows must have 2 entries, .*\[3\]"),
            ({"alpha": [[0, float("nan")], [0, 0]]}, ": alpha and beta must be finite"),
            ({"beta": [[0, float("inf")], [0, 0]]}, ": alpha and beta must be finite"),
            ({"alpha": [[0, 0, 0], [0, 0]]}, ".alpha.0"),
            ({"aux_choices": [], "beta": [[], []]}, ".aux_choices"),
            ({"backbone": None}, ".backbone: .*valid string"),
        ],
    )
    def test_search_results_that_break_a_rule(
        self, change: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps({**GOOD_RESULT, **change}))
        with pytest.raises(InputError, match=f"r.json{message}") as caught:
            SearchResult.load(path)
        assert "\n" not in str(caught.value)

    def test_missing_field(self, tmp_path: Path) -> None:
        path = tmp_path / "r.json"
        path.write_text(json.dumps({k: v for k, v in GOOD_RESULT.items() if k != "dataset"}))
        with pytest.raises(InputError, match=r"r.json.dataset: this field is required$"):
            SearchResult.load(path)

    def test_not_a_readable_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"d.json: cannot be read \(No such file"):
            Decoupling.load(tmp_path / "d.json")
        (tmp_path / "d.json").write_text("{")
        with pytest.raises(InputError, match=r"d.json: is not valid JSON"):
            Decoupling.load(tmp_path / "d.json")

    def test_a_decoupling_may_come_from_a_search_result(self, tmp_path: Path) -> None:
        plain, searched = tmp_path / "d.json", tmp_path / "r.json"
        Decoupling(**GOOD_DECOUPLING).save(plain)
        SearchResult(**GOOD_RESULT).save(searched)
        assert load_document(plain) == load_decoupling(plain) == Decoupling(**GOOD_DECOUPLING)
        assert load_document(searched) == SearchResult(**GOOD_RESULT)
        assert load_decoupling(searched, 2).cuts == load_decoupling(searched, 0).cuts == [0]
        assert load_decoupling(searched, 3).aux == ["cnn", "cnn"]
        with pytest.raises(InputError, match=r"num_blocks: must be given, as .*r\.json is"):
            load_decoupling(searched)
        with pytest.raises(InputError, match=r"num_blocks: must not be given, .*d\.json.* got 3"):
            load_decoupling(plain, 3)
        plain.write_text("[]")
        with pytest.raises(InputError, match=r"d\.json"):
            load_document(plain)

    def test_documents_do_not_change(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            Decoupling(**GOOD_DECOUPLING).cuts = [2]  # type: ignore[arg-type,misc]
